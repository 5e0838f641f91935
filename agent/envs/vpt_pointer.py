"""The mouse's pointer: recordings of Minecraft have none in their pixels, which a player needs to see in a window."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 16
RECORDED_HEIGHT = 720
"""Pixels of the picture that mouse positions are of."""

_SHAPE = """\
#
##
#o#
#oo#
#ooo#
#oooo#
#ooooo#
#oooooo#
#ooooooo#
#oooooooo#
#ooooo####
#oo#oo#
#o# #oo#
##  #oo#
     #oo#
      ##
"""
"""The tip is the place that the mouse points at; # is its black rim, o its white inside."""
_RIM_ALPHA = 0.8


def _mask(sign: str) -> NDArray[np.float64]:
    rows = [line.ljust(SIZE) for line in _SHAPE.splitlines()]
    return np.array([[one == sign for one in row] for row in rows], dtype=np.float64)[..., None]


_INSIDE = _mask("o")
_ALPHA = _INSIDE + _RIM_ALPHA * _mask("#")


def draw_pointer(picture: NDArray[np.uint8], place: NDArray[Any]) -> None:
    """Blends it into a picture [h, w, 3], in place; what is beyond the edge is cut off.

    `place` is (y, x) of a picture 720 pixels high.
    """
    top, left = (int(value * picture.shape[0] / RECORDED_HEIGHT) for value in place)
    first_row, first_column = max(0, -top), max(0, -left)
    under = picture[max(0, top) : max(0, top + SIZE), max(0, left) : max(0, left + SIZE)]
    part = slice(first_row, first_row + under.shape[0]), slice(first_column, first_column + under.shape[1])
    alpha = _ALPHA[part]
    under[...] = np.rint(under * (1 - alpha) + 255 * _INSIDE[part]).astype(np.uint8)
