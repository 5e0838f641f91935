"""A moving average of the weights: steadier than the weights themselves, so it is what gets evaluated."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from launch import sharding


class Ema:
    """Averages the trainable parameters in 32 bits; with `decay=0` it is empty and does nothing.

    Each rank averages the parts that it keeps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad and decay > 0]
        self.weights: dict[str, Tensor] = {name: sharding.part(p).float().clone() for name, p in trainable}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        if not self.weights:
            return
        decay = min(self.decay, (1 + step) / (10 + step))  # else the random initial weights linger
        parameters = dict(model.named_parameters())
        current = [sharding.part(parameters[name]).float() for name in self.weights]
        torch._foreach_lerp_(list(self.weights.values()), current, 1 - decay)

    def load(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Takes over whole averages, of a checkpoint."""
        if weights.keys() != self.weights.keys():
            name = min(weights.keys() ^ self.weights.keys())
            raise ValueError(f"the moving average of {name!r} is only in one of the checkpoint and this run")
        parameters = dict(model.named_parameters())
        for name, value in weights.items():
            self.weights[name].copy_(sharding.part_of(value, parameters[name]))

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model, which lies whole on this rank, has the averaged weights inside the block."""
        parameters = {name: p for name, p in model.named_parameters() if name in self.weights}
        current = {name: p.detach().clone() for name, p in parameters.items()}
        _overwrite(parameters, self.weights)
        try:
            yield
        finally:
            _overwrite(parameters, current)


@torch.no_grad()
def _overwrite(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
