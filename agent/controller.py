"""C of World Models (Ha & Schmidhuber 2018): a = W [z h] + b, small enough to be evolved.

The parameters are one vector, and a batch may have another vector in each row: so many candidates act at once.

Axes: b environments, p parameters, f features [z | h | c], o outputs before they become an action, a the flat action
row.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dynamics.actions import ActionSpace
from dynamics.mdn_rnn import num_action_features

Inputs = Literal["z", "z_h", "z_h_c"]


@dataclass(frozen=True, kw_only=True)
class ControllerConfig:
    latent_dim: int = 32
    """Channels of V's z."""
    state_dim: int = 256
    """Units of M's LSTM, of which the inputs hold h, or h and c."""
    inputs: Inputs = "z_h"
    """z alone (V only), with M's h (CarRacing), or with M's h and c (VizDoom)."""
    hidden: int = 0
    """Units of a tanh layer between; 0 has none. 40 in the paper's "V with a hidden layer"."""
    bias: bool = True
    """The paper's count for VizDoom (1,088) leaves no room for one."""
    actions: ActionSpace = ActionSpace(continuous=("steering", "gas", "brake"))
    resting: tuple[str, ...] = ()
    """Continuous parts that stay at -1 until their output is above 0, as the brake in the authors' code: else
    parameters of zeros would stand on it."""
    tokenizer: str = ""
    """Fingerprint of its V."""
    mdn_rnn: str = ""
    """Fingerprint of its M; empty where it sees z alone."""

    def __post_init__(self) -> None:
        if self.hidden < 0:
            raise ValueError(f"hidden={self.hidden} must not be negative")
        unknown = set(self.resting) - set(self.actions.continuous)
        if unknown:
            raise ValueError(f"resting={sorted(unknown)} are no continuous parts, have {self.actions.continuous}")

    @property
    def num_features(self) -> int:
        return self.latent_dim + {"z": 0, "z_h": 1, "z_h_c": 2}[self.inputs] * self.state_dim

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the parts of the parameter vector, in order: weights and bias of each layer."""
        widths = [self.num_features, *([self.hidden] if self.hidden else []), num_action_features(self.actions)]
        layers = zip(widths, widths[1:], strict=False)
        return tuple(shape for i, o in layers for shape in ([(o, i), (o,)] if self.bias else [(o, i)]))

    @property
    def num_parameters(self) -> int:
        return sum(map(prod, self.shapes))


class Controller(nn.Module):
    """One controller, for a checkpoint and to act; 867 parameters in CarRacing, 1,088 in VizDoom."""

    def __init__(self, config: ControllerConfig) -> None:
        super().__init__()
        self.config = config
        self.vector = nn.Parameter(torch.zeros(config.num_parameters))

    @torch.no_grad()
    def forward(self, features: Float[Tensor, "b f"]) -> Float[Tensor, "b a"]:
        return act(self.config, self.vector.expand(len(features), -1), features)


def act(
    config: ControllerConfig, vectors: Float[Tensor, "b p"], features: Float[Tensor, "b f"]
) -> Float[Tensor, "b a"]:
    """The action row of each environment, whose features [z | h | c] may go on after what this controller sees."""
    parts = vectors.split([prod(shape) for shape in config.shapes], dim=-1)
    layers = [part.unflatten(-1, shape) for part, shape in zip(parts, config.shapes, strict=True)]
    x = features[:, : config.num_features]
    per_layer = 2 if config.bias else 1
    for first in range(0, len(layers), per_layer):
        x = torch.einsum("boi,bi->bo", layers[first], x)
        if config.bias:
            x = x + layers[first + 1]
        if first + per_layer < len(layers):
            x = torch.tanh(x)
    return to_rows(config, x)


def to_rows(config: ControllerConfig, outputs: Float[Tensor, "b o"]) -> Float[Tensor, "b a"]:
    """Outputs as actions: the tanh of continuous parts, the largest of each category's, the sign of binary ones."""
    space = config.actions
    sizes = [len(space.continuous), *(classes for _, classes in space.categorical), len(space.binary)]
    continuous, *categorical, binary = outputs.split(sizes, dim=-1)
    continuous = torch.tanh(continuous)
    rests = torch.tensor([name in config.resting for name in space.continuous], device=outputs.device)
    continuous = torch.where(rests, 2 * continuous.clamp(min=0) - 1, continuous)
    classes = [part.argmax(-1, keepdim=True).to(outputs.dtype) for part in categorical]
    return torch.cat([continuous, *classes, (binary > 0).to(outputs.dtype)], dim=-1)
