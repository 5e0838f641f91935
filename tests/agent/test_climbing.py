"""Episodes on a ladder: what the agent is told, when they end, and what becomes of games that break."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.climbing import NoGameStarts, evaluate_ladder
from agent.envs.base import FAILURE, Arrival
from agent.envs.vector import VectorEnv
from agent.ladder import Ladder, Rung
from agent.milestones import Ascent
from dynamics.actions import ActionSpace

SPACE = ActionSpace(binary=("dig", "build"))
LADDER = Ladder(
    rungs=(Rung("dig", 2), Rung("build", 1), Rung("dig", None)), milestones={"hole": "dig", "house": "build"}
)
NUMBERS = {"dig": 7, "build": 3}
Happens = dict[int, dict[int, str]]
"""Seed -> step -> "death", or a reason why the game breaks; at step 0 it does not start."""


class Games(VectorEnv):
    """Games whose tasks happen when their key is pressed."""

    def __init__(
        self, count: int, happens: Happens | None = None, *, breaks_once: bool = False, amounts: int = 0
    ) -> None:
        self.num_envs, self.happens, self.breaks_once, self.amounts = count, happens or {}, breaks_once, amounts
        self.task_names, self.fps = ("dig", "build"), 20.0
        self.begun: list[int] = []
        self.last: list[Arrival | None] = [None] * count

    def reset_some(self, seeds: dict[int, int]) -> list[Arrival]:
        for place, seed in seeds.items():
            self.seeds = {**getattr(self, "seeds", {}), place: seed}
            self.steps = {**getattr(self, "steps", {}), place: 0}
            self.begun.append(seed)
            first = Arrival.first(SPACE, np.zeros((3, 2, 2), np.uint8), {}, num_tasks=2)
            self.last[place] = self.broken(place, first)
        return [self.arrival(place) for place in seeds]

    def step(self, rows: NDArray[Any]) -> list[Arrival]:
        for place, row in enumerate(rows):
            if not self.arrival(place).is_last:
                self.last[place] = self.moved(place, row)
        return [self.arrival(place) for place in range(self.num_envs)]

    def stop(self, indices: Sequence[int]) -> None:
        for place in indices:
            self.last[place] = replace(self.arrival(place), is_last=True)

    def arrival(self, place: int) -> Arrival:
        arrival = self.last[place]
        assert arrival is not None
        return arrival

    def moved(self, place: int, row: NDArray[Any]) -> Arrival:
        self.steps[place] += 1
        paid = tuple(float(value) for value in row)
        info = {"events": {name: self.amounts for name, p in zip(self.task_names, paid, strict=True) if p}}
        death = self.happens.get(self.seeds[place], {}).get(self.steps[place]) == "death"
        arrival = Arrival.after(
            row.astype(np.float32),
            np.zeros((3, 2, 2), np.uint8),
            paid[0],
            info if self.amounts else {},
            terminated=death,
            truncated=False,
            task_rewards=paid,
        )
        return self.broken(place, arrival)

    def broken(self, place: int, arrival: Arrival) -> Arrival:
        why = self.happens.get(self.seeds[place], {}).get(self.steps[place], "death")
        again = self.breaks_once and self.begun.count(self.seeds[place]) > 1
        return arrival if why == "death" or again else replace(arrival, is_last=True, info={FAILURE: why})


class Obedient:
    """Does what it is told."""

    def __init__(self) -> None:
        self.heard: list[list[int]] = []

    def reset(self, seed: int) -> None:
        self.tasks: Sequence[int] = ()

    def tell(self, tasks: Sequence[int]) -> None:
        self.tasks = tasks
        self.heard.append(list(tasks))

    def act(self, arrivals: Sequence[Arrival]) -> NDArray[np.float32]:
        assert len(self.tasks) == len(arrivals)
        return np.array([[task == 7, task == 3] for task in self.tasks], np.float32)


@dataclass
class Diary:
    stop_after: int = 10**9
    seen: list[tuple[int, bool]] = field(default_factory=list)
    ascents: list[Ascent] = field(default_factory=list)

    def see(self, seed: int, arrival: Arrival) -> None:
        self.seen.append((seed, arrival.is_first))

    def end(self, ascent: Ascent) -> None:
        self.ascents.append(ascent)

    def stopped(self) -> bool:
        return len(self.seen) >= self.stop_after


def climb(games: Games, seeds: Sequence[int], diary: Diary | None = None, **more: int) -> tuple[Diary, Obedient]:
    diary, agent = diary or Diary(), Obedient()
    options = {"max_steps": 5, **more}
    evaluate_ladder(agent, games, LADDER, seeds, diary, numbers=NUMBERS, **options)
    return diary, agent


@pytest.mark.parametrize("amounts", [0, 1])
def test_the_agent_is_told_the_next_task_as_soon_as_one_is_done(amounts: int) -> None:
    """Events are told by the environment, or are its tasks' rewards."""
    diary, agent = climb(Games(1, amounts=amounts), [4])
    assert agent.heard == [[7], [3], [7]]
    (ascent,) = diary.ascents
    assert ascent == Ascent(seed=4, steps=5, ended="time", attempts=1, rung=2, reached={"hole": 1, "house": 3})
    assert diary.seen == [(4, True)] + [(4, False)] * 5


def test_an_event_of_several_items_counts_as_many() -> None:
    _, agent = climb(Games(1, amounts=2), [4])
    assert agent.heard == [[7], [3], [7]]
    diary, _ = climb(Games(1, amounts=2), [4], max_steps=2)
    assert diary.ascents[0].reached == {"hole": 1, "house": 2}


def test_each_climbs_at_its_own_pace_and_ends_on_its_own() -> None:
    diary, agent = climb(Games(2, {1: {2: "death"}}), [0, 1, 2])
    by_seed = {ascent.seed: ascent for ascent in diary.ascents}
    assert [ascent.seed for ascent in diary.ascents] == [1, 0, 2], "each is told of when it is over"
    assert by_seed[1].ended == "death" and by_seed[1].steps == 2 and by_seed[1].reached == {"hole": 1}
    assert by_seed[0].ended == by_seed[2].ended == "time" and by_seed[2].reached == {"hole": 1, "house": 3}
    assert all(len(tasks) == 2 for tasks in agent.heard)


@pytest.mark.parametrize("step", [0, 3])
def test_an_episode_whose_game_breaks_is_played_anew_from_its_seed(step: int) -> None:
    diary, _ = climb(games := Games(2, {1: {step: "it hung"}}, breaks_once=True), [0, 1])
    assert games.begun == [0, 1, 1]
    again = next(ascent for ascent in diary.ascents if ascent.seed == 1)
    assert again.attempts == 2 and again.ended == "time" and again.reached == {"hole": 1, "house": 3}
    assert len(diary.ascents) == 2


def test_one_whose_game_always_breaks_counts_as_failed_with_the_reason() -> None:
    diary, _ = climb(games := Games(2, {1: {3: "it hung"}}), [0, 1, 2, 3], attempts=2)
    assert games.begun == [0, 1, 2, 3, 1]
    failed = next(ascent for ascent in diary.ascents if ascent.seed == 1)
    assert (failed.ended, failed.attempts, failed.reason, failed.steps) == ("failed", 2, "it hung", 3)
    assert sorted(ascent.seed for ascent in diary.ascents) == [0, 1, 2, 3]


@pytest.mark.parametrize(("num_envs", "begun"), [(2, [0, 1, 2, 3]), (1, [0, 1, 2])])
def test_where_no_game_starts_at_all_nothing_counts_and_nothing_more_is_tried(num_envs: int, begun: list[int]) -> None:
    games = Games(num_envs, {seed: {0: "no display"} for seed in range(6)})
    with pytest.raises(NoGameStarts, match="no game starts: no display"):
        climb(games, range(6), diary := Diary(), attempts=1)
    assert games.begun == begun and not diary.ascents
    with pytest.raises(NoGameStarts):
        climb(Games(1, {0: {0: "no display"}}), [0], attempts=1)


def test_where_games_stop_starting_what_was_not_played_does_not_count() -> None:
    games = Games(2, {seed: {0: "the disk is full"} for seed in range(2, 12)})
    with pytest.raises(NoGameStarts, match="no game starts any more: the disk is full"):
        climb(games, range(12), diary := Diary(), attempts=1)
    assert [ascent.seed for ascent in diary.ascents] == [0, 1] and games.begun == [0, 1, 2, 3, 4, 5]


def test_who_is_stopped_before_any_game_started_counts_none() -> None:
    diary, _ = climb(games := Games(1, {0: {0: "no display"}}), [0, 1], Diary(stop_after=2), attempts=1)
    assert games.begun == [0, 1] and not diary.ascents


@pytest.mark.parametrize("num_envs", [1, 2])
def test_a_world_that_never_starts_fails_alone(num_envs: int) -> None:
    for bad in range(4):
        diary, _ = climb(games := Games(num_envs, {bad: {0: "a broken world"}}), range(4), attempts=2)
        assert games.begun == [0, 1, 2, 3, bad]
        assert sorted((ascent.seed, ascent.ended == "failed") for ascent in diary.ascents) == [
            (seed, seed == bad) for seed in range(4)
        ]


def test_worlds_that_never_start_fail_alone_where_others_were_played_before() -> None:
    games = Games(1, {seed: {0: "a broken world"} for seed in range(4)})
    diary, _ = climb(games, [0, 1], attempts=2, started=True)
    assert [(ascent.seed, ascent.ended) for ascent in diary.ascents] == [(0, "failed"), (1, "failed")]
    with pytest.raises(NoGameStarts, match="no game starts any more"):
        climb(games, range(4), attempts=2, started=True)


def test_who_is_stopped_gives_up_what_is_under_way() -> None:
    diary, _ = climb(Games(2), range(6), Diary(stop_after=15))
    assert [ascent.seed for ascent in diary.ascents] == [0, 1]


def test_too_few_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="1 seeds for 2 environments"):
        climb(Games(2), [0])
