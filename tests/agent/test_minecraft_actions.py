"""Minecraft's actions: the camera's classes, and rows to and from MineRL's dict."""

import numpy as np
import pytest

from agent.envs.minecraft_actions import (
    BINS,
    DEGREES_PER_PIXEL,
    KEYS,
    MINECRAFT,
    NULL_CAMERA,
    camera_bins,
    camera_class,
    camera_degrees,
    from_minerl,
    to_minerl,
)

CENTRES = (0.0, 0.6154, 1.6095, 3.2154, 5.8095, 10.0)


def test_every_camera_class_is_its_centre_and_back() -> None:
    classes = np.arange(BINS * BINS)
    np.testing.assert_array_equal(camera_class(camera_degrees(classes)), classes)


def test_the_centres_are_those_of_the_mu_law() -> None:
    yaw = camera_degrees(np.arange(5 * BINS, 6 * BINS))[:, 1]
    np.testing.assert_allclose(yaw, [*(-c for c in CENTRES[:0:-1]), *CENTRES], atol=1e-4)
    np.testing.assert_array_equal(camera_degrees(np.array(NULL_CAMERA)), [0, 0])
    assert NULL_CAMERA == 60


def test_bins_rise_with_the_movement_and_cover_all_of_it() -> None:
    bins = camera_bins(np.linspace(-12, 12, 2401))
    assert (np.diff(bins) >= 0).all()
    assert sorted(set(bins.tolist())) == list(range(BINS))


def test_five_pixels_of_the_mouse_fall_in_the_bin_after_the_middle() -> None:
    assert camera_bins(np.array([5, -5]) * DEGREES_PER_PIXEL).tolist() == [6, 4]


def test_pitch_comes_before_yaw() -> None:
    assert camera_class(np.array([10.0, -10.0])) == 10 * BINS
    assert camera_class(np.array([-10.0, 10.0])) == 10


def test_what_is_too_far_counts_as_the_farthest() -> None:
    assert camera_class(np.array([180.0, -180.0])) == 10 * BINS
    with pytest.raises(ValueError, match="not finite"):
        camera_class(np.array([np.nan, 0.0]))


@pytest.mark.parametrize("cls", [-1, 121])
def test_a_class_that_does_not_exist_is_refused(cls: int) -> None:
    with pytest.raises(ValueError, match="0 to 120"):
        camera_degrees(np.array(cls))


def test_a_row_is_the_same_after_minerls_dict() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        row = MINECRAFT.sample(rng)
        action = to_minerl(row)
        assert action["camera"].dtype == np.float32 and action["camera"].shape == (2,)
        assert len(action) == 24
        np.testing.assert_array_equal(from_minerl(action), row)


def test_each_key_is_the_one_that_minerl_calls_so() -> None:
    for place, key in enumerate(KEYS, start=1):
        row = np.zeros(24, np.float32)
        row[0], row[place] = NULL_CAMERA, 1
        pressed = [name for name, value in to_minerl(row).items() if name != "camera" and value]
        named = {"escape": "ESC", "pick_item": "pickItem", "swap_hands": "swapHands"}
        assert pressed == [named.get(key, key.replace("hotbar_", "hotbar."))]


def test_what_minerl_would_pass_on_unseen_is_refused() -> None:
    row = np.zeros(24, np.float32)
    with pytest.raises(ValueError, match="camera"):
        to_minerl(np.where(np.arange(24) == 0, 121, row))
    action = to_minerl(row)
    del action["ESC"]
    with pytest.raises(ValueError, match="ESC"):
        from_minerl(action)
    with pytest.raises(ValueError, match="dance"):
        from_minerl({**to_minerl(row), "dance": 1})
    with pytest.raises(ValueError, match="pitch and yaw"):
        from_minerl({**to_minerl(row), "camera": [1.0]})
    with pytest.raises(ValueError, match="jump"):
        from_minerl({**to_minerl(row), "jump": 2})
