"""Imagination training: who learns, what a dream counts for, and that the policy follows the reward."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from agent.agent import Agent, AgentConfig
from agent.dreaming import Dream
from agent.heads import HeadConfig, TwoHot
from agent.imagination import Imagination, ImaginationConfig
from agent.pmpo import far_from_zero, pmpo_loss
from dynamics.actions import ActionSpace
from launch.distributed import make_accelerator
from launch.loop import LoopConfig, train
from tests.agent.conftest import toy_episodes
from tests.builders import DYNAMICS, latent_clip, randomised, seeded
from tokenizer.draws import Rows
from tokenizer.records import LatentClip

Actor = Literal["pmpo", "dynamics"]

CONFIG = ImaginationConfig(horizon=4, num_steps=1, value_warmup=0)


def make(config: ImaginationConfig = CONFIG) -> Imagination:
    heads = HeadConfig(hidden=16, distances=2, action_bins=5)
    return Imagination(config, randomised(Agent(AgentConfig(dynamics=DYNAMICS, heads=heads))))


@pytest.fixture
def contexts() -> LatentClip:
    return latent_clip(6, 4)


def update(model: Imagination, contexts: LatentClip, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    loss, _ = model(contexts, seeded(seed))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def changed_parameters(model: Imagination, before: dict[str, Tensor]) -> set[str]:
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


def snapshot(model: Imagination) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def all_of(model: Imagination, *parts: str) -> set[str]:
    """Names of the parameters of these parts; the policy is also the agent's, under the name met first."""
    return {name for name, _ in model.named_parameters() if name.startswith(parts)}


def sgd(model: Imagination) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)


def test_nothing_is_dreamt_behind_the_end_of_an_episode(contexts: LatentClip) -> None:
    ends = torch.tensor([True, False, True, False, False, False])
    continues = contexts.continues.clone()
    continues[:, -1] = ~ends
    contexts = replace(contexts, continues=continues)
    counts = make().dream(contexts, seeded()).counts
    assert not counts[ends].any() and counts[~ends, 0].all()


def test_only_policy_and_value_learn(contexts: LatentClip) -> None:
    model = make()
    before, optimizer = snapshot(model), sgd(model)
    for seed in range(3):
        update(model, contexts, optimizer, seed)
    changed = changed_parameters(model, before)
    mine = all_of(model, "agent.policy", "value")
    assert changed <= mine | all_of(model, "slow_value")  # which follows
    assert {name for name in mine if "out_head" in name} <= changed
    assert not any(p.requires_grad for p in model.prior.parameters())
    assert not any(p.requires_grad for p in model.agent.world.parameters())


def test_the_prior_is_the_policy_that_imagination_began_with(contexts: LatentClip) -> None:
    model = make()
    cloned, optimizer = deepcopy(model.policy.state_dict()), sgd(model)
    assert model(contexts, seeded())[1]["kl_to_prior"] == pytest.approx(0, abs=1e-6)
    for seed in range(3):
        update(model, contexts, optimizer, seed)
    for name, value in model.prior.state_dict().items():
        assert torch.equal(value, cloned[name])
    assert model(contexts, seeded())[1]["kl_to_prior"] > 1e-4


def test_imagination_begins_with_the_policy_as_it_acts(contexts: LatentClip) -> None:
    """At a temperature: the prior, too, is what is drawn from, and what is saved acts as it is."""
    heads = HeadConfig(hidden=16, distances=2, action_bins=5)
    agent = randomised(Agent(AgentConfig(dynamics=DYNAMICS, heads=heads, temperature=0.5)))
    features = torch.randn(6, 32, generator=seeded(3))
    hidden = agent.policy(features)
    drawn = agent.policy.sample(hidden, seeded(1), temperature=0.5)
    other = agent.policy.sample(hidden, seeded(1))
    model = Imagination(CONFIG, agent)
    assert torch.equal(model.policy.sample(hidden, seeded(1)), drawn) and not torch.equal(drawn, other)
    assert torch.equal(model.prior.sample(hidden, seeded(1)), drawn)
    assert model.agent.config.temperature == model.config.agent.temperature == 1
    with pytest.raises(ValueError, match="temperature=0"):
        AgentConfig(temperature=0)


def test_small_advantages_count_for_neither_set_and_their_kl_all_the_same() -> None:
    advantage, counts = torch.tensor([[3.0, 0.1, -0.1, -4.0]]), torch.ones(1, 4, dtype=torch.bool)
    signs = far_from_zero(advantage, counts, 0.5)  # of a root mean square of 2.5
    assert signs.tolist() == [[True, False, False, True]]
    log_prob, kl = torch.tensor([[-1.0, 7.0, 9.0, -2.0]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    loss = pmpo_loss(log_prob, advantage, kl, counts, signs, alpha=0.5, beta=0.1)
    torch.testing.assert_close(loss, torch.tensor(0.5 * -2.0 - 0.5 * -1.0 + 0.1 * 2.5))


def test_the_value_also_learns_what_real_frames_were_followed_by(contexts: LatentClip) -> None:
    """Each of the rewards that came, discounted, and behind the last frame of a clip what the value says of it."""
    model = make(replace(CONFIG, discount=0.5, decay=1.0, real_value=2.0))
    with torch.no_grad():
        model.value.out_head.bias.fill_(0.0)
    rewards = torch.zeros(6, 4)
    rewards[:, 1:] = torch.tensor([1.0, 2.0, 4.0])
    goes_on = torch.ones(6, 4, dtype=torch.bool)
    goes_on[0, 2:] = False  # an episode that ends: what comes after its end counts for nothing
    batch = replace(contexts, rewards=rewards, continues=goes_on)
    features = torch.randn(6, 4, 32, generator=seeded(1))
    model._follow_value()
    last = model.value.mean(model.value(features)[..., 0, :])[:, -1].detach()
    expected = torch.stack([3 + 0.125 * last, 4 + 0.25 * last, 4 + 0.5 * last], dim=1)
    expected[0, :2] = torch.tensor([1 + 0.5 * 2, 2.0])
    loss = model.value.loss(model.value(features[:, :-1])[..., 0, :], expected)
    loss = torch.cat([loss[0, :2], loss[1:].flatten()]).mean()
    torch.testing.assert_close(model.real_value_loss(features, batch), loss)
    video = replace(batch, labeled=batch.labeled & (torch.arange(6) == 0)[:, None])
    assert model.real_value_loss(features, video) == model.real_value_loss(features[:1], batch[:1])

    alone = replace(model.config, real_value=0.0)
    told = {}
    for config in (model.config, alone):
        model.config = config
        told[config.real_value] = model(batch, seeded(3))[1]["value_loss"]
    dream = model.dream(batch, seeded(3))
    extra = model.real_value_loss(dream.context, batch)
    torch.testing.assert_close(told[2.0] - told[0.0], 2 * extra)
    with pytest.raises(ValueError, match="real_value=-1"):
        ImaginationConfig(real_value=-1.0)


def test_a_slow_value_follows_at_its_decay_and_without_one_returns_are_of_the_value_itself(
    contexts: LatentClip,
) -> None:
    for decay in (0.0, 0.75):
        model = make(replace(CONFIG, slow_value=decay))
        with torch.no_grad():
            model.value.out_head.bias.fill_(1.0)
        model(contexts, seeded())
        assert torch.allclose(model.slow_value.out_head.bias, torch.tensor(1 - decay))


@pytest.mark.parametrize("actor", ["pmpo", "dynamics"])
def test_the_value_learns_again_from_what_was_dreamt_and_the_policy_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, actor: Actor
) -> None:
    """With momentum of its own the policy would go on in each update."""
    dynamics = replace(DYNAMICS, actions=ActionSpace(continuous=("steer", "gas")))
    heads = HeadConfig(hidden=16, distances=2, action_bins=5)
    agent = randomised(Agent(AgentConfig(dynamics=dynamics, heads=heads)))
    model = Imagination(replace(CONFIG, actor=actor), agent)
    contexts = replace(latent_clip(6, 4), actions=torch.rand(6, 4, 2, generator=seeded(4)))
    dreams: list[Dream] = []
    kept: list[dict[str, Tensor]] = []
    dream, forward = model.dream, model.forward

    def noted(batch: LatentClip, draws: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        kept.append(snapshot(model))
        return forward(batch, draws)

    monkeypatch.setattr(model, "dream", lambda *args, **more: dreams.append(dream(*args, **more)) or dreams[-1])
    monkeypatch.setattr(model, "forward", noted)
    config = LoopConfig(steps=2, updates=3, ema_decay=0.0, warmup_steps=0, log_every=1)
    stream = Repeated(contexts)
    train(model, stream, config, tmp_path, accelerator=make_accelerator("fp32", tmp_path))
    kept.append(snapshot(model))
    assert len(dreams) == 2 and model.steps_seen == 2
    for number, (before, after) in enumerate(pairwise(kept)):
        changed = {name for name in after if not torch.equal(after[name], before[name])}
        assert any(name.startswith("value") for name in changed)
        assert bool(changed & all_of(model, "agent.policy")) == (number % 3 == 0)


class Repeated:
    """A stream of one batch."""

    def __init__(self, batch: LatentClip) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[LatentClip]:
        return repeat(self.batch)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def test_the_policy_that_learns_is_the_one_that_dreams(contexts: LatentClip) -> None:
    model = make()
    assert model.policy is model.agent.policy
    assert not any(name.startswith("policy.") for name in model.state_dict()), "saved once, as the agent's"
    before = model.dream(contexts, seeded()).actions
    with torch.no_grad():
        for weight in model.policy.out_heads:
            weight.mul_(-3)
    assert not torch.equal(model.dream(contexts, seeded()).actions, before)


def test_while_the_value_warms_up_the_policy_stands_still(contexts: LatentClip) -> None:
    model = make(replace(CONFIG, value_warmup=2))
    before, optimizer = snapshot(model), sgd(model)
    for seed in range(2):
        update(model, contexts, optimizer, seed)
        assert changed_parameters(model, before) <= all_of(model, "value", "slow_value")
    assert changed_parameters(model, before)
    update(model, contexts, optimizer, 2)
    assert changed_parameters(model, before) & all_of(model, "agent.policy")


def test_the_warm_up_is_saved_and_evaluation_does_not_count_for_it(contexts: LatentClip) -> None:
    model = make(replace(CONFIG, value_warmup=2))
    model(contexts, seeded())
    model.eval()(contexts, seeded())
    assert model.state_dict()["steps_seen"] == 1


def test_a_dream_begins_at_the_context_and_holds_what_belongs_together(contexts: LatentClip) -> None:
    model = make()
    dream = model.dream(contexts, seeded())
    assert dream.features.shape == (6, 5, 32) and dream.actions.shape == (6, 4, 4)
    read = model.agent.read(contexts, seeded())[:, -1]  # the first noise that is drawn is the context's
    torch.testing.assert_close(dream.features[:, 0], read, atol=1e-5, rtol=1e-4)
    reward = model.agent.reward.mean(model.agent.reward(dream.features[:, 1:])[..., 0, :])
    torch.testing.assert_close(dream.reward, reward)
    torch.testing.assert_close(dream.goes_on, model.agent.end(dream.features[:, 1:])[..., 0].sigmoid())
    assert not any(part.requires_grad for part in dream)


def replay(model: Imagination, dream: Dream, monkeypatch: pytest.MonkeyPatch, contexts: LatentClip) -> Tensor:
    monkeypatch.setattr(model, "dream", lambda *_, **__: dream)
    model.value_rms.mean_square.fill_(-1)
    loss, _ = model.eval()(contexts, seeded())
    return loss.detach()


def test_what_a_dream_holds_after_its_end_counts_for_nothing(
    contexts: LatentClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    model.steps_seen.fill_(10)
    with torch.no_grad():
        nn.init.normal_(model.value.out_head.weight, std=0.1)
    dream = model.dream(contexts, seeded())
    dream = dream._replace(reward=torch.randn(6, 4), goes_on=torch.ones(6, 4))
    ended = dream._replace(goes_on=torch.tensor([1.0, 0.0, 1.0, 1.0]).repeat(6, 1))
    after = ended._replace(
        features=torch.cat([ended.features[:, :3], torch.randn(6, 2, 32)], dim=1),
        actions=torch.cat([ended.actions[:, :2], ended.actions[:, :2]], dim=1),
        reward=torch.cat([ended.reward[:, :2], torch.randn(6, 2) * 100], dim=1),
    )
    one, two = (replay(model, d, monkeypatch, contexts) for d in (ended, after))
    torch.testing.assert_close(one, two)
    before = after._replace(reward=after.reward + torch.tensor([0, 100.0, 0, 0]))
    assert not torch.allclose(replay(model, before, monkeypatch, contexts), one)  # the end's own reward counts
    assert not torch.allclose(replay(model, dream, monkeypatch, contexts), one)


def test_a_dream_that_ends_at_once_still_trains(contexts: LatentClip) -> None:
    model = make()
    with torch.no_grad():
        model.agent.end.out_head.weight.zero_()
        model.agent.end.out_head.bias.fill_(-20)
    loss, metrics = model(contexts, seeded())
    loss.backward()
    assert metrics["ended_share"] == 1 and torch.isfinite(loss)
    torch.testing.assert_close(metrics["dream_return"], model.dream(contexts, seeded()).reward[:, 0].mean())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_value_learns_the_return_of_the_frame_it_stands_on(
    contexts: LatentClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rewards 0, 0, 1, 0 and no discount: before the third step the return is 1, after it 0."""
    model = make(replace(CONFIG, discount=1.0, decay=1.0))
    dream = model.dream(contexts, seeded())
    features = torch.randn(1, 5, 32).expand(6, -1, -1)
    dream = dream._replace(features=features, reward=torch.tensor([0.0, 0, 1, 0]).repeat(6, 1))
    dream = dream._replace(goes_on=torch.tensor([1.0, 1, 1, 0]).repeat(6, 1))
    monkeypatch.setattr(model, "dream", lambda *_, **__: dream)
    optimizer = torch.optim.Adam(model.value.parameters(), lr=1e-2)
    for _ in range(100):
        update(model, contexts, optimizer)
    found = model.value.mean(model.value(features[0])[:, 0])[:4]
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 1.0, 0.0]), atol=0.1, rtol=0)


def test_a_step_is_good_if_reward_and_next_value_exceed_the_present_value(
    contexts: LatentClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(replace(CONFIG, discount=0.5, decay=0.0))
    with torch.no_grad():
        model.value.out_head.bias.fill_(-10)
        model.value.out_head.bias[120:135] = 0
        model.value.out_head.weight.normal_(std=0.5)
    dream = model.dream(contexts, seeded())._replace(reward=torch.randn(6, 4), goes_on=torch.ones(6, 4))
    monkeypatch.setattr(model, "dream", lambda *_, **__: dream)
    value = model.value.mean(model.value(dream.features)[:, :, 0]).detach()
    returns = dream.reward + 0.5 * value[:, 1:]
    _, metrics = model(contexts, seeded())
    torch.testing.assert_close(metrics["dream_return"], returns[:, 0].mean())
    good = (returns >= value[:, :-1]).float().mean()
    assert 0.2 < good < 0.8
    torch.testing.assert_close(metrics["positive_share"], good)


@pytest.mark.parametrize("center", [True, False])
def test_with_centred_advantages_a_value_that_is_low_everywhere_makes_nothing_good(
    center: bool, contexts: LatentClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the dreams earn 2 at once and the others 1, and the value says 0."""
    model = make(replace(CONFIG, discount=0.0, center_advantages=center))
    reward = torch.tensor([2.0, 1.0]).repeat(3)[:, None].expand(6, 4)
    dream = model.dream(contexts, seeded())._replace(reward=reward, goes_on=torch.ones(6, 4))
    monkeypatch.setattr(model, "dream", lambda *_, **__: dream)
    learned: list[Tensor] = []

    def loss(log_prob: Tensor, advantage: Tensor, *rest: Any, **weights: Any) -> Tensor:
        learned.append(advantage)
        return pmpo_loss(log_prob, advantage, *rest, **weights)

    monkeypatch.setattr("agent.imagination.pmpo_loss", loss)
    _, metrics = model(contexts, seeded())
    assert metrics["positive_share"] == 1  # as the value sees it
    assert torch.equal(learned[0] >= 0, reward > 1.5 if center else reward > 0)


class Signed(nn.Module):
    """The learned reward head, its reading multiplied."""

    def __init__(self, head: TwoHot, sign: float) -> None:
        super().__init__()
        self.head, self.sign = head, sign

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(features)
        return logits

    def mean(self, logits: Tensor) -> Tensor:
        return self.sign * self.head.mean(logits)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_policy_learns_in_dreams_to_do_what_is_rewarded(learned: Agent, sign: float) -> None:
    agent = deepcopy(learned)
    agent.reward = Signed(agent.reward, sign)  # type: ignore[assignment]
    model = Imagination(ImaginationConfig(horizon=4, num_steps=1, value_warmup=15, discount=0.5), agent)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    generator = seeded()

    def chance(part: int) -> Tensor:
        """Of the coin that is thrown at the end of a context."""
        clip = toy_episodes(64, 4, seeded(9))
        with torch.no_grad():
            hidden = agent.policy(agent.read(clip, seeded())[:, -1])
            logs = agent.policy.log_probs(hidden, agent.policy.targets(torch.zeros(64, 1, 2)))
        return logs[part][:, 0, 1].exp()

    before = chance(1).mean()
    assert 0.4 < before < 0.8
    for _ in range(60):
        update(model, toy_episodes(8, 4, generator), optimizer, int(torch.randint(10**6, (), generator=generator)))
    after = chance(1).mean()
    assert after > 0.93 if sign > 0 else after < 0.1
    shown = toy_episodes(64, 4, seeded(9)).latents[:, -1, 0, 0] > 0
    kept = torch.where(shown, chance(0), 1 - chance(0))
    assert kept.mean() > 0.8  # what earns nothing stays with the prior
