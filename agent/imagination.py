"""Imagination training: policy and value heads learn on dreams of the frozen world model (Dreamer 4, sec. 3.3).

Axes: b dreams, t steps of a dream, f features of the heads, a the flat action row.
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from agent.agent import Agent, AgentConfig
from agent.heads import TwoHot
from agent.pmpo import lambda_return, pmpo_loss
from dynamics.simulator import Simulator
from tokenizer.draws import Draws, begins_step
from tokenizer.losses import RunningRMS
from tokenizer.records import LatentClip


@dataclass(frozen=True, kw_only=True)
class ImaginationConfig:
    agent: AgentConfig = AgentConfig()
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
    value_warmup: int = 50
    """Steps in which only the value head learns: advantages against a fresh one mean nothing."""


class Dream(NamedTuple):
    """A batch of rollouts."""

    features: Float[Tensor, "b t+1 f"]
    actions: Float[Tensor, "b t a"]
    reward: Float[Tensor, "b t"]
    goes_on: Float[Tensor, "b t"]
    """Predicted probability that the episode goes on at the frame which the action led to."""


class Imagination(nn.Module):
    """A finetuned agent with a value head and a frozen copy of its policy as behavioural prior."""

    def __init__(self, config: ImaginationConfig, agent: Agent) -> None:
        super().__init__()
        self.config = replace(config, agent=agent.config)
        self.agent = agent.requires_grad_(False)
        self.prior = deepcopy(agent.policy)
        self.policy = agent.policy.requires_grad_(True)
        features = agent.config.num_tokens * agent.config.dynamics.transformer.dim
        self.value = TwoHot(features, agent.config.heads, distances=1)
        self.value_rms = RunningRMS()
        self.register_buffer("steps_seen", torch.tensor(0))

    steps_seen: Tensor

    def forward(self, batch: LatentClip, generator: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """PMPO and value loss on one dream from each context of the batch."""
        dream = self.dream(batch, generator)
        features, c = dream.features, self.config
        value_logits = self.value(features)[..., 0, :]
        value = self.value.mean(value_logits).detach()
        returns = lambda_return(dream.reward, value[:, 1:], dream.goes_on, discount=c.discount, decay=c.decay)
        # A step counts while the dream has not ended before it.
        counts = (
            torch.cat([torch.ones_like(dream.goes_on[:, :1]), dream.goes_on[:, :-1]], dim=1).gt(0.5).cumprod(1).bool()
        )
        value_loss = (self.value.loss(value_logits[:, :-1], returns) * counts).sum() / counts.sum()
        policy_loss, kl, advantage = self.policy_loss(dream, returns - value[:, :-1], counts)
        if self.training and begins_step(generator):
            self.steps_seen += 1
        learns = (self.steps_seen > c.value_warmup).float()
        metrics = {
            "loss": (policy_loss + value_loss).detach(),
            "dream_return": returns[:, 0].mean(),
            "dream_reward": dream.reward.mean(),
            "dream_value": value.mean(),
            "value_loss": value_loss.detach(),
            "policy_loss": policy_loss.detach(),
            "kl_to_prior": kl.detach(),
            "positive_share": ((advantage >= 0) & counts).sum() / counts.sum(),
            "ended_share": 1 - counts[:, -1].float().mean(),
        }
        return learns * policy_loss + self.value_rms(value_loss), metrics

    def policy_loss(self, dream: Dream, advantage: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, rows = dream.features[:, :-1], dream.actions.unsqueeze(-2)
        hidden = self.policy(features)
        with torch.no_grad():
            prior_hidden = self.prior(features)
        kl = self.policy.kl(hidden, self.prior, prior_hidden, rows)[..., 0]
        log_prob = self.policy.log_prob(hidden, rows)[..., 0]
        loss = pmpo_loss(log_prob, advantage, kl, counts, alpha=self.config.alpha, beta=self.config.beta)
        return loss, (kl * counts).sum() / counts.sum(), advantage

    @torch.no_grad()
    def dream(self, context: LatentClip, generator: Draws) -> Dream:
        """Rolls the policy out from each context."""
        agent = self.agent
        simulator = Simulator(
            agent.world, agent_tokens=agent.tokens(context.task), num_steps=self.config.num_steps, generator=generator
        )
        features = [agent.features(simulator.reset(context)[:, -1])]
        actions = []
        for _ in range(self.config.horizon):
            actions.append(self.policy.sample(self.policy(features[-1]), generator))
            features.append(agent.features(simulator.step(actions[-1]).agent_output))
        seen = torch.stack(features, dim=1)
        reward = agent.reward.mean(agent.reward(seen[:, 1:])[..., 0, :])
        goes_on = agent.end(seen[:, 1:])[..., 0].sigmoid()
        return Dream(seen, torch.stack(actions, dim=1), reward, goes_on)

    def compile_layers(self) -> None:
        self.agent.compile_layers()
