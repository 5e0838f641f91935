"""Models small enough for a test, with parameters that prove something, and clips of noise for them."""

from typing import TypeVar

import torch
from torch import nn

from dynamics.actions import ActionSpace
from dynamics.world_model import DynamicsConfig, WorldModel
from tokenizer.autoencoder import TokenizerConfig
from tokenizer.draws import Draws, split_rows
from tokenizer.records import EpisodeClip, LatentClip
from tokenizer.shard_format import DatasetMeta
from tokenizer.transformer import TransformerConfig

M = TypeVar("M", bound=nn.Module)
SMALL = TransformerConfig(dim=16, depth=4, num_heads=2, num_kv_heads=1, mlp_hidden=24, time_every=2, window=3)
"""Layers: space, time, space, time."""
MIXED = ActionSpace(continuous=("steer", "gas"), categorical=(("mouse", 3),), binary=("jump",))
TOKENIZER = TokenizerConfig(
    frame_size=(8, 8), patch=4, num_latents=4, latent_dim=3, packing=2, encoder=SMALL, decoder=SMALL
)
DYNAMICS = DynamicsConfig(
    latent_shape=(2, 3), actions=MIXED, transformer=SMALL, num_registers=1, max_steps=8, num_steps=4, context_level=6
)
META = DatasetMeta(
    environment="toy",
    frame_size=(4, 4),
    fps=20.0,
    action_space={"continuous": ["x"], "categorical": [], "binary": []},
    tasks=("one",),
)
"""Of datasets of tiny frames."""


def randomised(model: M, std: float = 0.3, seed: int = 0) -> M:
    """Redraws every parameter: many layers start at zero, where a test would see no difference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(std * noise if parameter.ndim > 1 else parameter + 0.1 * noise)
    return model


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def action_rows(space: ActionSpace, *shape: int, seed: int = 0) -> torch.Tensor:
    generator = seeded(seed)
    continuous = torch.rand(*shape, len(space.continuous), generator=generator) * 2 - 1
    counts = [count for _, count in space.categorical] + [2] * len(space.binary)
    discrete = [torch.randint(count, (*shape, 1), generator=generator).float() for count in counts]
    return torch.cat([continuous, *discrete], dim=-1)


def latent_clip(
    batch: int, time: int, shape: tuple[int, int] = (2, 3), space: ActionSpace = MIXED, seed: int = 0
) -> LatentClip:
    """Latents within (-0.5, 0.5); nothing is known of how the first frame came about."""
    labeled = torch.ones(batch, time, dtype=torch.bool)
    labeled[:, 0] = False
    return LatentClip(
        latents=torch.rand(batch, time, *shape, generator=seeded(seed)) - 0.5,
        actions=action_rows(space, batch, time, seed=seed),
        labeled=labeled,
        rewards=torch.randn(batch, time, generator=seeded(seed + 1)),
        continues=torch.ones(batch, time, dtype=torch.bool),
        is_first=~labeled,
        task=torch.zeros(batch, dtype=torch.int64),
    )


def episode_clip(batch: int, time: int, size: int = 8, seed: int = 0) -> EpisodeClip:
    none = torch.zeros(batch, time, dtype=torch.bool)
    return EpisodeClip(
        frames=torch.randint(0, 256, (batch, time, 3, size, size), generator=seeded(seed)).to(torch.uint8),
        actions=action_rows(MIXED, batch, time, seed=seed),
        labeled=~none,
        rewards=torch.zeros(batch, time),
        continues=~none,
        is_first=none,
        task=torch.zeros(batch, dtype=torch.int64),
    )


def in_order(world: WorldModel, clip: LatentClip, draws: Draws) -> LatentClip:
    """The rows as the model's loss puts them: bootstrap rows first, images last."""
    shares = world.config.bootstrap_share, world.config.image_share
    bootstrap, images, others = split_rows(draws, len(clip.task), *shares)
    return clip[[*bootstrap, *others, *images]]
