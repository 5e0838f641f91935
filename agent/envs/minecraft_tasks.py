"""Minecraft's 20 tasks, and the events that are their rewards, from the game's own counters (Dreamer 4, sec. 4).

A counter is named as "minecraft.mine_block:minecraft.oak_log" and counts from the beginning of a world. An event is its
rise, whatever the amount. What opens a window counts where the window is seen to open.

Axes: t lines or frames, k tasks.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

TASKS = (
    *("mine_log", "mine_cobblestone", "mine_iron_ore", "mine_coal", "mine_diamond"),
    *("craft_planks", "craft_stick", "craft_crafting_table", "craft_furnace", "craft_iron_ingot"),
    *("craft_wooden_pickaxe", "craft_stone_pickaxe", "craft_iron_pickaxe"),
    *("open_crafting_table", "open_furnace", "place_crafting_table", "place_furnace"),
    *("use_wooden_pickaxe", "use_stone_pickaxe", "use_iron_pickaxe"),
)
BY_DEPTH = (
    *("mine_log", "craft_planks", "craft_crafting_table", "place_crafting_table", "open_crafting_table", "craft_stick"),
    *("craft_wooden_pickaxe", "use_wooden_pickaxe", "mine_cobblestone", "craft_stone_pickaxe", "use_stone_pickaxe"),
    *("mine_coal", "mine_iron_ore", "craft_furnace", "place_furnace", "open_furnace", "craft_iron_ingot"),
    *("craft_iron_pickaxe", "use_iron_pickaxe", "mine_diamond"),
)
"""From the first of the ladder to the last; the four that are no rung of it stand where a player comes to them."""
WINDOWS = ("open_crafting_table", "open_furnace")
NEAR = 3
"""Ticks between a window's opening and its counter, at most: the game's server counts, its client opens."""

_COUNTER = re.compile(r"(?:minecraft\.)?(\w+):(?:minecraft\.)?(\w+)")
_EXACT = {
    ("mine_block", "stone"): "mine_cobblestone",  # what it drops
    ("mine_block", "cobblestone"): "mine_cobblestone",
    ("mine_block", "iron_ore"): "mine_iron_ore",
    ("mine_block", "coal_ore"): "mine_coal",
    ("mine_block", "diamond_ore"): "mine_diamond",
    **{("craft_item", task.removeprefix("craft_")): task for task in TASKS if task.startswith("craft_")},
    **{("use_item", task.removeprefix("place_")): task for task in TASKS if task.startswith("place_")},
    **{("use_item", task.removeprefix("use_")): task for task in TASKS if task.startswith("use_")},
    **{("custom", f"interact_with_{task.removeprefix('open_')}"): task for task in WINDOWS},
}


@cache
def task_of(counter: str) -> str | None:
    """The task that a counter is of: logs and planks of any wood are one."""
    match = _COUNTER.fullmatch(counter)
    if match is None:
        return None
    kind, thing = match.groups()
    if kind == "mine_block" and thing.endswith("_log"):
        return "mine_log"
    if kind == "craft_item" and thing.endswith("_planks"):
        return "craft_planks"
    return _EXACT.get((kind, thing))


def find_events(
    stats: Sequence[Mapping[str, Any] | None], is_open: NDArray[np.bool_], is_inventory: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Of which tasks there were events between a line and the one before [t, k]; the first line has none.

    `stats` are each line's counters: a line without any changes nothing. `is_open` says whether a window is open, and
    `is_inventory` whether it is the player's own inventory [t].
    """
    risen = np.zeros((len(stats), len(TASKS)), np.bool_)
    before: NDArray[np.float64] | None = None
    for line, counters in enumerate(stats):
        if counters is None:
            continue
        totals = _totals(counters)
        if before is not None:
            risen[line] = totals > before
        before = totals
    opened = np.zeros(len(stats), np.bool_)
    opened[1:] = is_open[1:] & ~is_open[:-1] & ~is_inventory[1:]
    for task in map(TASKS.index, WINDOWS):
        risen[:, task] = opened & _around(risen[:, task])
    return risen


def _totals(counters: Mapping[str, Any]) -> NDArray[np.float64]:
    totals = np.zeros(len(TASKS))
    for name, count in counters.items():
        task = task_of(name)
        if task is not None:
            totals[TASKS.index(task)] += count
    return totals


def _around(marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether a place is `NEAR` one that is marked."""
    near = marked.copy()
    for ticks in range(1, NEAR + 1):
        near[ticks:] |= marked[:-ticks]
        near[:-ticks] |= marked[ticks:]
    return near


def rarest(events: NDArray[np.bool_]) -> int:
    """The task of the deepest event [t, k]; the first task where there is none."""
    return next((task for task in map(TASKS.index, reversed(BY_DEPTH)) if events[:, task].any()), 0)
