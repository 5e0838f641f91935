"""Intervals over held-out drives. Windows of one drive are alike, so whole drives are drawn with repetition."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RESAMPLES = 500


def draw_clips(episodes: Sequence[int], seed: int = 0) -> list[Tensor]:
    """Numbers of clips: all as they are, then those of episodes drawn with repetition, so many times.

    `episodes` says of each clip which episode it is a window of.
    """
    generator, names = torch.Generator().manual_seed(seed), torch.tensor(list(dict.fromkeys(episodes)))
    windows = [(torch.tensor(episodes) == name).nonzero().flatten() for name in names]
    drawn = torch.randint(len(names), (RESAMPLES, len(names)), generator=generator).tolist()
    return [torch.arange(len(episodes)), *(torch.cat([windows[number] for number in row]) for row in drawn)]


def summarise_draws(values: NDArray[np.float64]) -> dict[str, Any]:
    """The value of the clips as they are, which is the first, and its 95 % interval.

    Clips drawn twice make a sample look narrower than it is, so that the distances of drawn clips lie above that of
    the clips themselves: the interval has the drawn ones' spread, about the value itself.
    """
    low, high = np.quantile(values[1:], [0.025, 0.975]) - np.median(values[1:])
    return {"value": float(values[0]), "ci95": [float(values[0] + low), float(values[0] + high)]}


def show_bounds(bounds: Sequence[float], form: str) -> str:
    """An interval as tables show it."""
    low, high = bounds
    return f"[{form.format(low)}, {form.format(high)}]"


def mean_of_draws(values: Sequence[float], draws: Sequence[Tensor]) -> dict[str, Any]:
    """The mean over clips and its 95 % interval."""
    of_clips = torch.tensor(values, dtype=torch.float64)
    found = summarise_draws(np.array([float(of_clips[draw].mean()) for draw in draws]))
    return {"mean": found["value"], "ci95": found["ci95"]}
