"""What an agent dreams: its policy acts in its own world model, its heads read what comes of it (Dreamer 4, sec. 3.3).

Axes: b dreams, c frames of a context, t steps of a dream, n latent tokens of a frame, d their channels, f features of
the heads, a the flat action row.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from agent.agent import Agent
from dynamics.simulator import Moment, Simulator
from tokenizer.draws import Draws
from tokenizer.records import LatentClip


class Dream(NamedTuple):
    """A batch of rollouts."""

    features: Float[Tensor, "b t+1 f"]
    """Those of the context's last frame come first."""
    actions: Float[Tensor, "b t a"]
    latents: Float[Tensor, "b t n d"]
    reward: Float[Tensor, "b t"]
    goes_on: Float[Tensor, "b t"]
    """Predicted probability that the episode goes on at the frame which the action led to."""
    context: Float[Tensor, "b c f"]
    """Features of the frames before it."""
    begins: Bool[Tensor, "b"]
    """Whether the context goes on: one that ends its episode leads nowhere."""

    @property
    def counts(self) -> Bool[Tensor, "b t"]:
        """A step counts while neither context nor dream has ended before it."""
        before = torch.cat([self.begins[:, None].to(self.goes_on.dtype), self.goes_on[:, :-1]], dim=1)
        return before.gt(0.5).cumprod(1).bool()

    def detached(self) -> "Dream":
        """What was dreamt, without how."""
        return Dream(*(part.detach() for part in self))


def dream(
    agent: Agent,
    context: LatentClip,
    horizon: int,
    *,
    num_steps: int | None = None,
    generator: Draws,
    differentiable: bool = False,
) -> Dream:
    """Rolls the policy out from each context, at the agent's temperature.

    `num_steps` overrides the world model's K. `differentiable`, gradients flow through actions and dynamics.
    """
    with torch.set_grad_enabled(differentiable):
        simulator = Simulator(
            agent.world,
            agent_tokens=agent.tokens(context.task),
            num_steps=num_steps,
            generator=generator,
            differentiable=differentiable,
        )
        draw = agent.policy.rsample if differentiable else agent.policy.sample
        before = agent.features(simulator.reset(context))
        features, actions = [before[:, -1]], list[Tensor]()
        moments = list[Moment]()
        for _ in range(horizon):
            hidden = agent.policy(features[-1])
            actions.append(draw(hidden, generator, temperature=agent.config.temperature))
            moments.append(simulator.step(actions[-1]))
            features.append(agent.features(moments[-1].agent_output))
        seen = torch.stack(features, dim=1)
        return Dream(
            features=seen,
            actions=torch.stack(actions, dim=1),
            latents=torch.stack([moment.latents for moment in moments], dim=1),
            reward=agent.reward.mean(agent.reward(seen[:, 1:])[..., 0, :]),
            goes_on=agent.end(seen[:, 1:])[..., 0].sigmoid(),
            context=before,
            begins=context.continues[:, -1],
        )
