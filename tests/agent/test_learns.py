"""Which rows teach what: losses are routed by relevance, and an agent may learn some of them only."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from agent.agent import Agent, AgentConfig, with_false_actions
from agent.heads import HeadConfig
from tests.builders import DYNAMICS, latent_clip, randomised, seeded
from tokenizer.draws import Rows

CONFIG = AgentConfig(dynamics=DYNAMICS, heads=HeadConfig(hidden=8, distances=2, action_bins=5))


def gradients(config: AgentConfig, *, spoil: slice | None = None) -> dict[str, Tensor]:
    """Of each parameter; with the rewards, ends or actions of the rows `spoil` changed beforehand."""
    torch.manual_seed(0)
    agent = randomised(Agent(config))
    batch = latent_clip(4, 5)
    if spoil is not None:
        batch.rewards[spoil] += 3
        batch.continues[spoil] = False
    loss, _ = agent(batch, Rows(0, 1, 0, 4, torch.device("cpu")))
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


def test_false_actions_are_those_of_another_time_and_only_where_both_are_known() -> None:
    clip = latent_clip(3, 6)
    clip.labeled[1, 4] = False
    heard = with_false_actions(clip, 1.0, seeded())
    expected = clip.actions.roll(3, dims=1)
    for row in range(3):
        for t in range(6):
            known = clip.labeled[row, t] and clip.labeled[row, (t - 3) % 6]
            assert torch.equal(heard.actions[row, t], (expected if known else clip.actions)[row, t])
    assert with_false_actions(clip, 0.0, seeded()) is clip
    some = with_false_actions(latent_clip(8, 40), 0.5, seeded()).actions
    changed = (some != latent_clip(8, 40).actions).any(-1).float().mean()
    assert 0.4 < changed < 0.55


def test_what_is_cloned_and_what_uniform_rows_hear_are_true_actions() -> None:
    """Rewards and video of the uniform rows are learned as without."""
    usual, other = gradients(CONFIG), gradients(replace(CONFIG, false_actions=1.0))
    assert torch.equal(usual["world.latent_head.weight"], other["world.latent_head.weight"])
    assert torch.equal(usual["reward.out_head.bias"], other["reward.out_head.bias"])
    assert not torch.equal(usual["policy.trunk.0.weight"], other["policy.trunk.0.weight"])
    with pytest.raises(ValueError, match="false_actions=2"):
        replace(CONFIG, false_actions=2)


def test_an_agent_that_does_not_clone_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks 'policy'"):
        replace(CONFIG, learns=("video",))
