"""A tiny agent that has learned a tiny world, for all tests that ask what it has learned."""

import pytest
import torch

from agent.agent import Agent, AgentConfig
from agent.heads import HeadConfig
from dynamics.actions import ActionSpace
from dynamics.world_model import DynamicsConfig
from tests.builders import SMALL, seeded
from tokenizer.records import LatentClip
from tokenizer.transformer import TransformerConfig

TOY = ActionSpace(binary=("seen", "late"))
TRANSFORMER = TransformerConfig(
    dim=32, depth=2, num_heads=4, num_kv_heads=2, mlp_hidden=48, time_every=2, window=SMALL.window
)


def toy_episodes(batch: int, time: int, generator: torch.Generator) -> LatentClip:
    """Coins: "seen" stands in the frame before the action, "late" only in the frame after; the reward is "late"."""
    actions = torch.randint(2, (batch, time + 1, 2), generator=generator).float()
    latents = torch.stack([actions[:, 1:, 0], actions[:, :-1, 1]], dim=-1) - 0.5
    labeled = torch.ones(batch, time, dtype=torch.bool)
    labeled[:, 0] = False
    return LatentClip(
        latents=latents.unsqueeze(2),
        actions=actions[:, :-1] * labeled.unsqueeze(-1),
        labeled=labeled,
        rewards=actions[:, :-1, 1] * labeled,
        continues=torch.ones(batch, time, dtype=torch.bool),
        is_first=~labeled,
        task=torch.zeros(batch, dtype=torch.int64),
    )


@pytest.fixture(scope="session")
def learned() -> Agent:
    """Trained on ever new coins, so that nothing can be learned by heart. Copy it before changing it."""
    torch.manual_seed(0)
    dynamics = DynamicsConfig(
        latent_shape=(1, 2), actions=TOY, transformer=TRANSFORMER, num_registers=1, max_steps=8, context_level=7
    )
    agent = Agent(AgentConfig(dynamics=dynamics, heads=HeadConfig(hidden=32, distances=2), num_tokens=1))
    generator = seeded()
    agent.world.fit_standardisation(toy_episodes(64, 6, generator).latents)
    optimizer = torch.optim.AdamW(agent.parameters(), lr=5e-3, weight_decay=0.0)
    for _ in range(400):
        loss, _ = agent(toy_episodes(24, 6, generator), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return agent.eval()
