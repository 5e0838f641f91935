"""CarRacing-v3 as an `Environment`: 64x64 RGB with the status bar, three continuous actions, an action repeat.

Steering is -1 (left) to 1 (right); gas and brake are (value + 1) / 2 of full. Needs `gymnasium[box2d]`.

Two tasks: "drive" is the game's own, to be fast. "cruise" is to keep a calm speed in the middle of the road: each
simulator step (1/50 s) pays exp(-(d / 4)^2) exp(-((v - 25) / 10)^2) for d units of length from the road's centre line
and v of them a second, so a perfect episode pays about 1000, and a car that stands or has left the road, 13.3 wide,
next to nothing.
"""

import math
import os
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.envs.base import Arrival, checked_row
from dynamics.actions import ActionSpace

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame greets on stdout, where commands print their tables
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pygame's own use of pkg_resources
    import gymnasium
    from gymnasium.envs.box2d.car_racing import FPS
    from gymnasium.wrappers import TimeLimit

    from agent.envs.fast_car_racing import DrawnOnDemand, FastCarRacing

NAME = "CarRacing-v3"
SIZE = 64
ACTIONS = ActionSpace(continuous=("steering", "gas", "brake"))
TASKS = ("drive", "cruise")
CALM_SPEED, SPEED_SPREAD, MIDDLE = 25.0, 10.0, 4.0
"""Of cruising: units of length a second, twice, and units of length."""


@dataclass(frozen=True, kw_only=True)
class CarState:
    """Where the simulator has the car, for scripted drivers."""

    position: tuple[float, float]
    heading: float
    """Radians; the car faces (-sin, cos) of it."""
    velocity: tuple[float, float]
    """Units of length per second of game time."""
    yaw_rate: float
    """Radians per second, positive to the left."""


class CentreLine:
    """Of an episode's road: a closed loop through points [n, 2], 3.5 and once 7 units of length apart."""

    def __init__(self, points: NDArray[np.float64]) -> None:
        self._x, self._y = points.T.copy()
        self._dx, self._dy = np.roll(self._x, -1) - self._x, np.roll(self._y, -1) - self._y
        self._squared = np.maximum(self._dx**2 + self._dy**2, 1e-12)

    def distance(self, position: tuple[float, float]) -> float:
        """Of the nearest place of the line: a car in its middle is not off it between two points."""
        x, y = position[0] - self._x, position[1] - self._y
        along = np.clip((x * self._dx + y * self._dy) / self._squared, 0, 1)
        return math.sqrt(((x - along * self._dx) ** 2 + (y - along * self._dy) ** 2).min())


class CarRacingEnvironment:
    """One game of CarRacing-v3.

    Physics are gymnasium's own, and with `stock` its drawing as well; otherwise `FastCarRacing` draws the same pixels
    faster. Either draws only the frames that are returned. `draw=False` returns black frames: physics alone, for
    drivers that do not look. An `endless` game (fast only) goes on past the lap, the time limit and the field's edge.
    """

    action_space = ACTIONS
    frame_shape = (3, SIZE, SIZE)
    task_names = TASKS

    def __init__(self, *, stock: bool, action_repeat: int, draw: bool = True, endless: bool = False) -> None:
        if action_repeat < 1:
            raise ValueError(f"action_repeat={action_repeat}, needs at least 1")
        if stock and endless:
            raise ValueError("the stock environment ends as it does: endless=True needs stock=False")
        self.action_repeat = action_repeat
        self.fps = FPS / action_repeat
        self._draw = draw
        self._limit = 0 if endless else gymnasium.spec(NAME).max_episode_steps or 0
        self._endless = endless
        self.simulator = DrawnOnDemand() if stock else FastCarRacing()
        self._game = TimeLimit(self.simulator, self._limit) if self._limit else self.simulator
        self._steps = 0
        self._running = False
        self._centre = CentreLine(np.zeros((1, 2)))

    def reset(self, seed: int) -> Arrival:
        self.simulator.draw_frames = self._draw
        pixels, info = self._game.reset(seed=seed)
        self._steps, self._running = 0, True
        self._centre = CentreLine(self.track_points())
        return Arrival.first(ACTIONS, self._frame(pixels), info, num_tasks=len(TASKS))

    def step(self, action_row: NDArray[Any]) -> Arrival:
        if not self._running:
            raise RuntimeError("no episode is under way: call reset first")
        row = checked_row(ACTIONS, action_row)
        controls = np.array([row[0], (row[1] + 1) / 2, (row[2] + 1) / 2], dtype=np.float32)
        total, calm, terminated, truncated = 0.0, 0.0, False, False
        for repeat in range(self.action_repeat):
            last = repeat == self.action_repeat - 1 or self._steps + 1 == self._limit
            self.simulator.draw_frames = last and self._draw
            pixels, reward, terminated, truncated, info = self._game.step(controls)
            self._steps += 1
            total += float(reward)
            calm += self._calmness()
            terminated = terminated and not self._endless
            if terminated or truncated:
                break
        if self._draw and pixels is None:
            pixels = self.simulator.draw_skipped()  # it terminated before the repeat's last step
        self._running = not (terminated or truncated)
        return Arrival.after(
            row,
            self._frame(pixels),
            total,
            info,
            terminated=terminated,
            truncated=truncated,
            task_rewards=(total, calm),
        )

    def close(self) -> None:
        self._running = False
        self._game.close()

    def track_points(self) -> NDArray[np.float64]:
        """The road's centre line as a closed loop in the direction of travel, [n, 2]; tile i is visited at point i."""
        return np.array(self.simulator.track)[:, 2:]

    def car_state(self) -> CarState:
        assert self.simulator.car is not None
        hull = self.simulator.car.hull
        return CarState(
            position=(hull.position[0], hull.position[1]),
            heading=hull.angle,
            velocity=(hull.linearVelocity[0], hull.linearVelocity[1]),
            yaw_rate=hull.angularVelocity,
        )

    def _calmness(self) -> float:
        """What a simulator step of cruising pays."""
        car = self.car_state()
        aside = self._centre.distance(car.position) / MIDDLE
        hurry = (math.hypot(*car.velocity) - CALM_SPEED) / SPEED_SPREAD
        return math.exp(-(aside**2) - hurry**2)

    def _frame(self, pixels: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        return np.zeros(self.frame_shape, dtype=np.uint8) if pixels is None else shrink(pixels)


def shrink(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """96x96 pixels [h, w, c] as 64x64 [c, h, w]: the mean over each area of 1.5 x 1.5, exact in whole numbers.

    Raises ValueError for another size.
    """
    if pixels.shape != (96, 96, 3):
        raise ValueError(f"pixels are {pixels.shape}, expected (96, 96, 3)")
    image = pixels.transpose(2, 0, 1).astype(np.uint16)
    for axis in (1, 2):
        a, b, c = (image.take(range(start, 96, 3), axis=axis) for start in range(3))
        image = np.stack([2 * a + b, b + 2 * c], axis=axis + 1)
        image = image.reshape(3, *(SIZE if i <= axis else 96 for i in (1, 2)))
    return ((image + 4) // 9).astype(np.uint8)
