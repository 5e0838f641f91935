"""Drivers that collect data: random ones for any environment, scripted ones for some games, and mixtures of both."""

import math
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from agent.crafter_drivers import CrafterDriver, graded_crafter_driver
from agent.envs.base import RESTING, Environment
from agent.scripted_driver import ScriptedDriver, Skill
from dynamics.actions import ActionSpace

Row = NDArray[np.float32]
MEANS = dict.fromkeys(RESTING, -0.9)
"""Of random actions."""


@runtime_checkable
class Driver(Protocol):
    """Chooses actions with the whole environment in view."""

    def reset(self, rng: np.random.Generator) -> None:
        """Before an episode: forgets the last one and takes its randomness from `rng`."""
        ...

    def act(self, env: Environment) -> Row | None:
        """The next action row [a]; none where it plays this episode no further."""
        ...


class RandomDriver:
    """A new uniform action every step."""

    def reset(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def act(self, env: Environment) -> Row:
        return env.action_space.sample(self._rng)


class CorrelatedRandomDriver:
    """Random actions that last some `seconds`: continuous parts wander around their `means` (by name; 0 where none is
    given), discrete ones are held. It gets further than a uniformly random driver, whose actions cancel out."""

    def __init__(self, *, seconds: float = 0.6, means: Mapping[str, float] = MEANS) -> None:
        self.seconds = seconds
        self.means = means

    def reset(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._row: NDArray[np.float64] | None = None

    def act(self, env: Environment) -> Row:
        space, rng = env.action_space, self._rng
        keep = math.exp(-1 / (self.seconds * env.fps))
        fresh = _wide_sample(space, rng)
        if self._row is None:
            self._row = fresh
        continuous = np.arange(space.size) < len(space.continuous)
        wander = keep * self._row + math.sqrt(1 - keep**2) * fresh
        held = np.where(rng.random(space.size) < keep, self._row, fresh)
        self._row = np.where(continuous, wander, held)
        means = np.array([self.means.get(name, 0.0) for name in space.names])
        row: Row = np.clip(self._row + means, *space.bounds()).astype(np.float32)
        return row


def _wide_sample(space: ActionSpace, rng: np.random.Generator) -> NDArray[np.float64]:
    """A random row whose continuous parts are normal, and so often at their bounds when they are clipped."""
    row = space.sample(rng).astype(np.float64)
    row[: len(space.continuous)] = rng.normal(0, 0.8, len(space.continuous))
    return row


def scripted_mixed_driver(rng: np.random.Generator) -> Driver:
    """A scripted CarRacing driver of random skill: a third of the episodes are driven well, the others are not."""
    if rng.random() < 1 / 3:
        return ScriptedDriver(Skill(pace=rng.uniform(0.8, 1), noise=rng.uniform(0, 0.1)))
    return ScriptedDriver(
        Skill(
            pace=rng.uniform(0.4, 1),
            noise=rng.uniform(0.05, 0.4),
            noise_seconds=rng.uniform(0.2, 0.8),
            lapses_per_minute=rng.uniform(0, 25),
            lapse_seconds=rng.uniform(0.2, 0.7),
        )
    )


def mixed_driver(rng: np.random.Generator) -> Driver:
    """Scripted drivers of random skill, and a random one in ten episodes."""
    kind = rng.random()
    if kind < 0.03:
        return RandomDriver()
    if kind < 0.1:
        return CorrelatedRandomDriver()
    return scripted_mixed_driver(rng)


def _faults(rng: np.random.Generator, careful: bool) -> dict[str, float]:
    """Of a `Skill`: noise and lapses, or for a careful driver hardly any."""
    return {
        "noise": rng.uniform(0, 0.1 if careful else 0.4),
        "noise_seconds": rng.uniform(0.2, 0.8),
        "lapses_per_minute": 0.0 if careful else rng.uniform(0, 25),
        "lapse_seconds": rng.uniform(0.2, 0.7),
    }


IN_SIGHT = 65.0
"""Units of length a second. A car sees 37 ahead. From 80 it needs 28 of these to come down for the tightest bend (37
units a second), reaction included; from 65 it needs 18, and may see the bend two frames late. A faster one brakes on
straights, for bends that only the driver knows of: whoever clones that cannot tell when to brake, and a world model
takes full gas for a sign that no bend is near."""


def graded_driver(rng: np.random.Generator) -> Driver:
    """Every skill alike: scripted drivers of any pace who brake for what they see, and a random one in ten episodes."""
    kind = rng.random()
    if kind < 0.05:
        return RandomDriver()
    if kind < 0.1:
        return CorrelatedRandomDriver()
    careful = rng.random() < 0.25
    pace, stops = rng.uniform(0.3, 1), rng.uniform(0, 4)  # the best stop, too: what is cloned must show how to go on
    return ScriptedDriver(Skill(pace=pace, top_speed=IN_SIGHT, stops_per_minute=stops, **_faults(rng, careful)))


def cruising_driver(rng: np.random.Generator) -> Driver:
    """A scripted CarRacing driver that goes slowly in the middle of the road, with more or less care."""
    careful = rng.random() < 0.5
    return ScriptedDriver(Skill(top_speed=rng.uniform(20, 30), **_faults(rng, careful), room=0.0))


def graded_or_cruising_driver(rng: np.random.Generator) -> Driver:
    """One of the two, as likely: half of the episodes of each task are no examples for it."""
    return graded_driver(rng) if rng.random() < 0.5 else cruising_driver(rng)


def graded_or_random_crafter_driver(rng: np.random.Generator) -> Driver:
    """Every skill alike: experts with faults of all sizes, and a random player in ten episodes."""
    kind = rng.random()
    if kind < 0.05:
        return RandomDriver()
    if kind < 0.1:
        return CorrelatedRandomDriver()
    return graded_crafter_driver(rng)


Make = Callable[[np.random.Generator], Driver]
DRIVERS_OF: Mapping[str | None, Mapping[str, Make]] = {
    None: {
        "random": lambda rng: RandomDriver(),
        "correlated_random": lambda rng: CorrelatedRandomDriver(),
    },
    "CarRacing-v3": {
        "scripted": lambda rng: ScriptedDriver(),
        "scripted_mixed": scripted_mixed_driver,
        "mixed": mixed_driver,
        "graded": graded_driver,
        "cruising": cruising_driver,
        "graded_or_cruising": graded_or_cruising_driver,
    },
    "Crafter": {
        "crafter_expert": lambda rng: CrafterDriver(),
        "crafter_graded": graded_or_random_crafter_driver,
    },
}
"""By the one environment that they know; those of None know no game, and drive in any."""
DRIVERS: dict[str, Make] = {name: make for drivers in DRIVERS_OF.values() for name, make in drivers.items()}


def known_game(driver: str) -> str | None:
    """The one environment that a driver of this name knows; none where it drives in any."""
    return next(game for game, drivers in DRIVERS_OF.items() if driver in drivers)


def drivers_for(environment: str) -> list[str]:
    """Names of those that may drive there."""
    return [*DRIVERS_OF.get(environment, ()), *DRIVERS_OF[None]]


def make_driver(name: str, rng: np.random.Generator) -> Driver:
    """A driver for one episode, whose skill `rng` may choose. Raises ValueError for an unknown name."""
    if name not in DRIVERS:
        raise ValueError(f"unknown driver {name!r}, have {sorted(DRIVERS)}")
    return DRIVERS[name](rng)
