"""Evolving a controller: CMA-ES over its parameters, judged by rollouts in a real environment or in a dream.

Axes: n candidates of a generation, p parameters of each.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import cma
import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray

from agent.controller import ControllerConfig, act
from agent.worlds import LatentWorld

Vectors = Float64[np.ndarray, "n p"]


@dataclass(frozen=True, kw_only=True)
class EvolutionConfig:
    population: int = 64
    """Candidates of a generation."""
    sigma: float = 0.1
    """Standard deviation of the first generation's parameters around zero."""
    seed: int = 0
    """Of the candidates, and of the tracks that they are judged on."""

    def __post_init__(self) -> None:
        if self.population < 4 or self.sigma <= 0:
            raise ValueError(f"population={self.population} must be at least 4, sigma={self.sigma} above 0")


class Evolution:
    """CMA-ES (Hansen 2016, by the library `cma`) that maximises a fitness.

    Candidates follow from the config and from the fitnesses that were told: these alone are saved, and told again to
    go on (`replay`).
    """

    def __init__(self, num_parameters: int, config: EvolutionConfig) -> None:
        self.config = config
        rng = np.random.default_rng(config.seed)
        options = {
            "popsize": config.population,
            "randn": lambda *shape: rng.standard_normal(shape),
            "seed": np.nan,  # the library would seed numpy's global generator
            "verbose": -9,
            "verb_log": 0,
        }
        self._es = cma.CMAEvolutionStrategy(np.zeros(num_parameters), config.sigma, options)
        self.fitness: list[NDArray[np.float64]] = []
        """Told of each generation, [n]."""
        self.candidates: Vectors = self._ask()
        """Of the generation that is to be judged."""

    def tell(self, fitness: NDArray[np.float64]) -> None:
        """The candidates' fitness [n], higher is better; makes the next generation.

        Raises ValueError where it is of another number of candidates, or not finite.
        """
        if fitness.shape != (self.config.population,) or not np.isfinite(fitness).all():
            raise ValueError(f"fitness {fitness} is not of {self.config.population} candidates, or not finite")
        self._es.tell(list(self.candidates), list(-fitness.astype(np.float64)))
        self.fitness.append(fitness.astype(np.float64))
        self.candidates = self._ask()

    @property
    def generation(self) -> int:
        """Generations that were told."""
        return len(self.fitness)

    @property
    def mean(self) -> NDArray[np.float64]:
        """The middle of the distribution, [p]: less noisy than the candidate that was luckiest."""
        return np.array(self._es.mean, dtype=np.float64)

    @property
    def sigma(self) -> float:
        return float(self._es.sigma)

    def fingerprint(self) -> str:
        """Of the candidates."""
        return hashlib.sha256(np.ascontiguousarray(self.candidates).tobytes()).hexdigest()[:16]

    @classmethod
    def replay(cls, num_parameters: int, config: EvolutionConfig, fitness: Sequence[NDArray[np.float64]]) -> Self:
        """An evolution that was told these fitnesses."""
        evolution = cls(num_parameters, config)
        for values in fitness:
            evolution.tell(values)
        return evolution

    def _ask(self) -> Vectors:
        return np.stack(self._es.ask()).astype(np.float64)


class Rollout(NamedTuple):
    candidate: int
    """Its row among the vectors."""
    seed: int
    """Names the episode: the track, or the dream."""


class Rollouts(NamedTuple):
    """What rollouts came to, in their order."""

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    """Steps."""


def roll_out(
    world: LatentWorld,
    config: ControllerConfig,
    vectors: Vectors,
    rollouts: Sequence[Rollout],
    *,
    max_steps: int | None = None,
    patience: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Rollouts:
    """Plays rollouts, as many side by side as the world has environments: a free one takes the next.

    With `patience` a rollout is given up when so many steps in a row earned nothing, as one that left the road does.
    The steps that it still had, up to `max_steps`, then count as those that earned nothing did on average: else it
    would pay to be given up early. `progress` hears of the environments' steps. Raises ValueError for a patience
    without `max_steps`.
    """
    if patience and max_steps is None:
        raise ValueError(f"patience={patience} needs max_steps, to know what a rollout that is given up still had")
    parameters = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
    returns, lengths = np.zeros(len(rollouts)), np.zeros(len(rollouts), np.int64)
    idle_for, idle_return = np.zeros(world.num_envs, np.int64), np.zeros(world.num_envs)
    waiting = iter(range(len(rollouts)))
    at = np.array([next(waiting, -1) for _ in range(world.num_envs)])  # the rollout that each environment plays
    seen, _ = world.reset(seed=[rollouts[max(i, 0)].seed for i in at])
    world.stop(np.flatnonzero(at < 0).tolist())
    while (playing := at >= 0).any():
        candidates = [rollouts[max(i, 0)].candidate for i in at]
        rows = act(config, parameters[candidates], torch.from_numpy(seen)).numpy()
        seen, rewards, terminated, truncated, _ = world.step(rows)
        returns[at[playing]] += rewards[playing]
        lengths[at[playing]] += 1
        idle_for = np.where(rewards > 0, 0, idle_for + 1)
        idle_return = np.where(rewards > 0, 0.0, idle_return + rewards)
        if progress is not None:
            progress(int(playing.sum()))
        done = terminated | truncated
        if max_steps is not None:
            done |= lengths[at] >= max_steps
        if patience and max_steps is not None:
            hopeless = playing & ~done & (idle_for >= patience)
            left = max_steps - lengths[at[hopeless]]
            returns[at[hopeless]] += left * idle_return[hopeless] / idle_for[hopeless]
            done |= hopeless
        if (free := done & playing).any():
            idle_for[free], idle_return[free] = 0, 0
            at[free] = [next(waiting, -1) for _ in range(int(free.sum()))]
            world.stop(np.flatnonzero(free & (at < 0)).tolist())
            seeds = [rollouts[max(i, 0)].seed for i in at]
            seen, _ = world.reset(seed=seeds, options={"reset_mask": free & (at >= 0)})
    return Rollouts(returns, lengths)
