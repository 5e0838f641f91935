"""Policies in an environment: the agent sees there what it saw in training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from agent.acting import AgentPolicy, Policy, RandomPolicy
from agent.agent import Agent, AgentConfig
from agent.envs.base import Arrival
from agent.heads import HeadConfig
from tests.builders import DYNAMICS, MIXED, TOKENIZER, episode_clip, latent_clip, randomised
from tokenizer.autoencoder import Tokenizer, to_float
from tokenizer.records import EpisodeClip

FRAMES, ENVS = 8, 2  # the windows are 3


@pytest.fixture
def tokenizer() -> Tokenizer:
    return randomised(Tokenizer(TOKENIZER))


@pytest.fixture
def agent() -> Agent:
    """Its contexts are fed without noise."""
    dynamics = replace(DYNAMICS, latent_shape=TOKENIZER.latent_shape, context_level=8)
    heads = HeadConfig(hidden=16, distances=2, action_bins=5)
    return randomised(Agent(AgentConfig(dynamics=dynamics, heads=heads, tasks=("go", "stay"))))


@pytest.fixture
def episode() -> EpisodeClip:
    clip = episode_clip(ENVS, FRAMES)
    first = torch.arange(FRAMES).expand(ENVS, -1) == 0
    return replace(clip, labeled=~first, is_first=first)


def arrivals(episode: EpisodeClip, t: int) -> list[Arrival]:
    return [
        Arrival(
            frame=episode.frames[i, t].numpy(),
            action=episode.actions[i, t].numpy(),
            labeled=bool(episode.labeled[i, t]),
            reward=0.0,
            continues=True,
            is_first=t == 0,
            is_last=False,
        )
        for i in range(ENVS)
    ]


def seen(policy: AgentPolicy, agent: Agent, episode: EpisodeClip, seed: int = 0) -> tuple[Tensor, Tensor]:
    """What the policy head read at each frame, and the actions."""
    features: list[Tensor] = []
    hook = agent.policy.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    policy.reset(seed)
    rows = [policy.act(arrivals(episode, t)) for t in range(FRAMES)]
    hook.remove()
    return torch.stack(features, dim=1), torch.from_numpy(np.stack(rows, axis=1))


@pytest.mark.parametrize("task", [0, 1])
@torch.no_grad()
def test_it_reads_in_play_what_it_reads_in_training(
    tokenizer: Tokenizer, agent: Agent, episode: EpisodeClip, task: int
) -> None:
    clip = replace(
        latent_clip(ENVS, FRAMES, TOKENIZER.latent_shape),
        latents=tokenizer.encode(to_float(episode.frames)),
        actions=episode.actions,
        labeled=episode.labeled,
        task=torch.full((ENVS,), task),
    )
    expected = agent.read(clip, torch.Generator())
    found, rows = seen(AgentPolicy(tokenizer, agent, task=task), agent, episode)
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=1e-3)
    for t in range(FRAMES):
        MIXED.check(rows[:, t].numpy())
    assert rows.dtype == torch.float32 and rows.shape == (ENVS, FRAMES, MIXED.size)


def test_a_reset_begins_a_new_episode(tokenizer: Tokenizer, agent: Agent, episode: EpisodeClip) -> None:
    policy = AgentPolicy(tokenizer, agent)
    seen(policy, agent, replace(episode, frames=255 - episode.frames))
    again, fresh = seen(policy, agent, episode)[0], seen(AgentPolicy(tokenizer, agent), agent, episode)[0]
    assert torch.equal(again, fresh)


def test_the_seed_decides_what_is_sampled(tokenizer: Tokenizer, agent: Agent, episode: EpisodeClip) -> None:
    policy = AgentPolicy(tokenizer, agent)
    one, two, other = (seen(policy, agent, episode, seed)[1] for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_environments_of_a_batch_do_not_influence_each_other(
    tokenizer: Tokenizer, agent: Agent, episode: EpisodeClip
) -> None:
    frames = episode.frames.clone()
    frames[1] = 255 - frames[1]
    policy = AgentPolicy(tokenizer, agent)
    one, two = seen(policy, agent, episode)[0], seen(policy, agent, replace(episode, frames=frames))[0]
    torch.testing.assert_close(one[0], two[0])
    assert (one[1] - two[1]).abs().max() > 1e-3


def test_the_random_policy_repeats_itself_for_a_seed(episode: EpisodeClip) -> None:
    policy = RandomPolicy(MIXED)
    rows = []
    for seed in (1, 1, 2):
        policy.reset(seed)
        rows.append(np.stack([policy.act(arrivals(episode, 0)) for _ in range(3)]))
    np.testing.assert_array_equal(rows[0], rows[1])
    assert (rows[0] != rows[2]).any() and rows[0].shape == (3, ENVS, MIXED.size) and rows[0].dtype == np.float32
    MIXED.check(rows[0])
    assert isinstance(policy, Policy)


def told(policy: AgentPolicy, agent: Agent, episode: EpisodeClip, tasks: dict[int, list[int]]) -> Tensor:
    """What the policy head read at each frame, told these tasks before the frames of these numbers."""
    features: list[Tensor] = []
    hook = agent.policy.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    policy.reset(0)
    for t in range(FRAMES):
        if t in tasks:
            policy.tell(tasks[t])
        policy.act(arrivals(episode, t))
    hook.remove()
    return torch.stack(features, dim=1)


def test_another_task_is_heard_from_then_on_by_the_environment_that_it_is_for(
    tokenizer: Tokenizer, agent: Agent, episode: EpisodeClip
) -> None:
    policy = AgentPolicy(tokenizer, agent)
    zeros, ones = (seen(AgentPolicy(tokenizer, agent, task=task), agent, episode)[0] for task in (0, 1))
    torch.testing.assert_close(told(policy, agent, episode, {0: [0, 1]}), torch.stack([zeros[0], ones[1]]))
    changed = told(policy, agent, episode, {4: [0, 1]})
    torch.testing.assert_close(changed[0], zeros[0])
    torch.testing.assert_close(changed[1, :4], zeros[1, :4])
    assert not torch.isclose(changed[1, 4:], zeros[1, 4:]).all()
    torch.testing.assert_close(told(policy, agent, episode, {}), zeros)  # a reset forgets what was told
