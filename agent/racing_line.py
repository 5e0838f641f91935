"""A line to drive and the speed to drive it at, from a road's centre line.

Axes: n points of a closed loop, in the direction of travel. Lengths in the simulator's units: the road is 13.3 wide.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RacingLine:
    points: Points
    """[n, 2]."""
    speeds: Points
    """The most that grip allows at each point, slowed in time for the bends ahead, [n]."""
    spacing: Points
    """Distance from each point to the next, [n]."""


def racing_line(
    centre: Points, *, room: float, rounds: int, grip: float, braking: float, top_speed: float
) -> RacingLine:
    """Cuts the corners of the centre line [n, 2] by at most `room`.

    `rounds` of averaging neighbours tell how far ahead of a bend the line moves over: some sqrt(rounds) points, so that
    what the line does can be seen from the car. `grip` and `braking` are accelerations.
    """
    ahead = np.roll(centre, -1, 0) - np.roll(centre, 1, 0)
    normal = np.stack([-ahead[:, 1], ahead[:, 0]], 1) / np.linalg.norm(ahead, axis=1, keepdims=True)
    offset = np.zeros(len(centre))
    for _ in range(rounds):
        points = centre + offset[:, None] * normal
        pull = (np.roll(points, -1, 0) + np.roll(points, 1, 0)) / 2 - centre
        offset = np.clip((pull * normal).sum(1), -room, room)
    points = centre + offset[:, None] * normal
    spacing = np.linalg.norm(np.roll(points, -1, 0) - points, axis=1)
    speeds = np.minimum(np.sqrt(grip / np.maximum(_curvature(points), 1e-6)), top_speed)
    return RacingLine(points=points, speeds=_brake_in_time(speeds, spacing, braking), spacing=spacing)


def _curvature(points: Points) -> Points:
    """Over two points to each side, so that the corners of the polygon count little, [n]."""
    before, after = points - np.roll(points, 2, 0), np.roll(points, -2, 0) - points
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    turn = np.arctan2(cross, (before * after).sum(1))
    length = (np.linalg.norm(before, axis=1) + np.linalg.norm(after, axis=1)) / 2
    curvature: NDArray[Any] = np.abs(turn) / length
    return curvature


def _brake_in_time(speeds: Points, spacing: Points, braking: float) -> Points:
    limited = speeds.copy()
    for i in range(2 * len(speeds) - 1, -1, -1):  # twice around, since the loop has no last point to start from
        here, there = i % len(speeds), (i + 1) % len(speeds)
        limited[here] = min(limited[here], np.sqrt(limited[there] ** 2 + 2 * braking * spacing[here]))
    return limited
