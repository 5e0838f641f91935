"""Ladders go up exactly when they should, and what a set of episodes says is right by hand."""

from dataclasses import replace

import pytest

from agent.envs.minecraft_events import COUNTERS, OBTAINED, TASKS, counter_name, events
from agent.ladder import CRAFTER_LADDER, MINECRAFT_LADDER, Climb, Ladder, Rung, increases
from agent.milestones import Ascent, table, wilson

SMALL = Ladder(
    rungs=(Rung("dig", 2), Rung("build", 1), Rung("dig", None)), milestones={"hole": "dig", "house": "build"}
)


def ascent(reached: dict[str, int], **more: object) -> Ascent:
    given = {"seed": 0, "steps": 100, "ended": "time", "attempts": 1, "rung": 0, "reached": reached}
    return Ascent(**{**given, **more})  # type: ignore[arg-type]


def test_a_ladder_goes_on_after_exactly_so_many_events() -> None:
    climb = Climb(SMALL)
    assert climb.task == "dig"
    assert not climb.see({"dig": 1}, 1) and climb.task == "dig"
    assert climb.see({"dig": 1}, 2) and climb.task == "build" and climb.rung == 1


def test_only_what_was_told_counts_but_milestones_are_of_everything() -> None:
    climb = Climb(SMALL)
    assert not climb.see({"build": 5}, 3)
    assert climb.task == "dig" and climb.reached == {"house": 3}
    climb.see({"dig": 1, "build": 1}, 4)
    assert climb.reached == {"house": 3, "hole": 4}, "the first time of each"


def test_what_a_step_brings_beyond_its_rung_was_not_asked_for() -> None:
    climb = Climb(SMALL)
    assert climb.see({"dig": 7, "build": 1}, 1)
    assert climb.task == "build" and not climb.counts


def test_where_all_counts_a_ladder_tells_what_was_not_done_yet() -> None:
    climb = Climb(replace(SMALL, counts_all=True))
    assert not climb.see({"build": 1}, 1) and climb.task == "dig"
    assert not climb.see({"dig": 1}, 2)
    assert not climb.see({"dig": 1}, 3), "digging it is again: the house was built before it was told"
    assert climb.rung == 2


def test_the_last_rung_stays() -> None:
    climb = Climb(Ladder(rungs=(Rung("dig", 1), Rung("dig", 1)), milestones={}))
    assert not climb.see({"dig": 1}, 1), "the same task again is no news for the agent"
    assert climb.rung == 1
    for step in range(5):
        assert not climb.see({"dig": 1}, step)
    assert climb.rung == 1


def test_a_ladder_that_could_never_be_climbed_is_refused() -> None:
    for rungs in ((), (Rung("dig", None), Rung("build", 1)), (Rung("dig", 0),)):
        with pytest.raises(ValueError, match="rung"):
            Ladder(rungs=rungs, milestones={})


def test_minecrafts_ladder_leads_to_a_diamond_through_tasks_that_exist() -> None:
    climb, told = Climb(MINECRAFT_LADDER), []
    for step, rung in enumerate(MINECRAFT_LADDER.rungs):
        told.append(climb.task)
        assert climb.task == rung.task
        for number in range(rung.times or 0):
            assert climb.rung == step
            climb.see({rung.task: 1}, number)
    assert len(told) == 25 and told[-1] == "mine_diamond" and climb.task == "mine_diamond"
    assert set(told) <= set(TASKS) and len(TASKS) == 20
    assert set(MINECRAFT_LADDER.milestones.values()) <= {*TASKS, *OBTAINED} and len(MINECRAFT_LADDER.milestones) == 12
    assert climb.reached.keys() == MINECRAFT_LADDER.milestones.keys() - {"diamond", "cobblestone", "iron ore"}


def test_crafters_ladder_asks_for_what_its_later_rungs_use_up() -> None:
    counts = dict(CRAFTER_LADDER.rungs)
    assert list(counts) == list(CRAFTER_LADDER.milestones)[: len(counts)] and len(CRAFTER_LADDER.events) == 22
    climb = Climb(CRAFTER_LADDER)
    for event in ("collect_wood",) * 3 + ("place_table", "make_wood_pickaxe", "collect_stone", "collect_wood"):
        climb.see({event: 1}, 1)
        assert climb.task == "collect_wood"
    assert climb.see({"collect_wood": 1}, 2) and climb.task == "collect_stone"
    assert counts["collect_wood"] == 2 + 3 and counts["collect_stone"] == 4 + 1 and counts["collect_diamond"] is None


def test_a_counter_that_falls_tells_no_event() -> None:
    assert increases({"a": 3, "b": 1}, {"a": 1, "b": 4, "c": 2}) == {"b": 3, "c": 2}


def test_the_games_counters_become_events_of_items() -> None:
    before = {"mine_block:oak_log": 1, "craft_item:oak_planks": 4}
    after = {"mine_block:oak_log": 2, "mine_block:birch_log": 1, "craft_item:oak_planks": 8, "mine_block:dirt": 9}
    assert events(before, after) == {"mine_log": 2, "craft_planks": 4}
    assert events(after, after) == {}
    assert len(set(COUNTERS)) == len(COUNTERS), "a counter pays for one task"


def test_ore_that_the_wrong_tool_breaks_is_mined_and_no_milestone() -> None:
    mined = events({}, {"mine_block:diamond_ore": 1})
    obtained = events({}, {"pickup:diamond": 1})
    assert mined == {"mine_diamond": 1} and obtained == {"obtain_diamond": 1}
    climb = Climb(MINECRAFT_LADDER)
    climb.see(mined, 1)
    assert not climb.reached
    climb.see(obtained, 3)
    assert climb.reached == {"diamond": 3}


def test_a_recordings_name_of_a_counter_is_the_same() -> None:
    assert counter_name("minecraft.mine_block:minecraft.oak_log") == "mine_block:oak_log"
    assert counter_name("mine_block:oak_log") == "mine_block:oak_log"


def test_the_interval_of_a_share_is_wilsons() -> None:
    low, high = wilson(1, 10)
    assert low == pytest.approx(0.0179, abs=1e-4) and high == pytest.approx(0.4042, abs=1e-4)
    assert wilson(0, 10)[0] == 0 and wilson(10, 10)[1] == pytest.approx(1) and wilson(0, 0) == (0, 1)
    low, high = wilson(7, 1000)  # the paper's diamonds
    assert low == pytest.approx(0.0034, abs=1e-4) and high == pytest.approx(0.0144, abs=1e-4)
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson(3, 2)


def test_a_table_counts_every_episode_and_takes_times_of_those_that_reached() -> None:
    found = table(
        [
            ascent({"hole": 1200}),
            ascent({"hole": 3600, "house": 24_000}, ended="death", rung=1),
            ascent({"hole": 10}, ended="failed", attempts=3, reason="it hung"),
            ascent({}, attempts=2, reason="it hung"),
        ],
        SMALL,
        fps=20.0,
    )
    hole, house = found["milestones"]["hole"], found["milestones"]["house"]
    assert hole["reached"] == 2 and hole["rate"] == 0.5 and hole["median_minutes"] == 2.0
    assert house["rate"] == 0.25 and house["median_steps"] == 24_000 and house["ci95"] == list(wilson(1, 4))
    assert found["ended"] == {"time": 2, "death": 1, "failed": 1} and found["episodes"] == 4
    assert found["told"] == [3, 1, 0]
    assert found["broken_games"] == 4 and found["reasons"] == {"it hung": 2}
    assert table([], SMALL, fps=20.0)["milestones"]["hole"]["rate"] is None
