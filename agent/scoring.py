"""Scores: what a policy earns in the real environment, and what may be said of them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.acting import Policy
from agent.envs.vector import VectorEnv

RESAMPLES = 10_000


class Episodes(NamedTuple):
    """What a batch of episodes earned."""

    returns: list[float]
    lengths: list[int]
    """Arrivals after the first."""
    first_frames: NDArray[np.uint8]
    """[t, c, h, w] of the first environment's episode."""


def play(
    policy: Policy,
    envs: VectorEnv,
    seeds: Sequence[int],
    *,
    task: int = 0,
    max_steps: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Episodes:
    """One episode on each seed's track, side by side, cut after `max_steps` actions where given.

    What counts is what the environment's task of this number pays. `progress` hears (step, episodes that have ended).
    """
    policy.reset(int(seeds[0]))
    arrivals = envs.reset(seeds)
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), dtype=np.int64)
    running = np.ones(len(seeds), dtype=bool)
    frames = [arrivals[0].frame]
    while running.any() and (max_steps is None or lengths.max() < max_steps):
        arrivals = envs.step(policy.act(arrivals))
        returns += np.where(running, [a.earned(task) for a in arrivals], 0.0)
        lengths += running
        if running[0]:
            frames.append(arrivals[0].frame)
        running &= ~np.array([a.is_last for a in arrivals])
        if progress is not None:
            progress(int(lengths.max()), int((~running).sum()))
    return Episodes(returns.tolist(), lengths.tolist(), np.stack(frames))


def summarise(scores: Sequence[float]) -> dict[str, Any]:
    """The shape that every result has: mean, std, 95 % interval of the mean, number of tracks, scores."""
    values = np.asarray(scores, dtype=np.float64)
    return {
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "ci95": list(interval(values)),
        "tracks": len(values),
        "scores": values.tolist(),
    }


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean, from a fixed seed."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, size=(RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def difference(scores: Sequence[float], baseline: Sequence[float]) -> dict[str, Any]:
    """Mean and interval of the gain over a baseline, paired by track."""
    if len(scores) != len(baseline):
        raise ValueError(f"{len(scores)} scores and {len(baseline)} of the baseline are not pairs")
    gain = np.asarray(scores, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    return {"mean": float(gain.mean()), "ci95": list(interval(gain))}
