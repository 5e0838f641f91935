"""Batches of noise in the shapes that models learn from, for measuring and counting; also on the meta device.

Axes: b batch, t frames, a the flat action row.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.actions import ActionSpace
from dynamics.world_model import DynamicsConfig
from launch.presets import Clips
from tokenizer.autoencoder import TokenizerConfig
from tokenizer.records import Clip, EpisodeClip, LatentClip


def random_clips(config: TokenizerConfig | DynamicsConfig, clips: Clips, device: torch.device) -> Clip:
    """What the model of this config learns from."""
    if isinstance(config, TokenizerConfig):
        return random_frames(config, clips, device)
    return random_latents(config, clips, device)


def random_frames(config: TokenizerConfig, clips: Clips, device: torch.device) -> EpisodeClip:
    """Episodes of noise; a tokenizer reads no actions."""
    shape = (*clips, 3, *config.frame_size)
    frames = torch.randint(0, 256, shape, device=device, dtype=torch.uint8)
    return EpisodeClip(frames=frames, actions=torch.zeros(*clips, 1, device=device), **_arrivals(clips, device))


def random_latents(config: DynamicsConfig, clips: Clips, device: torch.device) -> LatentClip:
    """Every action is known."""
    latents = torch.rand(*clips, *config.latent_shape, device=device) - 0.5
    actions = random_actions(config.actions, clips, device)
    return LatentClip(latents=latents, actions=actions, **_arrivals(clips, device))


def random_actions(space: ActionSpace, clips: Clips, device: torch.device) -> Float[Tensor, "b t a"]:
    continuous = torch.rand(*clips, len(space.continuous), device=device) * 2 - 1
    counts = [count for _, count in space.categorical] + [2] * len(space.binary)
    discrete = [torch.randint(count, (*clips, 1), device=device).float() for count in counts]
    return torch.cat([continuous, *discrete], dim=-1)


def _arrivals(clips: Clips, device: torch.device) -> dict[str, Any]:
    """What came with the frames: nothing of note."""
    never = torch.zeros(*clips, dtype=torch.bool, device=device)
    return {
        "labeled": ~never,
        "rewards": torch.zeros(*clips, device=device),
        "continues": ~never,
        "is_first": never,
        "task": torch.zeros(clips.batch, dtype=torch.int64, device=device),
    }
