"""Random numbers of a training step, each row's own: a function of (seed, step, number of the row), not of who draws.

The rows of a step are numbered over all ranks, so that two processes with half the rows each draw what one with all of
them draws. A torch generator serves in the same places, for models that are used outside of a training.

Axes: b rows.
"""

from collections.abc import Sequence
from math import floor

import numpy as np
import torch
from torch import Tensor

_ROW, _KINDS = 6, 7
"""Begin the seeds, so that no two uses of a step's seed draw the same."""


class Rows:
    """The rows [first, first + count) of a step."""

    def __init__(
        self, seed: int, step: int, first: int, count: int, device: torch.device, *, begins_step: bool = True
    ) -> None:
        """`begins_step` is false for the later of several batches that make up a step."""
        self.seed, self.step, self.device, self.begins_step = seed, step, device, begins_step
        self.repeats = False
        self.numbers: list[int] = list(range(first, first + count))
        self._generators: dict[int, torch.Generator] = {}

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, places: slice | Sequence[int]) -> "Rows":
        """Some of the rows, in this order; what they draw goes on where the whole stopped."""
        part = Rows(self.seed, self.step, 0, 0, self.device, begins_step=self.begins_step)
        part.numbers = self.numbers[places] if isinstance(places, slice) else [self.numbers[i] for i in places]
        part._generators, part.repeats = self._generators, self.repeats
        return part

    def again(self) -> "Rows":
        """For one more update from the batch that the last one was from; what they draw goes on."""
        same = self[:]
        same.begins_step, same.repeats = False, True
        return same

    def fill(self, out: Tensor, draw: str, *bounds: int) -> Tensor:
        """Draws every row of `out` in place by the method `draw` of a tensor."""
        if len(out) != len(self):
            raise ValueError(f"{len(out)} rows to draw for, these are {len(self)}")
        for row, number in zip(out, self.numbers, strict=True):
            getattr(row, draw)(*bounds, generator=self._generator(number))
        return out

    def offset(self) -> float:
        """In [0, 1), the same for all rows of the step."""
        return float(np.random.default_rng((_KINDS, self.seed, self.step)).random())

    def _generator(self, number: int) -> torch.Generator:
        if number not in self._generators:
            state = np.random.SeedSequence((_ROW, self.seed, self.step, number)).generate_state(1, np.uint64)
            self._generators[number] = torch.Generator(self.device).manual_seed(int(state[0] >> np.uint64(1)))
        return self._generators[number]


Draws = Rows | torch.Generator
"""What random numbers come from."""


def of_rows(draws: Draws, places: slice | Sequence[int]) -> Draws:
    """What some rows of a batch draw from."""
    return draws[places] if isinstance(draws, Rows) else draws


def begins_step(draws: Draws) -> bool:
    """Whether these are of the first batch of a training step."""
    return draws.begins_step if isinstance(draws, Rows) else True


def repeats(draws: Draws) -> bool:
    """Whether the weights have learned from this very batch just now."""
    return draws.repeats if isinstance(draws, Rows) else False


def normal(draws: Draws, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers [b ...], like all others on the device that the draws are made on."""
    if isinstance(draws, Rows):
        return draws.fill(torch.empty(*shape, device=draws.device), "normal_")
    return torch.randn(*shape, generator=draws, device=draws.device)


def uniform(draws: Draws, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers [b ...] in [0, 1)."""
    if isinstance(draws, Rows):
        return draws.fill(torch.empty(*shape, device=draws.device, dtype=dtype), "uniform_")
    return torch.rand(*shape, generator=draws, device=draws.device, dtype=dtype)


def integers(draws: Draws, below: int, shape: Sequence[int]) -> Tensor:
    """Whole numbers [b ...] from 0 on."""
    if isinstance(draws, Rows):
        return draws.fill(torch.empty(*shape, device=draws.device, dtype=torch.int64), "random_", 0, below)
    return torch.randint(below, tuple(shape), generator=draws, device=draws.device)


def split_rows(draws: Draws, count: int, *shares: float) -> list[list[int]]:
    """Which of `count` rows are of each of several kinds, and last those of none: places in the batch, in order.

    Which kind a row is follows from its number and the step alone. A kind's rows lie evenly among the others: of n rows
    in a row it has share * n, up or down to a whole number, and right on average over the steps.
    """
    if isinstance(draws, Rows):
        numbers, offset = draws.numbers, draws.offset()
    else:
        numbers, offset = list(range(count)), float(np.random.default_rng((_KINDS, draws.initial_seed())).random())
    kinds: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    for place, number in enumerate(numbers):
        kinds[_kind(number, shares, offset)].append(place)
    return kinds


def _kind(number: int, shares: Sequence[float], offset: float) -> int:
    """Of the rows that the kinds before it left over, numbered anew, each kind takes its part of evenly."""
    left = 1.0
    for kind, share in enumerate(shares):
        part = min(1.0, share / left) if left > 0 else 1.0
        before, after = floor(number * part + offset + _SLACK), floor((number + 1) * part + offset + _SLACK)
        if after > before:
            return kind
        number -= before
        left -= share
    return len(shares)


_SLACK = 1e-9
"""Rounding must not move a row where share * n is whole."""
