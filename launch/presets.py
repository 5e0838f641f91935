"""Model sizes by name, from `debug` (seconds) up. The commands' presets are made of these."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from agent.agent import AgentConfig
from agent.envs.minecraft_actions import MINECRAFT
from agent.envs.minecraft_events import TASKS
from agent.heads import HeadConfig
from agent.imagination import ImaginationConfig
from dynamics.actions import ActionSpace
from dynamics.world_model import DynamicsConfig
from tokenizer.autoencoder import TokenizerConfig
from tokenizer.transformer import TransformerConfig


class Clips(NamedTuple):
    """The size of a batch."""

    batch: int
    frames: int
    """Of each clip."""


@dataclass(frozen=True, kw_only=True)
class ModelPreset:
    tokenizer: TokenizerConfig
    dynamics: DynamicsConfig
    agent: AgentConfig
    """Its `dynamics` is that of the world model it starts from."""
    imagination: ImaginationConfig
    """Its `agent` is the one it starts from."""
    tokenizer_clips: Clips = Clips(8, 16)
    """A training step of the tokenizer on each device, in plans and benchmarks."""
    dynamics_clips: Clips = Clips(8, 16)
    """The same of the dynamics."""

    @property
    def joined_dynamics(self) -> DynamicsConfig:
        """The dynamics of this tokenizer's latents, past its warm-up."""
        return replace(self.dynamics, latent_shape=self.tokenizer.latent_shape, bootstrap_warmup=0)


def _tokenizer_stack(dim: int, depth: int, heads: int, hidden: int, window: int) -> TransformerConfig:
    return TransformerConfig(
        dim=dim, depth=depth, num_heads=heads, num_kv_heads=heads, mlp_hidden=hidden, time_every=4, window=window
    )


_DEBUG_STACK = TransformerConfig(dim=32, depth=2, num_heads=2, num_kv_heads=1, mlp_hidden=64, time_every=2, window=6)
_LAPTOP_STACK = _tokenizer_stack(dim=128, depth=4, heads=4, hidden=352, window=8)
_CARRACING_STACK = _tokenizer_stack(dim=192, depth=4, heads=6, hidden=512, window=8)
_STUDY_LARGE_STACK = _tokenizer_stack(dim=256, depth=6, heads=8, hidden=704, window=8)
_S_STACK = _tokenizer_stack(dim=256, depth=4, heads=4, hidden=1024, window=256)
_BASE_STACK = _tokenizer_stack(dim=512, depth=8, heads=8, hidden=1024, window=96)
_DREAMER4_STACK = _tokenizer_stack(dim=1024, depth=12, heads=16, hidden=4096, window=192)

CAR_RACING = ActionSpace(continuous=("steering", "gas", "brake"))

_LAPTOP = ModelPreset(
    tokenizer=TokenizerConfig(encoder=_LAPTOP_STACK, decoder=_LAPTOP_STACK),
    dynamics=DynamicsConfig(
        transformer=TransformerConfig(
            dim=192, depth=8, num_heads=6, num_kv_heads=2, mlp_hidden=512, time_every=4, window=16
        ),
    ),
    agent=AgentConfig(),
    # A nearer horizon than the paper's: the value head has a hundred steps to learn its returns.
    imagination=ImaginationConfig(num_steps=2, discount=0.95, value_warmup=40),
    tokenizer_clips=Clips(8, 8),
    dynamics_clips=Clips(8, 20),
)

_STUDY_DYNAMICS = DynamicsConfig(
    num_tokens=8, num_registers=2, transformer=replace(_LAPTOP.dynamics.transformer, window=24)
)
_STUDY_AGENT = AgentConfig(temperature=0.25, false_actions=1.0)
"""See agent/EXPERIMENTS.md."""
_STUDY_IMAGINATION = ImaginationConfig(
    horizon=24, num_steps=1, discount=0.97, decay=0.95, min_advantage=0.3, real_value=1.0, value_warmup=30
)

MODELS: dict[str, ModelPreset] = {
    "debug": ModelPreset(
        tokenizer=TokenizerConfig(
            patch=16, num_latents=8, latent_dim=8, packing=2, encoder=_DEBUG_STACK, decoder=_DEBUG_STACK
        ),
        dynamics=DynamicsConfig(transformer=_DEBUG_STACK, num_registers=1),
        agent=AgentConfig(heads=HeadConfig(hidden=32), num_tokens=1),
        imagination=ImaginationConfig(horizon=3, num_steps=2, value_warmup=1),
        tokenizer_clips=Clips(2, 4),
        dynamics_clips=Clips(4, 8),
    ),
    "laptop": _LAPTOP,
    "carracing": replace(
        _LAPTOP,
        tokenizer=TokenizerConfig(encoder=_CARRACING_STACK, decoder=_CARRACING_STACK),
        dynamics=DynamicsConfig(
            transformer=replace(_LAPTOP.dynamics.transformer, dim=256, num_heads=8, mlp_hidden=704),
        ),
    ),
    # Eight latent tokens a frame in place of sixteen: half the slots, in which agents learn and dream twice as fast.
    "study": replace(
        _LAPTOP,
        dynamics=_STUDY_DYNAMICS,
        agent=_STUDY_AGENT,
        imagination=_STUDY_IMAGINATION,
        dynamics_clips=Clips(8, 24),
    ),
    # The study on a GPU, where its sizes would leave the arithmetic idle.
    "study_large": ModelPreset(
        tokenizer=TokenizerConfig(encoder=_STUDY_LARGE_STACK, decoder=_STUDY_LARGE_STACK),
        dynamics=replace(
            _STUDY_DYNAMICS,
            num_tokens=16,
            num_registers=4,
            transformer=replace(_STUDY_DYNAMICS.transformer, dim=384, mlp_hidden=1024),
        ),
        agent=_STUDY_AGENT,
        imagination=_STUDY_IMAGINATION,
        tokenizer_clips=Clips(64, 8),
        dynamics_clips=Clips(64, 24),
    ),
    # The study's sizes; how its agents act was found for driving. See agent/EXPERIMENTS.md.
    "crafter": replace(
        _LAPTOP,
        tokenizer=replace(
            _LAPTOP.tokenizer, frame_size=(72, 72), num_latents=64, latent_dim=8, packing=4, max_mask=0.5
        ),
        dynamics=_STUDY_DYNAMICS,
        agent=AgentConfig(policy_weight=16.0),
        # Its dreams pay for more than the game does: the prior holds what was cloned.
        imagination=replace(_STUDY_IMAGINATION, beta=1.0),
        tokenizer_clips=Clips(32, 2),
        dynamics_clips=Clips(8, 24),
    ),
    # Real Minecraft at its own size, as far as two cores can learn it.
    "minecraft": ModelPreset(
        tokenizer=TokenizerConfig(
            frame_size=(384, 640),
            patch=16,
            num_latents=256,
            latent_dim=16,
            packing=2,
            encoder=_LAPTOP_STACK,
            decoder=_LAPTOP_STACK,
        ),
        dynamics=replace(_LAPTOP.dynamics, latent_shape=(128, 32), num_tokens=32, actions=MINECRAFT),
        agent=AgentConfig(tasks=TASKS),
        imagination=_LAPTOP.imagination,
        tokenizer_clips=Clips(4, 2),
        dynamics_clips=Clips(2, 16),
    ),
    # What other implementations of these models were timed at.
    "S": ModelPreset(
        tokenizer=TokenizerConfig(encoder=_S_STACK, decoder=_S_STACK),
        dynamics=DynamicsConfig(
            actions=CAR_RACING,
            transformer=TransformerConfig(
                dim=256, depth=8, num_heads=4, num_kv_heads=1, mlp_hidden=1024, time_every=4, window=256
            ),
        ),
        agent=AgentConfig(num_tokens=1),
        imagination=ImaginationConfig(),
    ),
    "base": ModelPreset(
        tokenizer=TokenizerConfig(
            frame_size=(128, 128),
            num_latents=64,
            encoder=_BASE_STACK,
            decoder=_BASE_STACK,
            perceptual_weight=0.2,
        ),
        dynamics=DynamicsConfig(
            latent_shape=(64, 32),
            actions=CAR_RACING,
            transformer=TransformerConfig(
                dim=1024, depth=12, num_heads=16, num_kv_heads=4, mlp_hidden=2816, time_every=4, window=96
            ),
        ),
        agent=AgentConfig(heads=HeadConfig(hidden=512)),
        imagination=ImaginationConfig(),
        tokenizer_clips=Clips(8, 32),
        dynamics_clips=Clips(16, 32),
    ),
    # The paper's sizes. It gives no depths and widths: these make 407M and 1.57B parameters.
    "dreamer4": ModelPreset(
        tokenizer=TokenizerConfig(
            frame_size=(384, 640),
            patch=16,
            num_latents=512,
            latent_dim=16,
            packing=2,
            encoder=_DREAMER4_STACK,
            decoder=_DREAMER4_STACK,
            perceptual_weight=0.2,
        ),
        dynamics=DynamicsConfig(
            latent_shape=(256, 32),
            actions=MINECRAFT,
            transformer=TransformerConfig(
                dim=1920,
                depth=30,
                num_heads=30,
                num_kv_heads=3,
                mlp_hidden=7680,
                time_every=4,
                window=192,
                soft_cap=50.0,
            ),
        ),
        agent=AgentConfig(heads=HeadConfig(hidden=1024), tasks=TASKS),
        imagination=ImaginationConfig(horizon=32),
        tokenizer_clips=Clips(4, 64),
        dynamics_clips=Clips(4, 64),
    ),
}
