"""Drivers of Crafter: the expert, and the same with faults, so that what is cloned shows how one gets on from them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.crafter_expert import CrafterExpert
from agent.envs.base import Arrival, Environment
from agent.envs.crafter_sight import ACTIONS, Seeing

Row = NDArray[np.float32]
SLIPS = ACTIONS[: ACTIONS.index("do") + 1]
"""Actions of faults: who errs walks another way or lets go. Tables, tools and sleep are meant, so that cloning learns
what they are for, and not that anything is made at any time."""


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Of an expert."""

    random_share: float = 0.0
    """Of its actions; each is one of `SLIPS`."""
    lapses: float = 0.0
    """Spells in which one of `SLIPS` is repeated, in a hundred actions."""
    lapse_steps: float = 5.0
    """Mean length of such a spell."""
    gives_up: int | None = None
    """Actions after which it plays no further."""

    def __post_init__(self) -> None:
        if not 0 <= self.random_share <= 1 or not 0 <= self.lapses <= 100 or self.lapse_steps < 1:
            raise ValueError(f"random_share is from 0 to 1, lapses from 0 to 100, lapse_steps at least 1: {self}")
        if self.gives_up is not None and self.gives_up < 1:
            raise ValueError(f"gives_up={self.gives_up}, needs at least 1")


class CrafterDriver:
    """Plays by what the frames show. `act` raises ValueError in an environment that does not tell that."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()

    def reset(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._expert = CrafterExpert()
        self._steps = self._lapse_left = self._lapse = 0

    def act(self, env: Environment) -> Row | None:
        if not isinstance(env, Seeing):
            raise ValueError(f"this driver knows Crafter alone, {type(env).__name__} tells nothing of what it shows")
        self._steps += 1
        if self.faults.gives_up is not None and self._steps > self.faults.gives_up:
            return None
        return action_row(self._falter(self._expert.choose(env.sight())))

    def _falter(self, action: str) -> str:
        rng, faults = self._rng, self.faults
        if not self._lapse_left and rng.random() < faults.lapses / 100:
            self._lapse_left = 1 + int(rng.exponential(faults.lapse_steps - 1))
            self._lapse = int(rng.integers(len(SLIPS)))
        if self._lapse_left:
            self._lapse_left -= 1
            return SLIPS[self._lapse]
        if rng.random() < faults.random_share:
            return SLIPS[rng.integers(len(SLIPS))]
        return action


def action_row(action: str) -> Row:
    """The action row [1] of an action by its name in the game."""
    return np.array([ACTIONS.index(action)], np.float32)


def graded_crafter_driver(rng: np.random.Generator) -> CrafterDriver:
    """An expert of any skill. Two in three episodes stop early, the more of them the earlier: each stage of the game
    has its frames, and the first ones take few.
    """
    gives_up = int(np.exp(rng.uniform(np.log(40), np.log(800)))) if rng.random() < 2 / 3 else None
    if rng.random() < 0.3:
        return CrafterDriver(Faults(random_share=rng.uniform(0, 0.03), gives_up=gives_up))
    share, lapses = rng.uniform(0, 0.15), rng.uniform(0, 2)
    return CrafterDriver(Faults(random_share=share, lapses=lapses, gives_up=gives_up))


class ExpertPolicy:
    """The expert in many environments, by what each arrival's frame shows."""

    def __init__(self) -> None:
        self.reset(0)

    def reset(self, seed: int) -> None:
        self._experts: dict[int, CrafterExpert] = {}

    def act(self, arrivals: Sequence[Arrival]) -> Row:
        """[b, 1]; of environments that stand still, anything."""
        return np.stack([self._row(place, arrival) for place, arrival in enumerate(arrivals)])

    def _row(self, place: int, arrival: Arrival) -> Row:
        if arrival.is_last:
            return action_row("noop")
        if arrival.is_first:
            self._experts[place] = CrafterExpert()
        return action_row(self._experts[place].choose(arrival.info["sight"]))
