"""Action spaces: any mix of continuous, categorical and binary parts in one flat float row.

A row is [continuous values in [-1, 1] | class index of each categorical part | 0 or 1 for each binary part].

Axes: b batch, t time, a the flat action row, d width.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from tokenizer.shard_format import action_bounds, check_actions


class ActionParts(NamedTuple):
    """A batch of action rows taken apart; the last axis of each counts the parts of its kind."""

    continuous: Float[Tensor, "*b c"]
    categorical: Int[Tensor, "*b k"]
    binary: Int[Tensor, "*b m"]


@dataclass(frozen=True, kw_only=True)
class ActionSpace:
    """Names the parts of an action; the order of the names is the order in the row."""

    continuous: tuple[str, ...] = ()
    categorical: tuple[tuple[str, int], ...] = ()
    """(name, number of classes) of each categorical part."""
    binary: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = self.names
        if not names:
            raise ValueError("an action space needs at least one part")
        if len(set(names)) != len(names):
            raise ValueError(f"action parts share a name: {names}")
        for name, classes in self.categorical:
            if classes < 2:
                raise ValueError(f"categorical part {name!r} has {classes} classes, needs at least 2")

    @property
    def names(self) -> tuple[str, ...]:
        return self.continuous + tuple(name for name, _ in self.categorical) + self.binary

    @property
    def size(self) -> int:
        """Length of the flat row."""
        return len(self.names)

    def check(self, rows: NDArray[Any]) -> None:
        """Raises ValueError where an array of action rows (..., size) is not of this space."""
        rows = np.asarray(rows)
        if rows.shape[-1:] != (self.size,):
            raise ValueError(f"action rows have {rows.shape[-1:]} values, this space has {self.size}: {self.names}")
        check_actions(self.to_json(), rows)

    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Lowest and highest value of each entry of the row."""
        return action_bounds(self.to_json())

    def split(self, rows: Float[Tensor, "*b a"]) -> ActionParts:
        sizes = [len(self.continuous), len(self.categorical), len(self.binary)]
        continuous, categorical, binary = rows.split(sizes, dim=-1)
        return ActionParts(continuous, categorical.long(), binary.long())

    def join(self, parts: ActionParts) -> Float[Tensor, "*b a"]:
        return torch.cat([parts.continuous, parts.categorical.float(), parts.binary.float()], dim=-1)

    def sample(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """A uniformly random row."""
        discrete = [rng.integers(classes) for _, classes in self.categorical] + [rng.integers(2) for _ in self.binary]
        row = np.concatenate([rng.uniform(-1, 1, len(self.continuous)), np.array(discrete, dtype=np.float64)])
        return row.astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        return {
            "continuous": list(self.continuous),
            "categorical": [list(part) for part in self.categorical],
            "binary": list(self.binary),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "ActionSpace":
        return cls(
            continuous=tuple(data["continuous"]),
            categorical=tuple((str(name), int(classes)) for name, classes in data["categorical"]),
            binary=tuple(data["binary"]),
        )


class ActionEmbedding(nn.Module):
    """Embeds each part and sums them with a learned base; an unknown action is the base alone (Dreamer 4, sec. 3.2)."""

    def __init__(self, space: ActionSpace, dim: int) -> None:
        super().__init__()
        self.space = space
        self.base = nn.Parameter(torch.randn(dim) * 0.02)
        self.continuous = nn.Linear(len(space.continuous), dim, bias=False) if space.continuous else None
        classes = [count for _, count in space.categorical] + [2] * len(space.binary)
        self.discrete = nn.Embedding(sum(classes), dim) if classes else None
        self.register_buffer("offsets", torch.tensor([0, *classes[:-1]]).cumsum(0) if classes else torch.zeros(0))
        if self.discrete is not None:
            nn.init.normal_(self.discrete.weight, std=0.02)

    offsets: Tensor

    def forward(self, rows: Float[Tensor, "b t a"], labeled: Bool[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        parts = self.space.split(rows)
        known: Tensor | float = 0.0
        if self.continuous is not None:
            known = known + self.continuous(parts.continuous)
        if self.discrete is not None:
            indices = torch.cat([parts.categorical, parts.binary], dim=-1) + self.offsets.long()
            known = known + self.discrete(indices).sum(-2)
        return self.base + torch.where(labeled.unsqueeze(-1), known, 0.0)
