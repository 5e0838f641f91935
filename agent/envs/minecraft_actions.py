"""Minecraft's actions: 23 keys and buttons, and the mouse on a grid of 11 x 11 movements (Dreamer 4, sec. 4; VPT).

A camera movement is (pitch, yaw) in degrees, down and to the right positive. Each axis is squashed by a mu-law and cut
into bins, fine around 0 and coarse at the ends (Baker et al. 2022, Video PreTraining, app. B).

Axes: the last of a camera array is (pitch, yaw).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.envs.base import checked_row
from dynamics.actions import ActionSpace

DEGREES_PER_PIXEL = 0.15
MAX_DEGREES = 10.0
"""Of one step on each axis; what is beyond counts as this."""
MU = 10.0
BIN_WIDTH = 2.0
BINS = 11
NULL_CAMERA = BINS * BINS // 2
"""The class of a mouse that rests."""

MINERL_NAMES = {
    **{name: name for name in ("attack", "back", "drop", "forward", "inventory", "jump", "left", "right")},
    **{name: name for name in ("sneak", "sprint", "use")},
    "escape": "ESC",
    "pick_item": "pickItem",
    "swap_hands": "swapHands",
    **{f"hotbar_{slot}": f"hotbar.{slot}" for slot in range(1, 10)},
}
"""Our names of the keys, and MineRL's."""
KEYS = (
    *("attack", "back", "drop", "escape", "forward", "inventory", "jump", "left", "pick_item", "right"),
    *("sneak", "sprint", "swap_hands", "use"),
    *(f"hotbar_{slot}" for slot in range(1, 10)),
)
MINECRAFT = ActionSpace(categorical=(("camera", BINS * BINS),), binary=KEYS)


def camera_bins(degrees: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """The bin of each axis, 0 to 10. Halves go to the even bin."""
    share = np.clip(degrees, -MAX_DEGREES, MAX_DEGREES) / MAX_DEGREES
    squashed = np.sign(share) * np.log1p(MU * np.abs(share)) / math.log1p(MU) * MAX_DEGREES
    bins: NDArray[np.int64] = np.rint((squashed + MAX_DEGREES) / BIN_WIDTH).astype(np.int64)
    return bins


def camera_class(degrees: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """The class of (pitch, yaw) [..., 2], 0 to 120. Raises ValueError for movements that are not finite."""
    if not np.isfinite(degrees).all():
        raise ValueError("a camera movement is not finite")
    pitch, yaw = np.moveaxis(camera_bins(degrees), -1, 0)
    return np.asarray(BINS * pitch + yaw)


def camera_degrees(classes: NDArray[Any]) -> NDArray[np.float64]:
    """(pitch, yaw) [..., 2] at the centre of each class."""
    whole = np.asarray(classes).astype(np.int64)
    if ((whole < 0) | (whole >= BINS * BINS)).any():
        raise ValueError(f"camera classes are 0 to {BINS * BINS - 1}, got {whole.min()} to {whole.max()}")
    squashed = (BIN_WIDTH * np.stack(np.divmod(whole, BINS), axis=-1) - MAX_DEGREES) / MAX_DEGREES
    degrees: NDArray[np.float64] = np.sign(squashed) * (np.power(1 + MU, np.abs(squashed)) - 1) * MAX_DEGREES / MU
    return degrees


def to_minerl(row: NDArray[Any]) -> dict[str, Any]:
    """What MineRL 1.0 takes: an int for each key, and "camera" as float32 (pitch, yaw).

    Raises ValueError for a row that is not of this action space: MineRL itself passes anything on to the game.
    """
    values = checked_row(MINECRAFT, row)
    action: dict[str, Any] = {MINERL_NAMES[key]: int(value) for key, value in zip(KEYS, values[1:], strict=True)}
    return {**action, "camera": camera_degrees(values[:1])[0].astype(np.float32)}


def from_minerl(action: Mapping[str, Any]) -> NDArray[np.float32]:
    """The row of MineRL's action. Raises ValueError for a key that is missing or that nobody knows."""
    expected = {*MINERL_NAMES.values(), "camera"}
    if action.keys() != expected:
        missing, strange = sorted(expected - action.keys()), sorted(action.keys() - expected)
        raise ValueError(f"a MineRL action lacks {missing} and has unknown {strange}")
    camera = np.asarray(action["camera"], dtype=np.float64)
    if camera.shape != (2,):
        raise ValueError(f"camera is {camera.tolist()}, not pitch and yaw in degrees")
    keys = [action[MINERL_NAMES[key]] for key in KEYS]
    return checked_row(MINECRAFT, np.array([camera_class(camera), *(np.asarray(key).item() for key in keys)]))
