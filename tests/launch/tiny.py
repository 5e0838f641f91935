"""The smallest model and stream that the loop can train."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tokenizer.draws import Draws, normal
from tokenizer.records import EpisodeClip


def clip(index: int, size: int) -> EpisodeClip:
    frames = torch.randint(0, 255, (size, 3, 3, 4, 4), generator=torch.Generator().manual_seed(index))
    none = torch.zeros(size, 3)
    return EpisodeClip(
        frames=frames.to(torch.uint8),
        actions=torch.zeros(size, 3, 1),
        labeled=none.bool(),
        rewards=none,
        continues=~none.bool(),
        is_first=none.bool(),
        task=torch.zeros(size, dtype=torch.int64),
    )


class TinyStream:
    """Batch k is a function of k; each rank takes its rows of it."""

    def __init__(self, size: int = 4, *, rank: int = 0, ranks: int = 1, die_after: int = 10**9) -> None:
        self.size, self.rank, self.ranks, self.die_after = size, rank, ranks, die_after
        self.taken = 0

    def __iter__(self) -> Iterator[EpisodeClip]:
        while self.taken < self.die_after:
            self.taken += 1
            rows = self.size // self.ranks
            yield clip(self.taken, self.size)[slice(self.rank * rows, (self.rank + 1) * rows)]
        raise RuntimeError("killed")

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taken = state["taken"]


class TinyModel(nn.Module):
    """Predicts colours from noised colours; keeps a running scale and one frozen parameter."""

    def __init__(self, noise: float = 1.0) -> None:
        super().__init__()
        self.noise = noise
        self.body = nn.Linear(3, 3)
        self.head = nn.Linear(3, 3)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("scale", torch.ones(()))

    scale: Tensor

    def forward(self, batch: EpisodeClip, generator: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        colours = batch.frames.float().mean((-1, -2)) / 255
        noise = self.noise * normal(generator, colours.shape)
        error = (self.head(self.body(colours + noise)).float() * self.frozen - colours).square().mean()
        self.scale.lerp_(error.detach(), 0.1)
        return error / self.scale, {"error": error.detach()}
