"""The pointer that is drawn into windows."""

import numpy as np
import pytest

from agent.envs.vpt_pointer import SIZE, draw_pointer


def test_its_tip_is_where_the_mouse_is() -> None:
    picture = np.full((360, 640, 3), 100, np.uint8)
    draw_pointer(picture, np.array([200.0, 301.0]))  # of 720 pixels
    changed = np.argwhere((picture != 100).any(2))
    assert changed.min(0).tolist() == [100, 150] and (changed.max(0) - [100, 150]).tolist() == [SIZE - 1, 9]
    assert (picture[100, 150] < 100).all() and (picture[103, 151] == 255).all()
    assert len(set(picture[:, :, 0].ravel().tolist())) == 3


@pytest.mark.parametrize("place", [(-10.0, -10.0), (718.0, 1278.0), (700.0, 2.0), (-900.0, 5000.0)])
def test_it_ends_at_the_edge(place: tuple[float, float]) -> None:
    picture = np.full((360, 640, 3), 100, np.uint8)
    draw_pointer(picture, np.array(place))
    inside = max(abs(place[0]), abs(place[1])) < 2000
    assert (picture != 100).any() == inside
