"""An agent's drive in the game, the dream that goes on from it by the agent's own policy, and what the game did then.

Axes: b drives, t frames, n latent tokens of a frame, d their channels, a the flat action row, c h w one RGB frame.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from agent.acting import Policy
from agent.agent import Agent
from agent.dreaming import Dream, dream
from agent.envs.base import Arrival
from agent.envs.vector import VectorEnv
from tokenizer.draws import Draws
from tokenizer.records import LatentClip


class Driven(NamedTuple):
    """Real frames of several environments, and what came with them."""

    frames: NDArray[np.uint8]
    """[b, t, c, h, w]."""
    actions: NDArray[np.float32]
    labeled: NDArray[np.bool_]
    rewards: NDArray[np.float64]
    lengths: list[int]
    """Frames of each until its episode ended, that of the end counted: those after it stand still."""


def drive_on(
    envs: VectorEnv, policy: Policy, tracks: Sequence[int], frames: int, *, seed: int, task: int = 0
) -> Driven:
    """So many frames of each track, the first counted, with what the environment's task of this number pays.

    Raises ValueError where an episode ended by then.
    """
    policy.reset(seed)
    arrivals = [envs.reset(tracks)]
    while len(arrivals) < frames:
        arrivals.append(envs.step(policy.act(arrivals[-1])))
    ended = [track for track, arrival in zip(tracks, arrivals[-1], strict=True) if arrival.is_last]
    if ended:
        raise ValueError(f"context={frames}: the episode of track {ended[0]} had ended by then, give fewer frames")
    return _driven(arrivals, task)


def carry_out(envs: VectorEnv, actions: Float[Tensor, "b t a"], *, task: int = 0) -> Driven:
    """These actions in the game, from where it stands."""
    return _driven([envs.step(rows) for rows in actions.float().cpu().numpy().swapaxes(0, 1)], task)


def dream_on(agent: Agent, driven: Driven, latents: Float[Tensor, "b t n d"], horizon: int, generator: Draws) -> Dream:
    """Goes on from where it was driven to by the agent's own policy, told its first task as in the drive."""
    context = LatentClip(
        latents=latents.float(),
        actions=torch.from_numpy(driven.actions),
        labeled=torch.from_numpy(driven.labeled),
        rewards=torch.from_numpy(driven.rewards).float(),
        continues=torch.ones(driven.labeled.shape, dtype=torch.bool),
        is_first=torch.from_numpy(~driven.labeled),
        task=torch.zeros(len(driven.labeled), dtype=torch.int64),
    )
    return dream(agent, context.to(agent.token_embed.device), horizon, generator=generator)


def compare(dreamed: NDArray[np.float64], real: NDArray[np.float64]) -> dict[str, Any]:
    """Rewards by frame; of an episode that ended the sums and the correlation are of its frames alone.

    There is no correlation where one of both is the same in all frames.
    """
    lived = dreamed[: len(real)]
    varied = len(real) > 1 and np.ptp(lived) > 0 and np.ptp(real) > 0
    return {
        "dreamed_rewards": dreamed.tolist(),
        "real_rewards": real.tolist(),
        "dreamed_sum": float(lived.sum()),
        "real_sum": float(real.sum()),
        "correlation": float(np.corrcoef(lived, real)[0, 1]) if varied else None,
        "compared": len(real),
    }


def _driven(arrivals: Sequence[Sequence[Arrival]], task: int) -> Driven:
    """[t][b] arrivals as [b, t] arrays."""
    by_env = list(zip(*arrivals, strict=True))
    ended = np.array([[a.is_last for a in row] for row in by_env])  # stays true, as a finished one stands still
    return Driven(
        np.stack([np.stack([a.frame for a in row]) for row in by_env]),
        np.stack([np.stack([a.action for a in row]) for row in by_env]),
        np.array([[a.labeled for a in row] for row in by_env]),
        np.array([[a.earned(task) for a in row] for row in by_env], dtype=np.float64),
        [int(row.argmax()) + 1 if row.any() else len(row) for row in ended],
    )
