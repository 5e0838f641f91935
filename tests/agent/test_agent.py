"""The agent: which frame each head reads, which rows each loss takes, and that it learns no more than it may know."""

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agent.agent import Agent, AgentConfig, Term, ahead
from agent.heads import HeadConfig
from dynamics.simulator import Simulator
from tests.agent.conftest import toy_episodes
from tests.builders import DYNAMICS, MIXED, action_rows, latent_clip, randomised, seeded
from tokenizer.records import LatentClip

CONFIG = AgentConfig(
    dynamics=DYNAMICS, heads=HeadConfig(hidden=16, distances=2, action_bins=5), num_tokens=2, tasks=("go", "stay")
)


@pytest.fixture
def agent() -> Agent:
    return randomised(Agent(CONFIG))


class Echo(nn.Module):
    """A head whose loss is the target itself."""

    def forward(self, features: Tensor) -> Tensor:
        return features

    def log_prob(self, hidden: Tensor, rows: Tensor) -> Tensor:
        return rows[..., 0]

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return target


def test_ahead_by_hand() -> None:
    clip, frames = latent_clip(1, 3), torch.tensor([[1, 2, 3]])
    values, inside = ahead(clip, frames, range(1, 3))
    assert inside.tolist() == [[[True, True], [True, False], [False, False]]]
    assert values[inside].tolist() == [2, 3, 3]
    values, inside = ahead(clip, frames, range(2))
    assert inside.tolist() == [[[True, True], [True, True], [True, False]]]
    assert values[inside].tolist() == [1, 2, 2, 3, 3]
    assert ahead(latent_clip(2, 3), torch.zeros(2, 3, 4), range(1, 3))[0].shape == (2, 3, 2, 4)
    joined = replace(clip, is_first=torch.tensor([[True, False, True]]))
    values, inside = ahead(joined, frames, range(2))
    assert values[inside].tolist() == [1, 2, 2], "nothing of the episode that fills it up"


def test_the_policys_targets_are_the_actions_after_the_frame(agent: Agent) -> None:
    agent.policy = Echo()  # type: ignore[assignment]
    clip = replace(latent_clip(1, 4), labeled=torch.ones(1, 4, dtype=torch.bool))
    clip.actions[..., 0] = torch.tensor([100.0, 1, 2, 4])
    hidden = torch.zeros(1, 4, 32)
    assert agent.policy_loss(hidden, clip) == pytest.approx(-((1 + 2 + 4) / 3 + (2 + 4) / 2))
    clip.labeled[0, 2] = False
    assert agent.policy_loss(hidden, clip) == pytest.approx(-((1 + 4) / 2 + 4))
    assert agent.policy_loss(hidden, replace(clip, labeled=torch.zeros_like(clip.labeled))) == 0


def test_rewards_are_read_where_they_arrive(agent: Agent) -> None:
    agent.reward = Echo()  # type: ignore[assignment]
    clip = replace(latent_clip(1, 4), rewards=torch.tensor([[8.0, 1, 2, 4]]))
    assert agent.reward_loss(torch.zeros(1, 4, 32), clip) == pytest.approx((8 + 1 + 2 + 4) / 4 + (1 + 2 + 4) / 3)


def test_ends_are_read_where_they_arrive(agent: Agent) -> None:
    with torch.no_grad():
        agent.end.out_head.weight.zero_()
        agent.end.out_head.bias.copy_(torch.tensor([1.0, 2.0]))
    clip = replace(latent_clip(1, 4), continues=torch.tensor([[True, True, True, False]]))
    expected = (3 * F.softplus(torch.tensor(-1.0)) + F.softplus(torch.tensor(1.0))) / 4
    expected += (2 * F.softplus(torch.tensor(-2.0)) + F.softplus(torch.tensor(2.0))) / 3
    torch.testing.assert_close(agent.end_loss(torch.zeros(1, 4, 32), clip), expected)


@pytest.fixture
def batch() -> LatentClip:
    """Rows 0 to 2 are uniform, rows 3 to 5 relevant."""
    return latent_clip(6, 4)


def test_video_without_actions_teaches_reward_and_end_heads_nothing(agent: Agent, batch: LatentClip) -> None:
    """It says neither what was earned nor whether it went on: nothing and yes would be guesses."""
    batch.labeled[:2] = False
    before = agent(batch, seeded())[1]
    rewards, continues = batch.rewards.clone(), batch.continues.clone()
    rewards[:2], continues[:2] = 7.0, False
    after = agent(replace(batch, rewards=rewards, continues=continues), seeded())[1]
    assert {name for name in before if not torch.equal(before[name], after[name])} == set()
    rewards[2] = 7.0
    assert agent(replace(batch, rewards=rewards), seeded())[1]["reward_loss"] != before["reward_loss"]


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_that_is_no_two_halves_is_a_clear_error(agent: Agent, batch: int) -> None:
    with pytest.raises(ValueError, match=f"{batch} rows are no two halves"):
        agent(latent_clip(batch, 3), seeded())


def metrics_after(agent: Agent, batch: LatentClip, rows: list[int]) -> dict[str, Tensor]:
    """What the losses are once latents and later actions of these rows are others."""
    latents, actions = batch.latents.clone(), batch.actions.clone()
    latents[rows] *= -1
    actions[rows] = action_rows(MIXED, len(rows), 4, seed=9)
    metrics: dict[str, Tensor] = agent(replace(batch, latents=latents, actions=actions), seeded())[1]
    return metrics


@pytest.mark.parametrize(
    ("rows", "moved"),
    [
        ([0, 1, 2], {"loss", "video_loss", "flow_error", "bootstrap_error", "reward_loss", "end_loss"}),
        ([3, 4, 5], {"loss", "policy_loss"}),
    ],
)
def test_uniform_rows_teach_the_world_and_relevant_rows_the_policy(
    agent: Agent, batch: LatentClip, rows: list[int], moved: set[str]
) -> None:
    before, after = metrics_after(agent, batch, []), metrics_after(agent, batch, rows)
    assert {name for name in before if not torch.allclose(before[name], after[name])} == moved


def test_nothing_is_learned_of_an_episode_that_fills_a_clip_up(agent: Agent) -> None:
    clip = latent_clip(4, 6)
    clip.is_first[:, 4] = True
    other = replace(clip, **{name: getattr(clip, name).clone() for name in ("latents", "actions", "rewards")})
    other.latents[:, 4:], other.actions[:, 4:], other.rewards[:, 4:] = 0.3, 0.0, 5.0
    other = replace(other, continues=clip.continues.clone(), labeled=clip.labeled.clone())
    other.continues[:, 4:], other.labeled[:, 4:] = False, False
    alone = replace(agent.config, false_actions=0.0)  # those are of any episode
    agent = randomised(Agent(alone, agent.world))
    torch.testing.assert_close(agent(other, seeded())[1], agent(clip, seeded())[1])
    clip.is_first[:, 4] = other.is_first[:, 4] = False
    found, same = agent(other, seeded())[1], agent(clip, seeded())[1]
    assert not any(torch.isclose(found[name], same[name]) for name in found), "else all of it"


def test_every_term_is_divided_by_its_own_running_rms(agent: Agent, batch: LatentClip) -> None:
    torch.testing.assert_close(agent(batch, seeded())[0].detach(), torch.tensor(4.0))  # each is its own RMS at first


def test_every_parameter_learns(agent: Agent, batch: LatentClip) -> None:
    agent(batch, seeded())[0].backward()
    idle = {name for name, p in agent.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert idle == set()


@pytest.mark.parametrize("learns", [("policy",), ("policy", "reward")])
def test_what_no_loss_reaches_asks_for_no_gradient(batch: LatentClip, learns: tuple[Term, ...]) -> None:
    """Ranks that train together wait for the gradient of all that asks for one."""
    agent = randomised(Agent(replace(CONFIG, learns=learns)))
    agent(batch, seeded())[0].backward()
    assert {name for name, p in agent.named_parameters() if p.requires_grad and p.grad is None} == set()


def test_the_task_bears_on_what_the_heads_read_and_not_on_the_world(agent: Agent) -> None:
    clip = latent_clip(2, 4)
    other = replace(clip, task=torch.tensor([0, 1]))
    one, two = agent.read(clip, seeded()), agent.read(other, seeded())
    torch.testing.assert_close(one[0], two[0])
    assert (one[1] - two[1]).abs().amin(0).max() > 1e-3 and one.shape == (2, 4, 32)


def test_it_overfits_one_batch() -> None:
    torch.manual_seed(1)
    agent, batch, generator = Agent(CONFIG), latent_clip(2, 4), seeded()
    agent.world.fit_standardisation(batch.latents)
    optimizer = torch.optim.AdamW(agent.parameters(), lr=1e-2, weight_decay=0.0)
    history = []
    for _ in range(120):
        loss, metrics = agent(batch, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append([float(metrics[name]) for name in ("policy_loss", "reward_loss")])
    # A continuous action between two bins and a reward between two have an entropy that no policy can beat.
    targets = agent.policy.targets(batch.actions)
    floor = -sum(float((t * t.clamp_min(1e-9).log()).sum(-1).mean()) for t in targets) * CONFIG.heads.distances
    first, last = torch.tensor(history[:5]).mean(0), torch.tensor(history[-10:]).mean(0)
    assert last[0] - floor < (first[0] - floor) / 4
    assert last[1] < first[1] / 4


def part_log_prob(agent: Agent, part: int, distance: int = 1) -> Tensor:
    """Mean log-probability of one part of the action, on fresh episodes, frames at which it is known."""
    clip = toy_episodes(200, 6, seeded(77))
    with torch.no_grad():
        hidden = agent.policy(agent.read(clip, seeded(78)))
        targets = agent.policy.targets(ahead(clip, clip.actions, range(1, 3))[0])
        logs = agent.policy.log_probs(hidden, targets)
    return (logs[part] * targets[part]).sum(-1)[:, :-distance, distance - 1].mean()


def test_an_action_that_the_present_frame_shows_is_learned(learned: Agent) -> None:
    assert part_log_prob(learned, 0) > math.log(0.95)


def test_an_action_that_only_the_next_frame_shows_cannot_be_known(learned: Agent) -> None:
    """A leak of a_{t+1}, or a_t taken for the target, would lift this to zero."""
    assert part_log_prob(learned, 1) < math.log(0.55)
    assert part_log_prob(learned, 0, distance=2) < math.log(0.55)  # nor is the one after next


def test_imagined_reward_follows_the_action(learned: Agent) -> None:
    clip = toy_episodes(32, 5, seeded(5))

    def imagined(late: float) -> Tensor:
        simulator = Simulator(learned.world, agent_tokens=learned.tokens(clip.task), generator=seeded())
        simulator.reset(clip)
        action = torch.stack([torch.randint(2, (32,), generator=seeded(1)).float(), torch.full((32,), late)], dim=-1)
        with torch.no_grad():
            features = learned.features(simulator.step(action).agent_output)
            return learned.reward.mean(learned.reward(features)[..., 0, :])

    for late in (0.0, 1.0):  # a small model dreams a few of the worlds wrong
        assert ((imagined(late) - late).abs() < 0.2).float().mean() > 0.8


def test_the_learned_world_shows_what_the_action_did(learned: Agent) -> None:
    clip = toy_episodes(32, 5, seeded(5))
    for late in (0.0, 1.0):
        simulator = Simulator(deepcopy(learned.world), generator=seeded())
        simulator.reset(clip)
        latents = simulator.step(torch.full((32, 2), late)).latents
        assert ((latents[:, 0, 1] - (late - 0.5)).abs() < 0.2).float().mean() > 0.9


def test_settings_that_make_no_sense_are_named() -> None:
    with pytest.raises(ValueError, match="each named once"):
        AgentConfig(tasks=())
    with pytest.raises(ValueError, match="each named once"):
        AgentConfig(tasks=("go", "go"))
