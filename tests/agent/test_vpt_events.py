"""Minecraft's events: which counters are of which task, and when a window opens."""

from typing import Any

import numpy as np
import pytest

from agent.envs.minecraft_events import TASKS
from agent.envs.vpt_events import BY_DEPTH, NEAR, find_events, rarest, task_of

TABLE = "minecraft.custom:minecraft.interact_with_crafting_table"
COUNTERS = {
    "mine_block:minecraft.oak_log": "mine_log",
    "mine_block:minecraft.dark_oak_log": "mine_log",
    "mine_block:minecraft.stone": "mine_cobblestone",
    "mine_block:minecraft.cobblestone": "mine_cobblestone",
    "mine_block:minecraft.iron_ore": "mine_iron_ore",
    "mine_block:minecraft.coal_ore": "mine_coal",
    "mine_block:minecraft.diamond_ore": "mine_diamond",
    "craft_item:minecraft.spruce_planks": "craft_planks",
    "craft_item:minecraft.stick": "craft_stick",
    "craft_item:minecraft.crafting_table": "craft_crafting_table",
    "craft_item:minecraft.furnace": "craft_furnace",
    "craft_item:minecraft.iron_ingot": "craft_iron_ingot",
    "craft_item:minecraft.wooden_pickaxe": "craft_wooden_pickaxe",
    "craft_item:minecraft.stone_pickaxe": "craft_stone_pickaxe",
    "craft_item:minecraft.iron_pickaxe": "craft_iron_pickaxe",
    "custom:minecraft.interact_with_crafting_table": "open_crafting_table",
    "custom:minecraft.interact_with_furnace": "open_furnace",
    "use_item:minecraft.crafting_table": "place_crafting_table",
    "use_item:minecraft.furnace": "place_furnace",
    "use_item:minecraft.wooden_pickaxe": "use_wooden_pickaxe",
    "use_item:minecraft.stone_pickaxe": "use_stone_pickaxe",
    "use_item:minecraft.iron_pickaxe": "use_iron_pickaxe",
}
OTHERS = ("mine_block:minecraft.oak_planks", "use_item:minecraft.oak_log", "pickup:minecraft.cobblestone", "jump")


def found(stats: list[dict[str, Any] | None], is_open: str = "", inventory: str = "") -> list[tuple[int, str]]:
    """(line, task) of each event; windows as `0011`."""
    flags = [np.array([one == "1" for one in text.ljust(len(stats), "0")]) for text in (is_open, inventory)]
    return [(int(t), TASKS[k]) for t, k in np.argwhere(find_events(stats, *flags))]


def test_each_task_has_its_counters() -> None:
    assert set(COUNTERS.values()) == set(TASKS)
    assert {name: task_of(f"minecraft.{name}") for name in COUNTERS} == COUNTERS
    assert [task_of(f"minecraft.{name}") for name in OTHERS] == [None] * len(OTHERS)
    assert sorted(BY_DEPTH) == sorted(TASKS) and len(set(TASKS)) == 20


def test_an_event_is_the_rise_of_a_counter() -> None:
    """Not what a recording begins with; a counter that comes up counts from 0, a line without any changes nothing."""
    log, stick = "minecraft.mine_block:minecraft.oak_log", "minecraft.craft_item:minecraft.stick"
    stats: list[dict[str, Any] | None] = [{log: 5}, {log: 5}, {log: 6}, None, {log: 6, stick: 4}, {log: 8, stick: 4}]
    assert found(stats) == [(2, "mine_log"), (4, "craft_stick"), (5, "mine_log")]
    assert found([None, {log: 3}, {log: 4}]) == [(2, "mine_log")]
    assert found([{}, {log: 3}, {}, {stick: 1}, {log: 4}]) == [(3, "craft_stick"), (4, "mine_log")]


@pytest.mark.parametrize("late", [-NEAR, 0, NEAR])
def test_a_window_that_opens_is_the_one_whose_counter_rises_about_then(late: int) -> None:
    stats: list[dict[str, Any] | None] = [{TABLE: int(t >= 6 + late)} for t in range(12)]
    assert found(stats, "000000111100") == [(6, "open_crafting_table")]


def test_other_windows_are_none_of_a_task() -> None:
    stats: list[dict[str, Any] | None] = [{TABLE: int(t >= 2)} for t in range(12)]
    assert found(stats, "000000111100") == []  # too long before
    assert found(stats) == []  # clicked, and nothing opened
    assert found(stats, "001111", "001111") == []  # the player's own inventory
    assert found([{}] * 12, "001111") == []  # a chest, or the menu


def test_the_rarest_is_the_deepest() -> None:
    events = np.zeros((5, len(TASKS)), np.bool_)
    assert rarest(events) == 0
    events[1, TASKS.index("mine_coal")] = events[3, TASKS.index("mine_iron_ore")] = True
    events[2, TASKS.index("use_wooden_pickaxe")] = True
    assert TASKS[rarest(events)] == "mine_iron_ore"
