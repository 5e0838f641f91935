"""Imagination training: policy and value heads learn on dreams of the frozen world model (Dreamer 4, sec. 3.3).

Axes: b dreams, t steps of a dream, f features of the heads, a the flat action row.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from agent.agent import Agent, AgentConfig
from agent.dreaming import Dream, dream
from agent.heads import PolicyHead, TwoHot
from agent.pmpo import far_from_zero, lambda_return, pmpo_loss
from tokenizer.draws import Draws, begins_step, repeats
from tokenizer.losses import RunningRMS, mean_where
from tokenizer.records import LatentClip


@dataclass(frozen=True, kw_only=True)
class ImaginationConfig:
    agent: AgentConfig = AgentConfig()
    actor: Literal["pmpo", "dynamics"] = "pmpo"
    """How the policy learns: by the signs of advantages (PMPO), or by the gradient of the returns through the dynamics
    (Dreamer V1; continuous actions alone)."""
    horizon: int = 16
    """Frames that a dream goes on after its context."""
    num_steps: int = 4
    """K of the dreams."""
    discount: float = 0.997
    decay: float = 0.95
    """Lambda of the returns."""
    alpha: float = 0.5
    """Weight of good against bad steps."""
    beta: float = 0.3
    """Weight of the KL to the behavioural prior."""
    min_advantage: float = 0.0
    """Advantages below this, as a share of the batch's root mean square, count for neither good nor bad."""
    center_advantages: bool = False
    """Whether the batch's mean is taken off advantages first: to a value head that lags behind its returns nearly all
    that is tried is good."""
    slow_value: float = 0.0
    """Decay of a slow copy of the value head, which returns are made of; 0 takes the head as it is."""
    real_value: float = 0.0
    """Weight of the value's loss on the contexts themselves, real frames and rewards, beside that on dreams. Dreams
    alone let it drift: their last frames pay what it says of frames like them."""
    value_warmup: int = 50
    """Steps in which only the value head learns: advantages against a fresh one mean nothing."""

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.num_steps < 1:
            raise ValueError(f"horizon={self.horizon} and num_steps={self.num_steps} must be at least 1")
        for name in ("discount", "decay", "alpha", "slow_value"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is not in [0, 1]")
        for name in ("beta", "min_advantage", "real_value", "value_warmup"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")


class Imagination(nn.Module):
    """A finetuned agent with a value head and a frozen copy of its policy as behavioural prior."""

    def __init__(self, config: ImaginationConfig, agent: Agent | None = None) -> None:
        super().__init__()
        agent = agent or Agent(config.agent)
        actions = agent.config.dynamics.actions
        if config.actor == "dynamics" and actions.names != actions.continuous:
            raise ValueError(
                f"actor={config.actor!r} needs continuous actions, and {actions.names} holds others: choose 'pmpo'"
            )
        agent.policy.sharpen(agent.config.temperature)  # what acts is what learns, and what the prior is
        agent.config = replace(agent.config, temperature=1.0)
        self.config = replace(config, agent=agent.config)
        self.agent = agent.requires_grad_(False)
        self.prior = deepcopy(agent.policy)
        agent.policy.requires_grad_(True)
        features = agent.config.num_tokens * agent.config.dynamics.transformer.dim
        self.value = TwoHot(features, agent.config.heads, distances=1)
        self.slow_value = deepcopy(self.value).requires_grad_(False)
        self.value_rms, self.return_rms = RunningRMS(), RunningRMS()
        self.register_buffer("steps_seen", torch.tensor(0))
        self._dreamt: Dream | None = None

    steps_seen: Tensor

    @property
    def policy(self) -> PolicyHead:
        """The agent's, which learns; no module of its own, so that a checkpoint has its weights once."""
        return self.agent.policy

    def forward(self, batch: LatentClip, generator: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of policy and value on one dream from each context of the batch.

        Where the batch repeats, its dreams are learned from once more by the value alone, of returns made anew: the
        policy learns from what it has just dreamt (see `learns_once`).
        """
        c = self.config
        if self.training or not c.slow_value:
            self._follow_value()
        if self._dreamt is not None and repeats(generator):
            dream = self._dreamt
            _, returns = self.returns(dream.features, dream.reward, dream.goes_on)
            value_loss = self._value_losses(dream, returns, batch)
            return self.value_rms(value_loss) + self._still(), {"value_loss": value_loss.detach()}
        if self.training and begins_step(generator):
            self.steps_seen += 1
        learns = int(self.steps_seen) > c.value_warmup
        dream = self.dream(batch, generator, differentiable=c.actor == "dynamics" and torch.is_grad_enabled())
        self._dreamt = dream.detached()
        counts = dream.counts
        value, returns = self.returns(dream.features, dream.reward, dream.goes_on)
        value_loss = self._value_losses(dream, returns, batch)
        log_prob, kl = self.judge_policy(dream)
        advantage = (returns - value[:, :-1]).detach()
        if c.actor == "pmpo":
            told = advantage - mean_where(advantage, counts) if c.center_advantages else advantage
            signs = far_from_zero(told, counts, c.min_advantage)
            policy_loss = pmpo_loss(log_prob, told, kl, counts, signs, alpha=c.alpha, beta=c.beta)
        else:
            policy_loss = self.return_rms(-mean_where(returns, counts)) + c.beta * mean_where(kl, counts)
        metrics = {
            "loss": (policy_loss + value_loss).detach(),
            "dream_return": returns[:, 0].mean().detach(),
            "dream_reward": dream.reward.mean().detach(),
            "dream_value": value.mean().detach(),
            "value_bias": -mean_where(advantage, counts),
            "value_loss": value_loss.detach(),
            "policy_loss": policy_loss.detach(),
            "kl_to_prior": mean_where(kl, counts).detach(),
            "positive_share": mean_where((advantage >= 0).float(), counts),
            "ended_share": 1 - counts[:, -1].float().mean(),
        }
        return self.value_rms(value_loss) + (policy_loss if learns else self._still()), metrics

    def _still(self) -> Tensor:
        """Nothing, for a policy that does not learn now: DDP waits for a gradient of each parameter."""
        return torch.stack([0 * p.sum() for p in self.policy.parameters()]).sum()

    def learns_once(self) -> Iterator[nn.Parameter]:
        """What a step updates once, however often it learns from its batch."""
        return self.policy.parameters()

    def returns(self, features: Tensor, reward: Tensor, goes_on: Tensor) -> tuple[Tensor, Tensor]:
        """Values of frames, [b, t+1], and the lambda-returns, [b, t], of what came with all but the first of them."""
        c = self.config
        value = self.slow_value.mean(self.slow_value(features)[..., 0, :])
        return value, lambda_return(reward, value[:, 1:], goes_on, discount=c.discount, decay=c.decay)

    def _value_losses(self, dream: Dream, returns: Tensor, batch: LatentClip) -> Float[Tensor, ""]:
        """On dreams, and on the contexts if these count."""
        loss = self.value_loss(dream.features[:, :-1].detach(), returns.detach(), dream.counts)
        if self.config.real_value:
            loss = loss + self.config.real_value * self.real_value_loss(dream.context.detach(), batch)
        return loss

    def value_loss(self, features: Tensor, returns: Tensor, counts: Tensor) -> Float[Tensor, ""]:
        """Cross-entropy of the lambda-returns (eq. 10)."""
        return mean_where(self.value.loss(self.value(features)[..., 0, :], returns), counts)

    def real_value_loss(self, features: Float[Tensor, "b c f"], batch: LatentClip) -> Float[Tensor, ""]:
        """The same of real frames and the rewards that came; behind the last frame is what the value says of it."""
        _, returns = self.returns(features, batch.rewards[:, 1:].float(), batch.continues[:, 1:].float())
        return self.value_loss(features[:, :-1], returns, (batch.continues & batch.has_actions)[:, :-1])

    def judge_policy(self, dream: Dream) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"]]:
        """ln pi of the dreamed actions, and the KL to the prior, at the dream's frames as they are."""
        features, rows = dream.features[:, :-1].detach(), dream.actions.detach().unsqueeze(-2)
        hidden = self.policy(features)
        with torch.no_grad():
            prior_hidden = self.prior(features)
        kl = self.policy.kl(hidden, self.prior, prior_hidden, rows)[..., 0]
        return self.policy.log_prob(hidden, rows)[..., 0], kl

    def dream(self, context: LatentClip, generator: Draws, *, differentiable: bool = False) -> Dream:
        """One from each context."""
        c = self.config
        return dream(
            self.agent, context, c.horizon, num_steps=c.num_steps, generator=generator, differentiable=differentiable
        )

    @torch.no_grad()
    def _follow_value(self) -> None:
        for slow, fast in zip(self.slow_value.parameters(), self.value.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.config.slow_value)

    def compile_layers(self) -> None:
        self.agent.compile_layers()
