"""Model sizes by name, from `debug` (seconds) up. The commands' presets are made of these."""

from dataclasses import dataclass

from agent.agent import AgentConfig
from agent.heads import HeadConfig
from agent.imagination import ImaginationConfig
from dynamics.world_model import DynamicsConfig
from tokenizer.autoencoder import TokenizerConfig
from tokenizer.transformer import TransformerConfig


@dataclass(frozen=True, kw_only=True)
class ModelPreset:
    tokenizer: TokenizerConfig
    dynamics: DynamicsConfig
    agent: AgentConfig
    """Its `dynamics` is that of the world model it starts from."""
    imagination: ImaginationConfig
    """Its `agent` is the one it starts from."""


def _tokenizer_stack(dim: int, depth: int, heads: int, hidden: int, window: int) -> TransformerConfig:
    return TransformerConfig(
        dim=dim, depth=depth, num_heads=heads, num_kv_heads=heads, mlp_hidden=hidden, time_every=4, window=window
    )


_DEBUG_STACK = TransformerConfig(dim=32, depth=2, num_heads=2, num_kv_heads=1, mlp_hidden=64, time_every=2, window=6)
_LAPTOP_STACK = _tokenizer_stack(dim=128, depth=4, heads=4, hidden=352, window=8)

MODELS: dict[str, ModelPreset] = {
    "debug": ModelPreset(
        tokenizer=TokenizerConfig(
            patch=16, num_latents=8, latent_dim=8, packing=2, encoder=_DEBUG_STACK, decoder=_DEBUG_STACK
        ),
        dynamics=DynamicsConfig(transformer=_DEBUG_STACK, num_registers=1),
        agent=AgentConfig(heads=HeadConfig(hidden=32), num_tokens=1),
        imagination=ImaginationConfig(horizon=3, num_steps=2, value_warmup=1),
    ),
    "laptop": ModelPreset(
        tokenizer=TokenizerConfig(encoder=_LAPTOP_STACK, decoder=_LAPTOP_STACK),
        dynamics=DynamicsConfig(
            transformer=TransformerConfig(
                dim=192, depth=8, num_heads=6, num_kv_heads=2, mlp_hidden=512, time_every=4, window=16
            ),
        ),
        agent=AgentConfig(),
        # A nearer horizon than the paper's: the value head has a hundred steps to learn its returns.
        imagination=ImaginationConfig(num_steps=2, discount=0.95, value_warmup=40),
    ),
}
