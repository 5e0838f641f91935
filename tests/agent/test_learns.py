"""Which rows teach what: losses are routed by relevance, and an agent may learn some of them only."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from agent.agent import Agent, AgentConfig, with_false_actions
from agent.heads import HeadConfig
from tests.builders import DYNAMICS, latent_clip, randomised, seeded
from tokenizer.draws import Draws, Rows
from tokenizer.records import LatentClip

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
    known = gradients(CONFIG)["policy.trunk.0.weight"]
    unlabeled = latent_clip(4, 5)
    unlabeled.labeled[2:] = False
    agent = randomised(Agent(CONFIG))
    agent(unlabeled, seeded())[0].backward()
    assert agent.policy.trunk[0].weight.grad is not None
    assert not agent.policy.trunk[0].weight.grad.any()
    assert known.any()


def test_a_weight_of_the_cloning_loss_weighs_nothing_else() -> None:
    usual, weighed = gradients(CONFIG), gradients(replace(CONFIG, policy_weight=3.0))
    for name, gradient in usual.items():
        if name.startswith(("reward.", "end.", "policy.")):
            factor = 3 if name.startswith("policy.") else 1
            torch.testing.assert_close(weighed[name], factor * gradient)
    alone = replace(CONFIG, learns=("policy",))
    torch.testing.assert_close(gradients(replace(alone, policy_weight=3.0)), gradients(alone))
    with pytest.raises(ValueError, match="policy_weight=0"):
        AgentConfig(policy_weight=0)


def test_cloning_alone_leaves_all_other_heads_and_the_video_without_a_gradient() -> None:
    found = gradients(replace(CONFIG, learns=("policy",)))
    assert any(name.startswith("policy.") for name in found)
    assert any(name.startswith("world.transformer.") for name in found)
    assert not any(name.startswith(("reward.", "end.", "world.latent_head.")) for name in found)


def test_false_actions_are_those_of_another_clip_and_only_where_both_are_known() -> None:
    clips, others = latent_clip(6, 6)[:3], latent_clip(6, 6)[3:]
    clips.labeled[1, 4] = others.labeled[2, 3] = False
    heard = with_false_actions(clips, others, 1.0, seeded())
    known = (clips.labeled & others.labeled).unsqueeze(-1)
    assert torch.equal(heard.actions, torch.where(known, others.actions, clips.actions))
    assert not torch.equal(heard.actions, clips.actions) and not known.all()
    assert with_false_actions(clips, others, 0.0, seeded()) is clips
    clips, others = latent_clip(16, 40)[:8], latent_clip(16, 40)[8:]
    changed = (with_false_actions(clips, others, 0.5, seeded()).actions != clips.actions).any(-1).float().mean()
    assert 0.4 < changed < 0.55


def test_false_actions_tell_nothing_of_the_actions_that_are_cloned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actions of the same clip would, whatever their order: they are heard before they are asked for."""
    agent = randomised(Agent(replace(CONFIG, false_actions=1.0)))
    read, heard = agent.read, []

    def listening(batch: LatentClip, generator: Draws) -> Tensor:
        heard.append(batch.actions)
        return read(batch, generator)

    monkeypatch.setattr(agent, "read", listening)
    for shift in (0, 1):
        batch = latent_clip(4, 5)
        batch.labeled[:] = True
        batch.actions[2:] = batch.actions[2:].roll(shift, dims=1)
        agent(batch, seeded())
    assert torch.equal(*heard)


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
