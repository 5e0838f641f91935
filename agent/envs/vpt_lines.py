"""VPT's recordings of players (Baker et al. 2022): the lines of JSON beside a video, in this project's time.

Line i was written when frame i was grabbed, before its keys and mouse were carried out: what it tells of the world is
of frame i, and its inputs led to frame i + 1. The recorder writes the last frame twice.

Axes: n lines, t frames that are kept, k keys of `KEYS`; the last of a movement is (pitch, yaw), as (dy, dx) is.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.envs.minecraft_actions import DEGREES_PER_PIXEL, KEYS, MINECRAFT, NULL_CAMERA, camera_class
from agent.envs.minecraft_events import TASKS
from agent.envs.vpt_events import find_events

Line = dict[str, Any]
Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]

BUTTONS = ("attack", "use", "pick_item")
"""Keys by the numbers of the mouse's buttons."""
KEYBOARD = {
    **{"w": "forward", "s": "back", "a": "left", "d": "right", "space": "jump", "left.shift": "sneak"},
    **{"left.control": "sprint", "e": "inventory", "q": "drop", "f": "swap_hands", "escape": "escape"},
    **{str(slot): f"hotbar_{slot}" for slot in range(1, 10)},
}
WINDOW_SCALE = {"5.7": 0.5, "5.8": 0.5, "6.7": 2.0, "6.8": 2.0, "6.9": 2.0}
"""Of mouse movements while a window is open, by the version of the recorder; 1 for all others."""
MAX_TURN = 180.0
"""Degrees of one step, beyond which it is an error of the recorder."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the lines say of the frames that are kept."""

    actions: NDArray[np.float32]
    """Rows of `MINECRAFT` [t, 24]."""
    labeled: Flags
    """All but the first [t]."""
    events: Flags
    """Of each of `TASKS` [t, 20]: the reward that came with a frame."""
    pointer: Numbers
    """Where a pointer belongs, (y, x) of a picture 720 pixels high; NaN where no window is open [t, 2]."""
    quality: dict[str, Any]
    """Counts and sums that may be added up over recordings."""


def read_lines(text: Sequence[str], frames: int, version: str) -> Reading:
    """Lines of a file, the number of frames of its video, and the recorder's version.

    Raises ValueError where they do not go together, or a line other than the last is broken.
    """
    lines, broken = parse_lines(text)
    if frames - len(lines) - broken not in (0, 1):
        raise ValueError(
            f"frames and lines do not match: {len(lines) + broken} lines need as many frames or one more, not {frames}"
        )
    is_open = np.array([bool(line.get("isGuiOpen")) for line in lines])
    is_inventory = np.array([bool(line.get("isGuiInventory")) for line in lines])
    keys = pressed_keys(lines)
    degrees = camera_steps(lines, is_open, WINDOW_SCALE.get(version, 1.0))
    actions = np.zeros((len(lines), MINECRAFT.size), np.float32)
    actions[1:, 0] = camera_class(degrees)
    actions[1:, 1:] = (keys | changed_slots(lines))[:-1]
    events = find_events([line.get("stats") for line in lines], is_open, is_inventory)
    return Reading(
        actions=actions,
        labeled=np.arange(len(lines)) > 0,
        events=events,
        pointer=_pointer(lines, is_open),
        quality={
            "lines": len(lines) + broken,
            "broken_last_line": int(broken),
            "last_frame_twice": int(frames == len(lines) + broken + 1),
            "null_mouse": sum(line.get("mouse") is None for line in lines),
            "null_keyboard": sum(line.get("keyboard") is None for line in lines),
            "steps": len(lines) - 1,
            "idle": int(((actions[1:, 0] == NULL_CAMERA) & ~actions[1:, 1:].any(1)).sum()),
            **_mouse_and_view(lines, is_open),
            "events": dict(zip(TASKS, events.sum(0).tolist(), strict=True)),
        },
    )


def parse_lines(text: Sequence[str]) -> tuple[list[Line], bool]:
    """The lines that are whole, and whether the last one is broken; empty ones at the end are none."""
    filled = len(text)
    while filled and not text[filled - 1].strip():
        filled -= 1
    lines: list[Line] = []
    for number, one in enumerate(text[:filled]):
        try:
            line = json.loads(one)
        except (ValueError, RecursionError) as error:
            if number == filled - 1 and lines:
                return lines, True
            raise ValueError(f"a line is broken: line {number + 1} of {filled} is no JSON") from error
        if not _is_of_a_recorder(line):
            raise ValueError(f"a line is strange: line {number + 1} of {filled} is not of a recorder")
        lines.append(line)
    if not lines:
        raise ValueError("lines are missing: the file is empty")
    return lines, False


def _is_of_a_recorder(line: object) -> bool:
    """Whether its parts have their types; any may be missing."""
    if not isinstance(line, dict):
        return False
    mouse, keyboard, stats = (line.get(part) for part in ("mouse", "keyboard", "stats"))
    if not all(isinstance(part, dict | None) for part in (mouse, keyboard, stats)):
        return False
    lists = [(mouse or {}).get("buttons"), (mouse or {}).get("newButtons"), (keyboard or {}).get("keys")]
    counts = (stats or {}).values()
    return all(isinstance(one, list | None) for one in lists) and all(isinstance(one, int | float) for one in counts)


def pressed_keys(lines: Sequence[Line]) -> Flags:
    """Keys and buttons that are down at each line [n, k].

    In some recordings attack is down from the first line on until the player really presses it: until then it counts
    as up.
    """
    down = np.zeros((len(lines), len(KEYS)), np.bool_)
    stuck = False
    for number, line in enumerate(lines):
        mouse, keyboard = line.get("mouse") or {}, line.get("keyboard") or {}
        fresh = mouse.get("newButtons") or []
        stuck = fresh == [0] if number == 0 else stuck and 0 not in fresh
        names = [KEYBOARD.get(str(key).removeprefix("key.keyboard.")) for key in keyboard.get("keys") or []]
        names += [BUTTONS[button] for button in (0, 1, 2) if button in (mouse.get("buttons") or [])]
        for name in names:
            if name is not None and not (stuck and name == "attack"):
                down[number, KEYS.index(name)] = True
    return down


def changed_slots(lines: Sequence[Line]) -> Flags:
    """Keys that choose the slot of the hotbar which the next line has, where it is another [n, k]: by wheel or key."""
    slots = _numbers(lines, ("hotbar",))[:, 0]
    pressed = np.zeros((len(lines), len(KEYS)), np.bool_)
    known = np.isfinite(slots[1:]) & np.isfinite(slots[:-1])
    for step in np.flatnonzero(known & (slots[1:] != slots[:-1])):
        name = f"hotbar_{slots[step + 1] + 1:.0f}"
        if name not in KEYS:
            raise ValueError(f"a line is strange: slot {slots[step + 1]:g} of the hotbar, which has 0 to 8")
        pressed[step, KEYS.index(name)] = True
    return pressed


def camera_steps(lines: Sequence[Line], is_open: Flags, window_scale: float) -> Numbers:
    """Degrees from each line to the next [n - 1, 2].

    The view's own change where no window is open, else that of the cursor; where a line lacks them the mouse's
    movement, in a window by its scale; none where the window closes, as the cursor's is no camera's any more.
    """
    mouse = np.nan_to_num(_numbers(lines, ("dy", "dx"), of="mouse"))[:-1] * DEGREES_PER_PIXEL
    cursor = np.diff(_numbers(lines, ("scaledY", "scaledX"), of="mouse"), axis=0) * DEGREES_PER_PIXEL
    turn = _turns(lines)
    was_open = is_open[:-1, None]
    exact = np.where(was_open, cursor, turn)
    degrees = np.where(np.isfinite(exact), exact, mouse * np.where(was_open, window_scale, 1.0))
    degrees[is_open[:-1] & ~is_open[1:]] = 0
    degrees[~(np.abs(degrees) <= MAX_TURN)] = 0
    return degrees


def _turns(lines: Sequence[Line]) -> Numbers:
    """The view's change to the next line [n - 1, 2]: the shorter way round where the yaw is told within half a turn
    of 0, as it is then the same again after a whole one."""
    view = _numbers(lines, ("pitch", "yaw"))
    turn: Numbers = np.diff(view, axis=0)
    is_within = np.abs(view[:, 1]) <= MAX_TURN
    shorter = (turn[:, 1] + MAX_TURN) % (2 * MAX_TURN) - MAX_TURN
    turn[:, 1] = np.where(is_within[1:] & is_within[:-1], shorter, turn[:, 1])
    return turn


def _pointer(lines: Sequence[Line], is_open: Flags) -> Numbers:
    """Where a line lacks the mouse it is where it was."""
    place = _numbers(lines, ("y", "x"), of="mouse")
    for number in range(1, len(place)):
        if not np.isfinite(place[number]).all():
            place[number] = place[number - 1]
    place[~is_open] = np.nan
    return place


def _mouse_and_view(lines: Sequence[Line], is_open: Flags) -> dict[str, float]:
    """How well mouse, view and cursor agree: sums over the steps for which both are told."""
    moved = _numbers(lines, ("dy", "dx"), of="mouse")[:-1]
    off = np.abs(moved[:, 1] * DEGREES_PER_PIXEL - _turns(lines)[:, 1])[~is_open[:-1]]
    glided = np.diff(_numbers(lines, ("scaledY", "scaledX"), of="mouse"), axis=0)
    both = is_open[:-1] & is_open[1:] & np.isfinite(glided + moved).all(1)
    return {
        "closed": int(np.isfinite(off).sum()),
        "yaw_error": float(off[np.isfinite(off)].sum()),
        "window_mouse": float(np.abs(moved[both]).sum()),
        "window_cursor": float(np.abs(glided[both]).sum()),
    }


def _numbers(lines: Sequence[Line], names: Sequence[str], of: str = "") -> Numbers:
    """Fields of each line, or `of` an object in it [n, names]; NaN where it has none."""
    objects: list[Mapping[str, Any]] = [(line.get(of) or {}) if of else line for line in lines]
    try:
        return np.array([[one.get(name) for name in names] for one in objects], dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"a line is strange: {' or '.join(names)} is no number") from error
