"""Policies: what answers an environment's arrivals with action rows, many environments at once.

Axes: b environments, c h w one RGB frame, a the flat action row.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agent.agent import Agent
from agent.envs.base import Arrival
from dynamics.actions import ActionSpace
from dynamics.simulator import Simulator
from tokenizer.autoencoder import Tokenizer, to_float
from tokenizer.cache import Cache
from tokenizer.records import LatentClip


@runtime_checkable
class Policy(Protocol):
    """Acts in a batch of environments; `reset` begins new episodes in all of them."""

    def reset(self, seed: int) -> None: ...

    def act(self, arrivals: Sequence[Arrival]) -> NDArray[np.float32]:
        """The next action row [b, a] of each environment, given what just arrived there."""
        ...


@runtime_checkable
class TaskPolicy(Protocol):
    """A policy that may be told another task in the middle of an episode."""

    def tell(self, tasks: Sequence[int]) -> None:
        """The number of each environment's task, from the next action on, until the next reset."""
        ...


class RandomPolicy:
    """Uniform over the action space."""

    def __init__(self, space: ActionSpace) -> None:
        self.space = space
        self.reset(0)

    def reset(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def act(self, arrivals: Sequence[Arrival]) -> NDArray[np.float32]:
        return np.stack([self.space.sample(self.rng) for _ in arrivals])


class AgentPolicy:
    """Tokenizer, world model and policy head: each frame is encoded and committed once, then an action is sampled.

    Sampled, not the likeliest: an argmax of a cloned policy stalls where demonstrations differ.
    """

    def __init__(self, tokenizer: Tokenizer, agent: Agent, *, task: int = 0) -> None:
        self.tokenizer = tokenizer
        self.agent = agent
        self.task = task
        self.reset(0)

    def reset(self, seed: int) -> None:
        self.generator = torch.Generator(self.agent.token_embed.device).manual_seed(seed)
        self._simulator: Simulator | None = None
        self._cache: Cache | None = None
        self._told: Tensor | None = None

    def tell(self, tasks: Sequence[int]) -> None:
        """Another task for each environment; what the agent saw and did until now stays as it was taken in."""
        self._told = torch.tensor(tasks, device=self.generator.device)
        if self._simulator is not None:
            self._simulator.agent_tokens = self.agent.tokens(self._told)

    @torch.no_grad()
    def act(self, arrivals: Sequence[Arrival]) -> NDArray[np.float32]:
        device = self.generator.device
        frames = torch.from_numpy(np.stack([a.frame for a in arrivals])).to(device)
        actions = torch.from_numpy(np.stack([a.action for a in arrivals])).to(device)
        labeled = torch.tensor([a.labeled for a in arrivals], device=device)
        latents, self._cache = self.tokenizer.encoder.step(to_float(frames).unsqueeze(1), self._cache)
        features = self.agent.features(self._take_in(latents[:, 0], actions, labeled))
        policy, temperature = self.agent.policy, self.agent.config.temperature
        rows = policy.sample(policy(features), self.generator, temperature=temperature)
        found: NDArray[np.float32] = rows.cpu().numpy()
        return found

    def _take_in(self, latents: Tensor, actions: Tensor, labeled: Tensor) -> Tensor:
        """The agent tokens' output at the newest frame."""
        if self._simulator is not None:
            return self._simulator.observe(latents, actions, labeled).agent_output
        count, device = len(latents), latents.device
        task = torch.full((count,), self.task, device=device) if self._told is None else self._told
        tokens = self.agent.tokens(task)
        self._simulator = Simulator(self.agent.world, agent_tokens=tokens, generator=self.generator)
        first = LatentClip(
            latents=latents.unsqueeze(1),
            actions=actions.unsqueeze(1),
            labeled=labeled.unsqueeze(1),
            rewards=torch.zeros(count, 1, device=device),
            continues=torch.ones(count, 1, dtype=torch.bool, device=device),
            is_first=torch.ones(count, 1, dtype=torch.bool, device=device),
            task=task,
        )
        return self._simulator.reset(first)[:, -1]
