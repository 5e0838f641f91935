"""A scripted driver for CarRacing, of a chosen skill: pure pursuit of a racing line.

Noise on its steering is correlated in time and lapses are short spells of a wrong action, so that it leaves the line
and then shows how one gets back: an agent cloned from good driving alone has never seen that.

The figures below were tuned at an action repeat of 4 on tracks that belong to no data set (seeds from 5,000,000 on).
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from agent.envs.base import Environment
from agent.racing_line import RacingLine, racing_line

Row = NDArray[np.float32]

WHEELBASE = 3.24  # of the car, in the simulator's units of length
MAX_WHEEL = 0.4  # radians, the stop of the front wheels
LOOK_AHEAD = (5.0, 0.24)  # how far ahead to aim: units of length, and seconds at the present speed
YAW_LEAD = 0.14  # seconds by which the car's turning is anticipated
STEER_GAIN = 1.75  # tyres slip, so they turn the car by less than they point
REACTION = 0.07  # seconds until gas and brake take effect, beside half a step
GAS_CUT = 0.5  # share of the gas to give up per radian of wheel: driven wheels that slip spin the car
SPIN_STEER = 0.2  # radians of the wheel against each radian per second of a spin
OFF_ROAD = 9.0  # units of length from the line: on grass for certain, which grips little
STOP = (-1.0, 0.2)  # gas and brake: as firmly as this driver ever brakes, so that the wheels do not lock
STOP_SECONDS = (0.8, 2.5)  # of which half a second passes before the car stands
LOST = 30.0  # units of length from the line beyond which the nearest stretch of road is looked for everywhere


@dataclass(frozen=True, kw_only=True)
class Skill:
    """How well the scripted driver drives."""

    pace: float = 1.0
    """Of the speed that grip allows."""
    noise: float = 0.0
    """Standard deviation of the noise on steering, whose range is -1 to 1."""
    noise_seconds: float = 0.4
    """How long the noise leans to one side."""
    lapses_per_minute: float = 0.0
    """Spells of a random action."""
    lapse_seconds: float = 0.4
    """Mean length of such a spell."""
    stops_per_minute: float = 0.0
    """Spells of braking while it steers on, of `STOP_SECONDS`: the car comes to stand, and then is driven on."""
    room: float = 3.8
    """How far from the middle of the road it may cut corners, in units of length."""
    top_speed: float = 150.0
    """In units of length a second."""

    def __post_init__(self) -> None:
        if not 0 < self.pace <= 1.5:
            raise ValueError(f"pace={self.pace}, allowed: above 0, up to 1.5")
        seconds = min(self.noise_seconds, self.lapse_seconds)
        if min(self.noise, self.lapses_per_minute, self.stops_per_minute) < 0 or seconds <= 0:
            raise ValueError(f"noise, lapses and stops cannot be negative, nor their seconds zero: {self}")


@runtime_checkable
class Track(Protocol):
    """What the driver reads from the simulator (see `agent.envs.car_racing`)."""

    def track_points(self) -> NDArray[np.float64]: ...

    def car_state(self) -> Any: ...


class ScriptedDriver:
    """Drives by the simulator's state, not by its frames. `act` raises ValueError in an environment without a track."""

    def __init__(self, skill: Skill | None = None) -> None:
        self.skill = skill or Skill()

    def reset(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._line: RacingLine | None = None
        self._nearest = 0
        self._lean = 0.0
        self._lapse_left = self._stop_left = 0
        self._lapse_row = np.zeros(3, dtype=np.float32)

    def act(self, env: Environment) -> Row:
        if not isinstance(env, Track):
            raise ValueError(f"the scripted driver needs an environment with a track, {type(env).__name__} has none")
        if self._line is None:
            self._line = racing_line(
                env.track_points(),
                room=self.skill.room,
                rounds=42,
                grip=185.0,
                braking=130.0,
                top_speed=self.skill.top_speed,
            )
        return self._falter(self._intend(self._line, env.car_state(), 1 / env.fps), 1 / env.fps)

    def _intend(self, line: RacingLine, car: Any, seconds: float) -> Row:
        """The action of a driver who makes no mistakes."""
        speed = math.hypot(*car.velocity)
        self._nearest = _nearest(line, car.position, self._nearest)
        aim = line.points[_ahead(line, self._nearest, LOOK_AHEAD[0] + LOOK_AHEAD[1] * speed)]
        if _spins(car):  # let the tyres grip again before anything else
            return np.array([np.clip(SPIN_STEER * car.yaw_rate, -MAX_WHEEL, MAX_WHEEL), -1, 0], dtype=np.float32)
        dx, dy = aim - np.array(car.position)
        bearing = math.remainder(math.atan2(-dx, dy) - car.heading - car.yaw_rate * YAW_LEAD, math.tau)
        wheel = STEER_GAIN * math.atan2(2 * WHEELBASE * math.sin(bearing), math.hypot(dx, dy))
        if abs(bearing) > math.pi / 2:
            wheel = math.copysign(MAX_WHEEL, bearing)
        target = self.skill.pace * line.speeds[_ahead(line, self._nearest, speed * (seconds / 2 + REACTION))]
        most_gas = max(0.0, 1 - GAS_CUT * abs(wheel))
        if abs(bearing) > 0.6:  # turn first
            target, most_gas = min(target, 20.0), 0.3
        elif np.linalg.norm(line.points[self._nearest] - car.position) > OFF_ROAD:
            target, most_gas = min(target, 40.0), 0.5
        gas = np.clip((target - speed) * 0.2, 0, most_gas)
        brake = np.clip((speed - target - 2) * 0.06, 0, 0.6)
        return np.array([np.clip(-wheel, -1, 1), 2 * gas - 1, 2 * brake - 1], dtype=np.float32)

    def _falter(self, row: Row, seconds: float) -> Row:
        """The action with this driver's noise and lapses."""
        keep = math.exp(-seconds / self.skill.noise_seconds)
        self._lean = keep * self._lean + math.sqrt(1 - keep**2) * self.skill.noise * self._rng.normal()
        if not self._lapse_left and self._rng.random() < self.skill.lapses_per_minute / 60 * seconds:
            self._lapse_left = max(1, round(self._rng.exponential(self.skill.lapse_seconds) / seconds))
            brake = self._rng.uniform(-1, 1) if self._rng.random() < 0.25 else -1.0
            steering, gas = self._rng.uniform(-1, 1, 2)
            self._lapse_row = np.array([steering, gas, brake], dtype=np.float32)
        if self._lapse_left:
            self._lapse_left -= 1
            return self._lapse_row.copy()
        row[0] = np.clip(row[0] + self._lean, -1, 1)
        if self._stops(seconds):
            row[1:] = STOP
        return row

    def _stops(self, seconds: float) -> bool:
        chance = self.skill.stops_per_minute / 60 * seconds
        if chance and not self._stop_left and self._rng.random() < chance:
            self._stop_left = round(self._rng.uniform(*STOP_SECONDS) / seconds)
        self._stop_left = max(0, self._stop_left - 1)
        return self._stop_left > 0


def _spins(car: Any) -> bool:
    forward = -math.sin(car.heading) * car.velocity[0] + math.cos(car.heading) * car.velocity[1]
    speed = math.hypot(*car.velocity)
    return abs(car.yaw_rate) > 4 or (speed > 6 and forward < 0.7 * speed)


def _nearest(line: RacingLine, position: tuple[float, float], last: int) -> int:
    """The point nearest to the car, looked for near the last one: the road may pass close to itself elsewhere."""
    distance = np.linalg.norm(line.points - np.array(position), axis=1)
    window = np.arange(last - 10, last + 30) % len(distance)
    best = int(window[distance[window].argmin()])
    return best if distance[best] < LOST else int(distance.argmin())


def _ahead(line: RacingLine, index: int, distance: float) -> int:
    """The point that lies so far on along the line."""
    while distance > line.spacing[index]:
        distance -= float(line.spacing[index])
        index = (index + 1) % len(line.points)
    return index
