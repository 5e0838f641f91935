"""Events of Minecraft's 20 tasks in recordings, from the game's own counters and the windows that open.

An event is the rise of a counter, whatever the amount. What opens a window counts where the window is seen to open.

Axes: t lines or frames, k tasks.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.envs.minecraft_events import EVENT_OF, TASKS, counter_name
from agent.ladder import increases

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


@cache  # a recording names the same counters in each of its thousands of lines
def task_of(counter: str) -> str | None:
    """The task that a counter's rise is an event of."""
    event = EVENT_OF.get(counter_name(counter))
    return event if event in TASKS else None


def find_events(
    stats: Sequence[Mapping[str, Any] | None], is_open: NDArray[np.bool_], is_inventory: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Of which tasks there were events between a line and the one before [t, k]; the first line has none.

    `stats` are each line's counters: a line without any changes nothing. `is_open` says whether a window is open, and
    `is_inventory` whether it is the player's own inventory [t].
    """
    risen = np.zeros((len(stats), len(TASKS)), np.bool_)
    before: dict[str, Any] | None = None
    for line, counters in enumerate(stats):
        if not counters:
            continue
        after = {name: count for name, count in counters.items() if task_of(name) is not None}
        for name in increases(before, after) if before is not None else ():
            risen[line, TASKS.index(task_of(name))] = True
        before = {**(before or {}), **after}
    opened = np.zeros(len(stats), np.bool_)
    opened[1:] = is_open[1:] & ~is_open[:-1] & ~is_inventory[1:]
    for task in map(TASKS.index, WINDOWS):
        risen[:, task] = opened & _around(risen[:, task])
    return risen


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
