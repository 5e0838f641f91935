"""Which rows teach what: losses are routed by relevance, and an agent may learn some of them only."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from agent.agent import Agent, AgentConfig
from agent.heads import HeadConfig
from tests.builders import DYNAMICS, latent_clip, randomised, seeded

CONFIG = AgentConfig(dynamics=DYNAMICS, heads=HeadConfig(hidden=8, distances=2, action_bins=5))


def gradients(config: AgentConfig, *, spoil: slice | None = None) -> dict[str, Tensor]:
    """Of each parameter; with the rewards, ends or actions of the rows `spoil` changed beforehand."""
    torch.manual_seed(0)
    agent = randomised(Agent(config))
    batch = latent_clip(4, 5)
    if spoil is not None:
        batch.rewards[spoil] += 3
        batch.continues[spoil] = False
    loss, _ = agent(batch, seeded())
    loss.backward()
    return {name: p.grad for name, p in agent.named_parameters() if p.grad is not None}


def test_rewards_and_ends_of_relevant_rows_teach_nothing() -> None:
    """Else the reward head would learn to expect success."""
    usual, other = gradients(CONFIG), gradients(CONFIG, spoil=slice(2, 4))
    assert all(torch.equal(usual[name], other[name]) for name in usual)
    uniform = gradients(CONFIG, spoil=slice(0, 2))
    assert not torch.equal(usual["reward.out_head.weight"], uniform["reward.out_head.weight"])
    assert not torch.equal(usual["end.out_head.weight"], uniform["end.out_head.weight"])


def test_actions_to_come_of_uniform_rows_are_not_cloned() -> None:
    agent = randomised(Agent(CONFIG))
    batch = latent_clip(4, 5)
    hidden = agent.read(batch, seeded()).detach()
    taught = agent.policy_loss(hidden[2:], batch[2:])
    batch.actions[:2] = 0
    torch.testing.assert_close(agent.policy_loss(hidden[2:], batch[2:]), taught)
    known = gradients(CONFIG)["policy.trunk.0.weight"]
    unlabeled = latent_clip(4, 5)
    unlabeled.labeled[2:] = False
    agent = randomised(Agent(CONFIG))
    agent(unlabeled, seeded())[0].backward()
    assert agent.policy.trunk[0].weight.grad is not None
    assert not agent.policy.trunk[0].weight.grad.any()
    assert known.any()


def test_cloning_alone_leaves_all_other_heads_and_the_video_without_a_gradient() -> None:
    found = gradients(replace(CONFIG, learns=("policy",)))
    assert any(name.startswith("policy.") for name in found)
    assert any(name.startswith("world.transformer.") for name in found)
    assert not any(name.startswith(("reward.", "end.", "world.latent_head.")) for name in found)


def test_an_agent_that_does_not_clone_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks 'policy'"):
        replace(CONFIG, learns=("video",))
