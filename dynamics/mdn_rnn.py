"""M of World Models (Ha & Schmidhuber 2018): an LSTM whose output is a mixture of Gaussians over each next latent.

p(z' | a, z, h): from the frame's z_t, the action that leads on from it and the state, the distribution of z_{t+1}. The
latents that it learns from are V's means and log-variances; z is sampled from them anew each time a clip is seen.

Axes: b batch, t time, d channels of z, k Gaussians of each channel, a the flat action row, u units of the LSTM.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from dynamics.actions import ActionSpace
from tokenizer.draws import Draws
from tokenizer.losses import mean_where
from tokenizer.records import LatentClip
from tokenizer.vae import sample

LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True, kw_only=True)
class MDNRNNConfig:
    latent_dim: int = 32
    """Channels of z; the command takes it from the data, as it does `actions` and `tokenizer`."""
    actions: ActionSpace = ActionSpace(continuous=("steering", "gas", "brake"))
    tokenizer: str = ""
    """Fingerprint of the V whose latents it knows."""
    hidden: int = 256
    """Units of the LSTM: 256 in CarRacing, 512 in VizDoom."""
    num_gaussians: int = 5
    """Of each channel's mixture."""
    reward_head: bool = False
    """Predicts the reward that comes with the next frame, for dreams that are to have some."""
    reward_weight: float = 0.1
    """Of its squared error in the loss."""
    end_head: bool = False
    """Predicts whether the episode ends with the next frame; as in VizDoom, z then comes with whether it is the first
    of its episode."""

    def __post_init__(self) -> None:
        for name in ("latent_dim", "hidden", "num_gaussians"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")

    @property
    def input_dim(self) -> int:
        return self.latent_dim + num_action_features(self.actions) + self.end_head


class State(NamedTuple):
    """Of the LSTM."""

    h: Float[Tensor, "b u"]
    c: Float[Tensor, "b u"]


class Mixture(NamedTuple):
    """Gaussians over each channel of z."""

    log_weights: Float[Tensor, "*b k d"]
    """They sum to 1 over k, as probabilities."""
    means: Float[Tensor, "*b k d"]
    log_stds: Float[Tensor, "*b k d"]


class MDNRNN(nn.Module):
    """422,368 parameters in CarRacing; 1,678,785 in VizDoom, with the head for the end and its input."""

    def __init__(self, config: MDNRNNConfig) -> None:
        super().__init__()
        self.config = config
        self.lstm = LSTM(config.input_dim, config.hidden)
        self.mixture_head = nn.Linear(config.hidden, 3 * config.num_gaussians * config.latent_dim)
        self.reward_head = nn.Linear(config.hidden, 1) if config.reward_head else None
        self.end_head = nn.Linear(config.hidden, 1) if config.end_head else None

    def forward(self, batch: LatentClip, generator: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the log-likelihood of the next z, mean over channels and frames, and the losses of the heads.

        Unlabeled actions count as zeros: M has no parameters to tell them from others. Clips of which no action is
        known teach the heads nothing. Clips may go on from one episode to the next (`StreamConfig.joined`), which the
        input `is_first` tells.
        """
        z = sample(batch.latents, generator)
        hidden = self.lstm(self.inputs(z[:, :-1], batch.actions[:, 1:], batch.is_first[:, :-1]))
        known = ~batch.is_first[:, 1:]  # nothing leads from one episode to the next
        likelihood = log_likelihood(self.mixture(hidden), z[:, 1:]).mean(-1)[known].mean()
        loss, metrics = -likelihood, {"log_likelihood": likelihood}
        told = known & batch.has_actions[:, 1:]  # video without actions has neither rewards nor ends
        if self.reward_head is not None:
            error = mean_where((self.reward(hidden) - batch.rewards[:, 1:]).square(), told)
            loss = loss + self.config.reward_weight * error
            metrics["reward_error"] = error
        if self.end_head is not None:
            ends = (~batch.continues[:, 1:]).float()
            logits = self.end_logit(hidden)
            surprise = mean_where(functional.binary_cross_entropy_with_logits(logits, ends, reduction="none"), told)
            loss = loss + surprise
            metrics |= {
                "end_surprise": surprise,
                "end_chance": mean_where(torch.sigmoid(logits), told),
                "ends": mean_where(ends, told),
            }
        return loss, {name: value.detach() for name, value in {"loss": loss, **metrics}.items()}

    def inputs(
        self, z: Float[Tensor, "*b d"], actions: Float[Tensor, "*b a"], is_first: Bool[Tensor, "*b"]
    ) -> Float[Tensor, "*b i"]:
        """What the LSTM sees: z, the action that leads on from it, and whether z is an episode's first."""
        parts = [z, action_features(self.config.actions, actions)]
        if self.end_head is not None:
            parts.append(is_first.unsqueeze(-1))
        return torch.cat([part.to(z.dtype) for part in parts], dim=-1)

    def start(self, count: int) -> State:
        """Before an episode's first frame."""
        zeros = torch.zeros(count, self.config.hidden, device=self.lstm.bias.device)
        return State(zeros, zeros)

    def step(
        self,
        state: State,
        z: Float[Tensor, "b d"],
        actions: Float[Tensor, "b a"],
        is_first: Bool[Tensor, "b"],
    ) -> State:
        """The state that a frame's z and the action after it lead to; its h tells of the next frame."""
        return self.lstm.step(self.inputs(z, actions, is_first), state)

    def mixture(self, hidden: Float[Tensor, "*b u"]) -> Mixture:
        parts = self.mixture_head(hidden).float().unflatten(-1, (3, self.config.num_gaussians, self.config.latent_dim))
        logits, means, log_stds = parts.unbind(-3)
        return Mixture(logits.log_softmax(-2), means, log_stds)

    def reward(self, hidden: Float[Tensor, "*b u"]) -> Float[Tensor, "*b"]:
        """Expected, with the next frame."""
        assert self.reward_head is not None
        reward: Tensor = self.reward_head(hidden).float().squeeze(-1)
        return reward

    def end_logit(self, hidden: Float[Tensor, "*b u"]) -> Float[Tensor, "*b"]:
        """Of the chance that the next frame is the episode's last."""
        assert self.end_head is not None
        logit: Tensor = self.end_head(hidden).float().squeeze(-1)
        return logit


class LSTM(nn.Module):
    """One layer with one bias for each gate; torch's own module has two, which add up."""

    def __init__(self, input_dim: int, hidden: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden, input_dim))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden, hidden))
        self.bias = nn.Parameter(torch.zeros(4 * hidden))
        for weight in (self.weight_ih, self.weight_hh):
            nn.init.xavier_uniform_(weight)
        with torch.no_grad():
            # Of the gates input, forget, cell, output: at first little is forgotten.
            self.bias[hidden : 2 * hidden] = 1.0

    def forward(self, inputs: Float[Tensor, "b t i"]) -> Float[Tensor, "b t u"]:
        """h after each input, from a state of zeros."""
        zeros = inputs.new_zeros(1, len(inputs), self.weight_hh.shape[1])
        weights = [self.weight_ih, self.weight_hh, self.bias, torch.zeros_like(self.bias)]
        hidden: Tensor = torch.lstm(inputs, (zeros, zeros), weights, True, 1, 0.0, self.training, False, True)[0]
        return hidden

    def step(self, inputs: Float[Tensor, "b i"], state: State) -> State:
        """The state after one input."""
        gates = functional.linear(inputs, self.weight_ih, self.bias) + functional.linear(state.h, self.weight_hh)
        i, f, g, o = gates.chunk(4, dim=-1)
        c = torch.sigmoid(f) * state.c + torch.sigmoid(i) * torch.tanh(g)
        return State(torch.sigmoid(o) * torch.tanh(c), c)


def log_likelihood(mixture: Mixture, z: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """Of each channel by itself, in nats."""
    scaled = (z.unsqueeze(-2) - mixture.means) * torch.exp(-mixture.log_stds)
    terms = mixture.log_weights - mixture.log_stds - LOG_ROOT_2PI - 0.5 * scaled.square()
    return torch.logsumexp(terms, dim=-2)


def sample_mixture(
    mixture: Mixture, choice: Float[Tensor, "*b d"], noise: Float[Tensor, "*b d"], *, temperature: float
) -> Float[Tensor, "*b d"]:
    """The next z, by a number in [0, 1) and one of a standard normal for each channel.

    A temperature above 1 makes it less certain: logits are divided by it, variances multiplied with it (sec. 4.2).
    """
    edges = (mixture.log_weights / temperature).softmax(-2).cumsum(-2)[..., :-1, :]
    chosen = (choice.unsqueeze(-2) >= edges).sum(-2, keepdim=True)
    mean, log_std = (values.gather(-2, chosen).squeeze(-2) for values in (mixture.means, mixture.log_stds))
    return mean + math.sqrt(temperature) * torch.exp(log_std) * noise


def num_action_features(space: ActionSpace) -> int:
    """Numbers by which `action_features` tells an action; for continuous spaces as many as in its row."""
    return len(space.continuous) + sum(classes for _, classes in space.categorical) + len(space.binary)


def action_features(space: ActionSpace, rows: Float[Tensor, "*b a"]) -> Float[Tensor, "*b f"]:
    """Continuous values and binary ones as they are, a class as zeros with a one."""
    parts = space.split(rows)
    one_hot = [
        functional.one_hot(parts.categorical[..., i], classes) for i, (_, classes) in enumerate(space.categorical)
    ]
    return torch.cat([part.to(rows.dtype) for part in (parts.continuous, *one_hot, parts.binary)], dim=-1)
