"""What a frame of Crafter shows, as the game knows it: scripts that act by nothing else can be cloned from frames.

Axes: x to the right, y down; 9 x 7 cells around the player, who stands in the middle one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Cell = tuple[int, int]
"""(x, y), of the world or of the view."""

VIEW: Cell = (9, 7)
WORLD: Cell = (64, 64)
"""Cells of the view and of the world."""
MIDDLE: Cell = (VIEW[0] // 2, VIEW[1] // 2)
MATERIALS = (
    *("outside", "water", "grass", "stone", "path", "sand", "tree"),
    *("lava", "coal", "iron", "diamond", "table", "furnace"),
)
"""By the game's numbers."""
ACTIONS = (
    *("noop", "move_left", "move_right", "move_up", "move_down", "do", "sleep", "place_stone", "place_table"),
    *("place_furnace", "place_plant", "make_wood_pickaxe", "make_stone_pickaxe", "make_iron_pickaxe"),
    *("make_wood_sword", "make_stone_sword", "make_iron_sword"),
)


@dataclass(frozen=True, kw_only=True)
class Sight:
    """The view, the bag under it, and where the player is, which it could count by its own steps."""

    ground: NDArray[np.uint8]
    """Numbers of `MATERIALS`, [x, y]."""
    things: Mapping[Cell, str]
    """Creatures, plants and arrows by their cell of the view; each is called as its picture: "plant-ripe"."""
    bag: Mapping[str, int]
    """Items, and health, food, drink and energy, up to 9 of each."""
    position: Cell
    facing: Cell
    """The step to the cell in front of the player."""
    asleep: bool
    daylight: float
    """0 at midnight, 1 at noon."""


@runtime_checkable
class Seeing(Protocol):
    """An environment that tells what its frame shows."""

    def sight(self) -> Any: ...
