"""Heads on the agent tokens' output: symexp two-hot values, ends of episodes, and a policy over any action space.

All predict several frames at once (multi-token prediction): one output layer per distance.

Axes: b any batch axes, w input width, l distances, k bins, a the flat action row, p parts of an action.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dynamics.actions import ActionSpace
from tokenizer.attention import Norm
from tokenizer.draws import Draws, uniform


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    hidden: int = 256
    distances: int = 8
    """L: frames ahead that policy, reward and end heads predict."""
    value_bins: int = 255
    action_bins: int = 31
    """Bins of a continuous action part over [-1, 1]."""

    def __post_init__(self) -> None:
        if self.value_bins % 2 == 0 or self.action_bins % 2 == 0:
            raise ValueError(
                f"value_bins={self.value_bins} and action_bins={self.action_bins} must be odd: zero is a bin"
            )


class Trunk(nn.Sequential):
    """Small MLP before the output layers."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), Norm(hidden), nn.SiLU(), nn.Linear(hidden, hidden))


class TwoHot(nn.Module):
    """Distribution over symexp-spaced bins (Hafner et al. 2023): trained by cross-entropy, read as an expectation."""

    def __init__(self, width: int, config: HeadConfig, *, distances: int) -> None:
        super().__init__()
        self.trunk = Trunk(width, config.hidden)
        self.out_head = nn.Linear(config.hidden, distances * config.value_bins)
        nn.init.zeros_(self.out_head.weight)
        nn.init.zeros_(self.out_head.bias)
        positive = torch.linspace(0, 20, config.value_bins // 2 + 1, dtype=torch.float64).expm1().float()
        self.register_buffer("bins", torch.cat([-positive[1:].flip(0), positive]), persistent=False)

    bins: Tensor

    def forward(self, features: Float[Tensor, "*b w"]) -> Float[Tensor, "*b l k"]:
        logits: Tensor = self.out_head(F.silu(self.trunk(features))).float().unflatten(-1, (-1, len(self.bins)))
        return logits

    def mean(self, logits: Float[Tensor, "*b k"]) -> Float[Tensor, "*b"]:
        return twohot_mean(logits, self.bins)

    def loss(self, logits: Float[Tensor, "*b k"], target: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return -(twohot(target, self.bins) * logits.log_softmax(-1)).sum(-1)


def twohot(target: Float[Tensor, "*b"], bins: Float[Tensor, "k"]) -> Float[Tensor, "*b k"]:
    """Weights on the two bins around the target, linear in raw space; beyond the ends, the end bin alone."""
    target = target.float().clamp(bins[0], bins[-1])
    above = torch.searchsorted(bins, target.contiguous()).clamp(1, len(bins) - 1)
    low, high = bins[above - 1], bins[above]
    share = ((target - low) / (high - low)).unsqueeze(-1)
    return F.one_hot(above - 1, len(bins)) * (1 - share) + F.one_hot(above, len(bins)) * share


def twohot_mean(logits: Float[Tensor, "*b k"], bins: Float[Tensor, "k"]) -> Float[Tensor, "*b"]:
    """Expectation in float32; bins of opposite sign are paired first: a symmetric distribution gives exactly 0."""
    weights = logits.float().softmax(-1)
    half = len(bins) // 2
    positive, negative = weights[..., half + 1 :], weights[..., :half].flip(-1)
    return ((positive - negative) * bins[half + 1 :]).sum(-1)


class EndHead(nn.Module):
    """Whether the episode goes on at each frame ahead."""

    def __init__(self, width: int, config: HeadConfig) -> None:
        super().__init__()
        self.trunk = Trunk(width, config.hidden)
        self.out_head = nn.Linear(config.hidden, config.distances)
        nn.init.zeros_(self.out_head.weight)

    def forward(self, features: Float[Tensor, "*b w"]) -> Float[Tensor, "*b l"]:
        """Logits of going on."""
        logits: Tensor = self.out_head(F.silu(self.trunk(features)))
        return logits.float()


class PolicyHead(nn.Module):
    """A distribution over action rows for each distance ahead; index 0 is the next action.

    Every part is a categorical: continuous parts are cut into bins over [-1, 1], so that demonstrations which go left
    or right keep two modes where a Gaussian would drive straight between them, and so that the KL to a prior is exact.
    Continuous parts are chosen one after the other, each given those before, so that modes stay joint (steering left
    goes with its own speed). Categorical and binary parts are independent of each other given the continuous ones, as
    in the paper. A continuous action is trained towards its two nearest bins, by nearness, and sampled at a bin's
    centre.
    """

    def __init__(self, width: int, space: ActionSpace, config: HeadConfig) -> None:
        super().__init__()
        self.space = space
        self.classes = [config.action_bins] * len(space.continuous)
        self.classes += [count for _, count in space.categorical] + [2] * len(space.binary)
        self.num_continuous = len(space.continuous)
        self.trunk = Trunk(width, config.hidden)
        self.out_heads = nn.ParameterList(torch.zeros(config.distances, config.hidden, count) for count in self.classes)
        self.context_embed = nn.ModuleList(
            nn.Linear(config.action_bins, config.hidden, bias=False)
            for _ in range(min(self.num_continuous, len(self.classes) - 1))  # the last part is no context of another
        )
        self.register_buffer("bins", torch.linspace(-1, 1, config.action_bins), persistent=False)

    bins: Tensor

    def forward(self, features: Float[Tensor, "*b w"]) -> Float[Tensor, "*b h"]:
        """What the distributions below start from: compute it once for all of them."""
        hidden: Tensor = self.trunk(features)
        return hidden

    def targets(self, rows: Float[Tensor, "*b l a"]) -> list[Float[Tensor, "*b l k"]]:
        """Weights over the classes of each part."""
        parts = self.space.split(rows)
        weights = [twohot(value, self.bins) for value in parts.continuous.unbind(-1)]
        discrete = torch.cat([parts.categorical, parts.binary], dim=-1).unbind(-1)
        return weights + [
            F.one_hot(index, count).float()
            for index, count in zip(discrete, self.classes[self.num_continuous :], strict=True)
        ]

    def log_probs(self, hidden: Float[Tensor, "*b h"], targets: list[Tensor]) -> list[Float[Tensor, "*b l k"]]:
        """Log-probabilities of each part's classes given the target's earlier continuous parts."""
        distances = targets[0].shape[-2]
        context = hidden.float().unsqueeze(-2)
        found = []
        for i in range(len(self.classes)):
            found.append(self._part(context, i, distances))
            if i < len(self.context_embed):
                context = context + self.context_embed[i](targets[i])
        return found

    def log_prob(self, hidden: Float[Tensor, "*b h"], rows: Float[Tensor, "*b l a"]) -> Float[Tensor, "*b l"]:
        """ln pi of action rows at distances 1 .. l; a cross-entropy where a continuous value lies between two bins."""
        targets = self.targets(rows)
        logs = self.log_probs(hidden, targets)
        total = torch.zeros(rows.shape[:-1], device=rows.device)
        for log, target in zip(logs, targets, strict=True):
            total = total + (log * target).sum(-1)
        return total

    def kl(
        self, hidden: Tensor, prior: "PolicyHead", prior_hidden: Tensor, rows: Float[Tensor, "*b l a"]
    ) -> Float[Tensor, "*b l"]:
        """KL[self || prior] at the sampled rows: exact for each part given the parts before it.

        Its gradient takes the drawn parts before as given. What that leaves out of the gradient of the joint KL is a
        hundredth of it at 0.007 nats, a twentieth at 0.08.
        """
        targets = self.targets(rows)
        ours, theirs = self.log_probs(hidden, targets), prior.log_probs(prior_hidden, targets)
        total = torch.zeros(rows.shape[:-1], device=rows.device)
        for log, other in zip(ours, theirs, strict=True):
            total = total + (log.exp() * (log - other)).sum(-1)
        return total

    @torch.no_grad()
    def sample(
        self, hidden: Float[Tensor, "b h"], generator: Draws, *, temperature: float = 1.0
    ) -> Float[Tensor, "b a"]:
        """Draws the next action; below a temperature of 1 more often a likely one."""
        context = hidden.float().unsqueeze(-2)
        values: list[Tensor] = []
        for i, count in enumerate(self.classes):
            chances = (self._part(context, i, 1)[..., 0, :] / temperature).softmax(-1)
            index = draw_class(chances, generator)
            if i < len(self.context_embed):
                context = context + self.context_embed[i](F.one_hot(index, count).float()).unsqueeze(-2)
            values.append(self.bins[index] if i < self.num_continuous else index.float())
        return torch.stack(values, dim=-1)

    @torch.no_grad()
    def sharpen(self, temperature: float) -> None:
        """Makes the distribution itself what `sample` draws from at this temperature: logits have no bias."""
        for weight in self.out_heads:
            weight.div_(temperature)

    def rsample(
        self, hidden: Float[Tensor, "b h"], generator: Draws, *, temperature: float = 1.0
    ) -> Float[Tensor, "b a"]:
        """Draws the next action so that gradients flow from it to the distribution; for continuous parts alone.

        A value is where the distribution function, straight within each bin, takes the drawn chance: the exact pathwise
        gradient of a density that is constant within each bin's reach and ends at -1 and 1.
        """
        if self.num_continuous < len(self.classes):
            raise ValueError(f"only continuous actions have a gradient, {self.space.names} holds others")
        context = hidden.float().unsqueeze(-2)
        values: list[Tensor] = []
        for i in range(len(self.classes)):
            chances = (self._part(context, i, 1)[..., 0, :] / temperature).softmax(-1)
            values.append(quantile(chances, self.bins, uniform(generator, (len(chances),))))
            if i < len(self.context_embed):
                context = context + self.context_embed[i](twohot(values[-1], self.bins)).unsqueeze(-2)
        return torch.stack(values, dim=-1)

    def _part(self, context: Tensor, part: int, distances: int) -> Tensor:
        weight = self.out_heads[part][:distances]
        logits = torch.einsum("...lh,lhk->...lk", F.silu(context.expand(*context.shape[:-2], distances, -1)), weight)
        return logits.float().log_softmax(-1)


def quantile(
    chances: Float[Tensor, "b k"], centres: Float[Tensor, "k"], level: Float[Tensor, "b"]
) -> Float[Tensor, "b"]:
    """Where the distribution function of bins around these centres, which lie evenly, takes the value `level`.

    Each bin reaches half way to its neighbours, and the first and last end at their centres.
    """
    middles = (centres[1:] + centres[:-1]) / 2
    edges = torch.cat([centres[:1], middles, centres[-1:]])
    below = chances.cumsum(-1)
    bin_index = (below.detach() <= level.unsqueeze(-1)).sum(-1, keepdim=True).clamp_max(len(centres) - 1)
    chance = chances.gather(-1, bin_index).squeeze(-1)
    start = below.gather(-1, bin_index).squeeze(-1) - chance
    bin_index = bin_index.squeeze(-1)
    inside = ((level - start) / chance.clamp_min(1e-8)).clamp(0, 1)
    return edges[bin_index] + inside * (edges[bin_index + 1] - edges[bin_index])


def draw_class(chances: Float[Tensor, "b k"], generator: Draws) -> Int[Tensor, "b"]:
    """One class of each row."""
    drawn = uniform(generator, (len(chances), 1)) * chances.sum(-1, keepdim=True)
    index: Tensor = (chances.cumsum(-1) <= drawn).sum(-1)
    return index.clamp_max(chances.shape[-1] - 1)
