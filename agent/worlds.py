"""The real environment and M's dream of it behind one interface, gymnasium's for many environments at once.

Observations are what the controller sees, [z | h | c] (`agent.senses`); actions are the house's rows. `reset` takes a
seed for each environment and, as gymnasium has it, options={"reset_mask": mask} to reset some of them. A finished
environment stays finished until then (`AutoresetMode.DISABLED`).

Axes: b environments, f features, a the flat action row, n = 2 (mean, log-variance), d channels of z.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from agent.envs.vector import VectorEnv
from agent.senses import Senses
from dynamics.actions import ActionSpace
from dynamics.mdn_rnn import MDNRNN, sample_mixture

Features = NDArray[np.float32]
Row = NDArray[np.float32]
Stepped = tuple[Features, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]
"""Observations, rewards, terminated, truncated, infos."""


class LatentWorld(gymnasium.vector.VectorEnv[Features, Row, NDArray[Any]]):
    """What both are; `num_features` is the width of an observation."""

    def __init__(self, num_envs: int, num_features: int, actions: ActionSpace) -> None:
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (num_features,), np.float32)
        self.single_action_space = row_space(actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._seen = np.zeros((num_envs, num_features), np.float32)
        self._terminated, self._truncated = np.zeros(num_envs, np.bool_), np.zeros(num_envs, np.bool_)

    @property
    def finished(self) -> NDArray[np.bool_]:
        return self._terminated | self._truncated

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Features, dict[str, Any]]:
        """Starts the episodes that the seeds name, of the environments that are asked for; the others go on.

        One whole number seeds them all, with the numbers that follow it.
        """
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs)), dtype=np.bool_)
        if seed is None:
            seed = int(np.random.default_rng().integers(2**31))
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else list(seed)
        if len(seeds) != self.num_envs or mask.shape != (self.num_envs,):
            raise ValueError(f"{len(seeds)} seeds and a mask of {mask.shape} for {self.num_envs} environments")
        self._terminated[mask], self._truncated[mask] = False, False
        places = np.flatnonzero(mask).tolist()
        if places:
            self._seen[places] = self._begin(places, [seeds[i] for i in places])
        return self._seen.copy(), {}

    def stop(self, places: Sequence[int]) -> None:
        """These environments need not go on: they are truncated where they are."""
        self._truncated[list(places)] = True

    def step(self, actions: Row) -> Stepped:
        raise NotImplementedError

    def _begin(self, places: list[int], seeds: list[int]) -> Features:
        """Starts episodes in some environments and gives their observations."""
        raise NotImplementedError


class RealWorld(LatentWorld):
    """An environment as V and M make the controller see it. It closes its environments when it is closed."""

    def __init__(self, envs: VectorEnv, senses: Senses) -> None:
        super().__init__(envs.num_envs, senses.num_features, envs.action_space)
        self.envs, self.senses = envs, senses

    def step(self, actions: Row) -> Stepped:
        before = self.finished
        arrivals = self.envs.step(actions)
        self._terminated = before & self._terminated | ~before & np.array([not a.continues for a in arrivals])
        self._truncated = before & self._truncated | ~before & np.array([a.is_last and a.continues for a in arrivals])
        rewards = np.where(before, 0.0, [a.reward for a in arrivals])
        self._seen = self.senses.observe(arrivals).numpy(force=True)
        return self._seen.copy(), rewards, self._terminated.copy(), self._truncated.copy(), {}

    def stop(self, places: Sequence[int]) -> None:
        super().stop(places)
        self.envs.stop(places)

    def close(self, **kwargs: Any) -> None:
        self.envs.close()

    def _begin(self, places: list[int], seeds: list[int]) -> Features:
        arrivals = self.envs.reset_some(dict(zip(places, seeds, strict=True)))
        return self.senses.begin(places, arrivals, self.num_envs).numpy(force=True)


class DreamWorld(LatentWorld):
    """M as an environment. The reward is that of its reward head, or `living_reward` for each step without one.

    An episode begins with the z of a first frame out of the data, ends where the end head says so, by chance with the
    probability that it gives, and is cut after `max_steps`. All its randomness comes from its seed: other environments
    in the batch, or their number, do not change it.
    """

    def __init__(
        self,
        mdn_rnn: MDNRNN,
        starts: Float[Tensor, "m n d"],
        *,
        num_envs: int,
        max_steps: int,
        temperature: float = 1.0,
        living_reward: float = 1.0,
    ) -> None:
        """`starts` are means and log-variances. Raises ValueError without one, or where the temperature is not > 0."""
        if temperature <= 0:
            raise ValueError(f"temperature={temperature} must be above 0")
        if not len(starts) or max_steps < 1:
            raise ValueError(f"a dream needs a start and a step, got {len(starts)} starts and max_steps={max_steps}")
        config = mdn_rnn.config
        super().__init__(num_envs, config.latent_dim + 2 * config.hidden, config.actions)
        self.mdn_rnn, self.starts = mdn_rnn, starts
        self.max_steps, self.temperature, self.living_reward = max_steps, temperature, living_reward
        self._z = torch.zeros(num_envs, config.latent_dim)
        self._state = mdn_rnn.start(num_envs)
        self._steps = np.zeros(num_envs, np.int64)
        self._noise = torch.zeros(num_envs, max_steps, config.latent_dim)
        self._chance = torch.zeros(num_envs, max_steps, config.latent_dim + 1)

    @torch.no_grad()
    def step(self, actions: Row) -> Stepped:
        before = self.finished
        rows = torch.from_numpy(np.asarray(actions, dtype=np.float32))
        self._state = self.mdn_rnn.step(self._state, self._z, rows, torch.from_numpy(self._steps == 0))
        now = torch.arange(self.num_envs), torch.from_numpy(np.minimum(self._steps, self.max_steps - 1))
        chance, noise = self._chance[now], self._noise[now]
        mixture = self.mdn_rnn.mixture(self._state.h)
        self._z = sample_mixture(mixture, chance[:, :-1], noise, temperature=self.temperature)
        self._steps += 1
        rewards = np.full(self.num_envs, self.living_reward)
        if self.mdn_rnn.reward_head is not None:
            rewards = self.mdn_rnn.reward(self._state.h).double().numpy()
        ends = np.zeros(self.num_envs, np.bool_)
        if self.mdn_rnn.end_head is not None:
            ends = (chance[:, -1] < torch.sigmoid(self.mdn_rnn.end_logit(self._state.h))).numpy()
        self._terminated = np.where(before, self._terminated, ends)
        self._truncated = np.where(before, self._truncated, ~ends & (self._steps >= self.max_steps))
        self._seen = torch.cat([self._z, *self._state], dim=-1).numpy()
        rewards = np.where(before, 0.0, rewards)
        return self._seen.copy(), rewards, self._terminated.copy(), self._truncated.copy(), {}

    def _begin(self, places: list[int], seeds: list[int]) -> Features:
        dim = self.mdn_rnn.config.latent_dim
        for place, seed in zip(places, seeds, strict=True):
            rng = np.random.default_rng(seed)
            mean, log_variance = self.starts[int(rng.integers(len(self.starts)))].float()
            noise = torch.from_numpy(rng.standard_normal((self.max_steps + 1, dim), dtype=np.float32))
            self._z[place] = mean + torch.exp(log_variance / 2) * noise[0]
            self._noise[place] = noise[1:]
            self._chance[place] = torch.from_numpy(rng.random((self.max_steps, dim + 1), dtype=np.float32))
            for part in self._state:
                part[place] = 0
        self._steps[places] = 0
        return torch.cat([self._z, *self._state], dim=-1)[places].numpy()


class DreamEnv(gymnasium.Env[Features, Row]):
    """One dream as a plain gymnasium environment, for libraries that want such."""

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self,
        mdn_rnn: MDNRNN,
        starts: Float[Tensor, "m n d"],
        *,
        max_steps: int,
        temperature: float = 1.0,
        living_reward: float = 1.0,
    ) -> None:
        self.world = DreamWorld(
            mdn_rnn, starts, num_envs=1, max_steps=max_steps, temperature=temperature, living_reward=living_reward
        )
        self.observation_space = self.world.single_observation_space
        self.action_space = self.world.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Features, dict[str, Any]]:
        super().reset(seed=seed)
        seen, info = self.world.reset(seed=int(self.np_random.integers(2**31)))
        return seen[0], info

    def step(self, action: Row) -> tuple[Features, float, bool, bool, dict[str, Any]]:
        seen, rewards, terminated, truncated, info = self.world.step(np.asarray(action)[None])
        return seen[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info


def row_space(actions: ActionSpace) -> spaces.Box:
    """Action rows as a gymnasium space; whole numbers of discrete parts are numbers between their bounds there."""
    low, high = actions.bounds()
    return spaces.Box(low, high, dtype=np.float32)
