"""Scores: what counts of an episode, and what may be said of many."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.acting import RandomPolicy
from agent.envs.base import Arrival
from agent.envs.vector import VectorEnv
from agent.scoring import difference, interval, play, summarise
from tests.builders import MIXED


class Countdown(VectorEnv):
    """Environment i ends after lengths[i] steps, and goes on to pay when it should no longer; frames hold the step."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths, self.rows = lengths, []  # type: ignore[var-annotated]

    def reset(self, seeds: Sequence[int]) -> list[Arrival]:
        self.now, self.seeds = 0, seeds
        return self._arrivals()

    def step(self, rows: NDArray[Any]) -> list[Arrival]:
        self.now += 1
        self.rows.append(rows)
        return self._arrivals()

    def _arrivals(self) -> list[Arrival]:
        return [
            Arrival(
                frame=np.full((3, 2, 2), self.now, np.uint8),
                action=np.zeros(MIXED.size, np.float32),
                labeled=self.now > 0,
                reward=10.0**i,
                continues=True,
                is_first=self.now == 0,
                is_last=self.now >= length,
            )
            for i, length in enumerate(self.lengths)
        ]


def test_rewards_are_summed_until_each_episode_ends() -> None:
    envs, heard = Countdown([2, 5, 1]), []
    episodes = play(RandomPolicy(MIXED), envs, [7, 8, 9], progress=lambda *now: heard.append(now))
    assert episodes.returns == [2.0, 50.0, 100.0]  # the reward of the first frame belongs to nobody
    assert episodes.lengths == [2, 5, 1] and envs.seeds == [7, 8, 9]
    assert episodes.first_frames[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert heard == [(1, 1), (2, 2), (3, 2), (4, 2), (5, 3)]


def test_the_first_seed_decides_the_policys_randomness() -> None:
    runs = [Countdown([4, 4]) for _ in range(3)]
    for envs, seed in zip(runs, (5, 5, 6), strict=True):
        play(RandomPolicy(MIXED), envs, [seed, 1])
    rows = [np.stack(envs.rows) for envs in runs]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert (rows[0] != rows[2]).any()


def test_a_summary_has_the_one_shape_of_results() -> None:
    found = summarise([1.0, 2.0, 3.0, 6.0])
    assert set(found) == {"mean", "std", "ci95", "tracks", "scores"}
    assert found["mean"] == 3 and found["std"] == pytest.approx((14 / 3) ** 0.5) and found["tracks"] == 4
    assert found["scores"] == [1, 2, 3, 6] and found["ci95"][0] < 3 < found["ci95"][1]
    assert found == summarise([1.0, 2.0, 3.0, 6.0])


def test_one_score_has_no_spread() -> None:
    assert summarise([5.0]) == {"mean": 5, "std": 0, "ci95": [5, 5], "tracks": 1, "scores": [5]}


def test_the_interval_of_many_scores_is_about_two_standard_errors() -> None:
    values = np.random.default_rng(1).normal(900, 20, 400)
    low, high = interval(values)
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_a_gain_is_paired_by_track() -> None:
    tracks = np.random.default_rng(1).normal(500, 200, 50)
    found = difference(list(tracks + 5), list(tracks))
    assert found["mean"] == pytest.approx(5) and found["ci95"] == pytest.approx([5, 5])
    with pytest.raises(ValueError, match="2 scores and 1"):
        difference([1.0, 2.0], [1.0])
