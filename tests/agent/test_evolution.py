"""Evolution finds what is good, goes on to the same candidates, and plays every rollout once."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.controller import ControllerConfig
from agent.evolution import Evolution, EvolutionConfig, Rollout, roll_out
from agent.worlds import LatentWorld, Stepped
from dynamics.actions import ActionSpace

CONFIG = EvolutionConfig(population=8, sigma=0.5, seed=3)


def sphere(candidates: NDArray[np.float64]) -> NDArray[np.float64]:
    return -np.square(candidates - 1.0).sum(axis=1)


def test_it_climbs() -> None:
    evolution = Evolution(5, CONFIG)
    first = sphere(evolution.candidates).mean()
    for _ in range(80):
        evolution.tell(sphere(evolution.candidates))
    assert sphere(evolution.mean[None])[0] > -1e-3 > first


def test_it_goes_on_to_the_same_candidates() -> None:
    straight = Evolution(5, CONFIG)
    for _ in range(6):
        straight.tell(sphere(straight.candidates))
    np.random.seed(99)  # it draws from a generator of its own
    again = Evolution.replay(5, CONFIG, straight.fitness)
    assert np.array_equal(again.candidates, straight.candidates) and again.sigma == straight.sigma
    assert again.fingerprint() == straight.fingerprint() != Evolution(5, CONFIG).fingerprint()
    for evolution in (straight, again):
        evolution.tell(sphere(evolution.candidates))
    assert np.array_equal(again.mean, straight.mean)


def test_the_seed_is_the_first_generation() -> None:
    ours, others = Evolution(5, CONFIG), Evolution(5, EvolutionConfig(population=8, sigma=0.5, seed=4))
    assert np.array_equal(ours.candidates, Evolution(5, CONFIG).candidates)
    assert not np.array_equal(ours.candidates, others.candidates)
    assert ours.candidates.std() == pytest.approx(0.5, rel=0.3)


@pytest.mark.parametrize("fitness", [np.zeros(7), np.array([0.0] * 7 + [np.nan])])
def test_a_fitness_that_is_missing_or_not_finite_is_refused(fitness: NDArray[np.float64]) -> None:
    evolution = Evolution(5, CONFIG)
    with pytest.raises(ValueError, match="of 8 candidates"):
        evolution.tell(fitness)
    assert evolution.generation == 0


class Counting(LatentWorld):
    """An episode lasts 2 + seed % 3 steps; a step earns the action, and `idle` from step `tired` on."""

    def __init__(self, num_envs: int, tired: int = 99, endless: bool = False, idle: float = 0.0) -> None:
        super().__init__(num_envs, 1, ActionSpace(continuous=("x",)))
        self.left, self.tired, self.endless, self.idle = np.zeros(num_envs, np.int64), tired, endless, idle
        self.taken = np.zeros(num_envs, np.int64)
        self.begun: list[int] = []
        self.stepped = 0

    def _begin(self, places: list[int], seeds: list[int]) -> NDArray[np.float32]:
        self.begun += seeds
        self.left[places] = [2 + seed % 3 for seed in seeds]
        self.taken[places] = 0
        return np.ones((len(places), 1), np.float32)

    def step(self, actions: NDArray[np.float32]) -> Stepped:
        going = ~self.finished
        self.stepped += int(going.sum())
        self.left -= going
        self.taken += going
        rewards = np.where(self.taken < self.tired, actions[:, 0], self.idle) * going
        if not self.endless:
            self._terminated |= going & (self.left <= 0)
        nothing: dict[str, Any] = {}
        return (
            np.ones((self.num_envs, 1), np.float32),
            rewards,
            self._terminated.copy(),
            self._truncated.copy(),
            nothing,
        )


C = ControllerConfig(latent_dim=1, state_dim=0, inputs="z", bias=False, actions=ActionSpace(continuous=("x",)))
VECTORS = np.array([[0.5], [1.0]])


@pytest.mark.parametrize("num_envs", [1, 2, 3, 20])
def test_every_rollout_is_played_once_by_its_own_candidate(num_envs: int) -> None:
    rollouts = [Rollout(candidate, seed) for candidate in (0, 1) for seed in (0, 1, 2, 5)]
    world = Counting(num_envs)
    found = roll_out(world, C, VECTORS, rollouts)
    lengths = [2 + rollout.seed % 3 for rollout in rollouts]
    assert found.lengths.tolist() == lengths and world.stepped == sum(lengths)
    earned = [np.tanh(VECTORS[r.candidate, 0]) * steps for r, steps in zip(rollouts, lengths, strict=True)]
    np.testing.assert_allclose(found.returns, earned, rtol=1e-6)


def test_a_rollout_is_cut_at_the_limit() -> None:
    found = roll_out(Counting(2, endless=True), C, VECTORS, [Rollout(0, s) for s in range(5)], max_steps=7)
    assert found.lengths.tolist() == [7] * 5


def test_a_hopeless_rollout_is_given_up_and_the_next_gets_its_place() -> None:
    world = Counting(2, tired=4, endless=True)
    found = roll_out(world, C, VECTORS, [Rollout(0, s) for s in range(5)], max_steps=50, patience=6)
    assert found.lengths.tolist() == [3 + 6] * 5
    np.testing.assert_allclose(found.returns, 3 * np.tanh(0.5), rtol=1e-6)


def test_what_a_hopeless_rollout_still_had_counts_as_it_earned_of_late() -> None:
    """Else a car that leaves the road early would lose less than one that goes on slowly."""
    world = Counting(1, tired=4, endless=True, idle=-0.5)
    found = roll_out(world, C, VECTORS, [Rollout(0, 0)] * 2, max_steps=50, patience=6)
    assert found.lengths.tolist() == [9, 9]
    np.testing.assert_allclose(found.returns, 3 * np.tanh(0.5) - 0.5 * 47, rtol=1e-6)
    with pytest.raises(ValueError, match="patience=6 needs max_steps"):
        roll_out(world, C, VECTORS, [Rollout(0, 0)], patience=6)


def test_progress_is_told_in_steps() -> None:
    said: list[int] = []
    found = roll_out(Counting(2), C, VECTORS, [Rollout(0, s) for s in range(5)], progress=said.append)
    assert sum(said) == found.lengths.sum()


@pytest.mark.parametrize("wrong", [{"population": 3}, {"sigma": 0.0}])
def test_senseless_configs_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        EvolutionConfig(**wrong)
