"""What the lines of VPT's recordings say of each frame: each rule of reading, by lines in VPT's own form."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.envs.minecraft_actions import KEYS, MINECRAFT, NULL_CAMERA, camera_class
from agent.envs.minecraft_events import TASKS
from agent.envs.vpt_lines import Reading, camera_steps, parse_lines, read_lines
from tests.vpt_recordings import recording

LINES = 8


def read(changes: dict[int, dict[str, Any]], version: str = "10.0", count: int = LINES) -> Reading:
    return read_lines(recording(changes, count), count, version)


def pressed(reading: Reading, key: str) -> list[int]:
    """Frames that the key led to."""
    return np.flatnonzero(reading.actions[:, 1 + KEYS.index(key)]).tolist()


def camera(reading: Reading) -> list[int]:
    return reading.actions[1:, 0].astype(int).tolist()


def cls(pitch: float, yaw: float) -> int:
    return int(camera_class(np.array([pitch, yaw], np.float64)))


def degrees(changes: dict[int, dict[str, Any]], scale: float = 1.0, count: int = LINES) -> NDArray[np.float64]:
    lines, _ = parse_lines(recording(changes, count))
    return camera_steps(lines, np.array([one["isGuiOpen"] for one in lines]), scale)


def test_a_lines_action_comes_with_the_next_frame() -> None:
    reading = read({3: {"keyboard": {"keys": ["key.keyboard.w"]}}})
    assert pressed(reading, "forward") == [4]
    assert reading.labeled.tolist() == [False] + [True] * (LINES - 1)
    assert not reading.actions[0].any()
    MINECRAFT.check(reading.actions[1:])


@pytest.mark.parametrize(("more", "twice"), [(0, 0), (1, 1)])
def test_the_last_frame_may_come_twice_and_is_kept_once(more: int, twice: int) -> None:
    """Then the last line's outcome was never filmed."""
    lines = recording({LINES - 1: {"keyboard": {"keys": ["key.keyboard.w"]}}}, LINES)
    reading = read_lines(lines, LINES + more, "10.0")
    assert len(reading.actions) == LINES and reading.quality["last_frame_twice"] == twice
    assert not pressed(reading, "forward")


@pytest.mark.parametrize("frames", [LINES - 1, LINES + 2])
def test_other_numbers_of_frames_are_refused(frames: int) -> None:
    with pytest.raises(ValueError, match=f"frames and lines do not match: 8 lines .* not {frames}"):
        read_lines(recording({}, LINES), frames, "10.0")


@pytest.mark.parametrize("frames", [LINES, LINES + 1])
def test_a_broken_last_line_goes_with_its_frame(frames: int) -> None:
    lines = recording({}, LINES)[:LINES]
    lines[-1] = lines[-1][:40]
    reading = read_lines(lines, frames, "10.0")
    assert len(reading.actions) == LINES - 1 and reading.quality["broken_last_line"] == 1
    with pytest.raises(ValueError, match="do not match"):
        read_lines(lines, LINES - 1, "10.0")


def test_other_broken_lines_are_refused() -> None:
    lines = recording({}, LINES)
    lines[2] = lines[2][:40]
    with pytest.raises(ValueError, match="a line is broken: line 3 of 8"):
        read_lines(lines, LINES, "10.0")
    strange: list[dict[str, Any]] = [{"mouse": None, "stats": 7}, {"stats": {"minecraft.mine_block:log": "3"}}]
    strange += [{"yaw": "north"}, {"hotbar": 11}, {"mouse": {"buttons": 0}}, {"keyboard": {"keys": "w"}}]
    for changed in strange:
        with pytest.raises(ValueError, match="a line is strange"):
            read({4: changed})
    with pytest.raises(ValueError, match="lines are missing"):
        read_lines(["", ""], 0, "10.0")


def test_where_mouse_or_keyboard_are_missing_nothing_is_pressed_and_time_goes_on() -> None:
    down = {"keyboard": {"keys": ["key.keyboard.d"]}, "mouse": {"buttons": [1]}}
    reading = read({2: down, 3: {**down, "mouse": None}, 4: {**down, "keyboard": None}, 5: down})
    assert pressed(reading, "right") == [3, 4, 6] and pressed(reading, "use") == [3, 5, 6]
    assert camera(reading) == [NULL_CAMERA] * (LINES - 1) and reading.labeled[1:].all()
    assert (reading.quality["null_mouse"], reading.quality["null_keyboard"]) == (1, 1)


def test_each_key_and_button_is_known_and_others_are_passed_over() -> None:
    names = {"w": "forward", "s": "back", "a": "left", "d": "right", "space": "jump", "left.shift": "sneak"}
    names |= {"left.control": "sprint", "e": "inventory", "q": "drop", "f": "swap_hands", "escape": "escape"}
    names |= {str(slot): f"hotbar_{slot}" for slot in range(1, 10)}
    for key, name in names.items():
        reading = read({1: {"keyboard": {"keys": [f"key.keyboard.{key}", "key.keyboard.f3"]}}}, count=3)
        assert pressed(reading, name) == [2] and reading.actions[2, 1:].sum() == 1
    for button, name in enumerate(("attack", "use", "pick_item")):
        reading = read({1: {"mouse": {"buttons": [button, 4]}}}, count=3)
        assert pressed(reading, name) == [2] and reading.actions[2, 1:].sum() == 1


def test_the_camera_is_the_change_of_the_view() -> None:
    """Pitch before yaw, and not what the mouse tells of it."""
    turned = {3: {"mouse": {"dx": 40.0}}} | {number: {"yaw": 93.0, "pitch": 9.0} for number in range(4, LINES)}
    np.testing.assert_allclose(degrees(turned)[3], [-1.0, 3.0])
    assert camera(read(turned)) == [NULL_CAMERA] * 3 + [cls(-1, 3)] + [NULL_CAMERA] * 3


def test_the_view_turns_the_shorter_way() -> None:
    """Across the seam of a yaw between -180 and 180."""
    turned = {number: {"yaw": 178.5 if number < 4 else -178.5} for number in range(LINES)}
    np.testing.assert_allclose(degrees(turned)[3], [0, 3])


def test_where_the_view_is_not_told_the_mouse_is_and_as_a_fraction() -> None:
    """Cut to whole degrees, five pixels would be none."""
    moved = {number: {"yaw": None, "pitch": None, "mouse": {"dx": 5.0, "dy": -3.0}} for number in range(LINES)}
    np.testing.assert_allclose(degrees(moved), [[-0.45, 0.75]] * (LINES - 1))
    assert camera(read(moved)) == [cls(-0.45, 0.75)] * (LINES - 1) != [NULL_CAMERA] * (LINES - 1)


def test_beyond_half_a_turn_it_is_an_error_of_the_recorder() -> None:
    far = {number: {"yaw": None, "mouse": {"dx": 1300.0, "dy": 4.0}} for number in range(LINES)}
    np.testing.assert_array_equal(degrees(far), 0)  # 195 degrees; the pitch is told, and stays
    for before, after, turn in ((90.0, 290.0, 0), (930.0, 0.0, 0), (170.0, 190.0, 20)):
        told = {number: {"yaw": before if number < 4 else after} for number in range(LINES)}
        np.testing.assert_array_equal(degrees(told)[3], [0, turn], err_msg="a yaw that goes on beyond 180")


@pytest.mark.parametrize("version", ["10.0", "5.7", "6.9"])
def test_in_a_window_the_cursor_is_the_camera(version: str) -> None:
    """In its own pixels, whatever the mouse's scale is; where it closes there is none, as the cursor jumps."""
    window = {
        3: {"isGuiOpen": True, "mouse": {"scaledX": 500.0}},
        4: {"isGuiOpen": True, "mouse": {"scaledX": 510.0, "scaledY": -4.0, "dx": 99.0}, "yaw": 100.0},
        5: {"mouse": {"scaledX": 90.0}},
    }
    np.testing.assert_allclose(degrees(window, 2.0)[2:6], [[0, 0], [-0.6, 1.5], [0, 0], [0, 0]])
    assert camera(read(window, version))[3] == cls(-0.6, 1.5)


@pytest.mark.parametrize(
    ("version", "scale"), [("10.0", 1), ("6.13", 1), ("5.7", 0.5), ("5.8", 0.5), ("6.7", 2), ("6.8", 2), ("6.9", 2)]
)
def test_in_a_window_without_a_cursor_the_mouse_is_scaled(version: str, scale: float) -> None:
    window = {number: {"isGuiOpen": True, "mouse": {"scaledX": None, "dx": 10.0}} for number in range(LINES)}
    assert camera(read(window, version)) == [cls(0, 1.5 * scale)] * (LINES - 1)


def test_the_slot_is_pressed_at_the_step_in_which_it_changes() -> None:
    """Also by the wheel, which presses nothing; the slot that a recording begins with is no press."""
    reading = read({number: {"hotbar": 4 if number < 3 else 7} for number in range(LINES)})
    assert pressed(reading, "hotbar_8") == [3] and reading.actions[:, 1:].sum() == 1


def test_an_attack_that_is_stuck_counts_once_it_is_really_pressed() -> None:
    held = {number: {"mouse": {"buttons": [0, 1]}} for number in range(LINES)}
    stuck = held | {0: {"mouse": {"buttons": [0], "newButtons": [0]}}}
    assert pressed(read(held), "attack") == list(range(1, LINES))
    assert pressed(read(stuck), "attack") == [] and pressed(read(stuck), "use") == list(range(2, LINES))
    freed = stuck | {4: {"mouse": {"buttons": [0], "newButtons": [0]}}}
    assert pressed(read(freed), "attack") == [5, 6, 7]


def test_rewards_come_with_the_frame_that_shows_them() -> None:
    mined = {number: {"stats": {"minecraft.mine_block:minecraft.birch_log": 3}} for number in range(5, LINES)}
    events = read(mined).events
    assert events.shape == (LINES, len(TASKS))
    assert np.argwhere(events).tolist() == [[5, TASKS.index("mine_log")]]
    assert read(mined).quality["events"]["mine_log"] == 1


def test_a_pointer_is_wanted_where_a_window_is_open_and_stays_where_the_mouse_is_not_told() -> None:
    window = {
        2: {"isGuiOpen": True, "mouse": {"x": 100.0, "y": 50.0}},
        3: {"isGuiOpen": True, "mouse": None},
    }
    pointer = read(window).pointer
    assert pointer[2].tolist() == [50, 100] == pointer[3].tolist() and np.isnan(np.delete(pointer, [2, 3], 0)).all()


def test_the_quality_says_how_far_mouse_and_view_agree() -> None:
    changes: dict[int, dict[str, Any]] = {number: {"yaw": 90.0 + 1.5 * number} for number in range(LINES)}
    for number in range(4):
        changes[number]["mouse"] = {"dx": 10.0}  # 1.5 degrees
    quality = read(changes).quality
    assert (quality["closed"], quality["steps"], quality["idle"]) == (7, 7, 0)
    assert quality["yaw_error"] == pytest.approx(3 * 1.5)
    assert read({}).quality["idle"] == 7
