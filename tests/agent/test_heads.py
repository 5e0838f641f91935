"""Heads: two-hot values, and a policy whose chances are counted, summed and compared."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from agent.heads import EndHead, HeadConfig, PolicyHead, TwoHot, twohot, twohot_mean
from dynamics.actions import ActionSpace
from tests.builders import action_rows, randomised, seeded

CONFIG = HeadConfig(hidden=16, distances=3, value_bins=255, action_bins=3)
SPACES = {
    "continuous": ActionSpace(continuous=("a",)),
    "categorical": ActionSpace(categorical=(("k", 3),)),
    "binary": ActionSpace(binary=("m", "n")),
    "continuous-categorical": ActionSpace(continuous=("a",), categorical=(("k", 3),)),
    "continuous-binary": ActionSpace(continuous=("a", "b"), binary=("m",)),
    "categorical-binary": ActionSpace(categorical=(("k", 3), ("l", 2)), binary=("m",)),
    "all": ActionSpace(continuous=("a", "b"), categorical=(("k", 3),), binary=("m",)),
    "three continuous": ActionSpace(continuous=("a", "b", "c")),
}
each_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())


@pytest.fixture
def values() -> TwoHot:
    return TwoHot(4, CONFIG, distances=2)


def policy(space: ActionSpace, seed: int = 0) -> PolicyHead:
    return randomised(PolicyHead(5, space, CONFIG), std=0.7, seed=seed)


def all_rows(space: ActionSpace) -> Tensor:
    """Every row that the policy can sample, continuous parts at the centres of three bins."""
    choices = [[-1.0, 0.0, 1.0]] * len(space.continuous)
    choices += [[float(i) for i in range(count)] for _, count in space.categorical]
    return torch.tensor(list(itertools.product(*choices, *[[0.0, 1.0]] * len(space.binary))))


@pytest.mark.parametrize("target", [-1e6, -37.5, -1.0, -0.3, -1e-3, 0.0, 1e-3, 0.17, 1.0, 20.0, 906.0, 1e5])
def test_the_mean_of_twohot_weights_is_the_target(values: TwoHot, target: float) -> None:
    weights = twohot(torch.tensor([target]), values.bins)
    torch.testing.assert_close(twohot_mean(weights.log(), values.bins), torch.tensor([target]), atol=1e-6, rtol=1e-4)


def test_beyond_the_ends_the_end_bin_stands_alone(values: TwoHot) -> None:
    weights = twohot(torch.tensor([-1e12, 1e12]), values.bins)
    assert weights[0, 0] == 1 and weights[1, -1] == 1 and (weights.sum(-1) == 1).all()


def test_weights_are_linear_in_raw_space_between_two_neighbours(values: TwoHot) -> None:
    low, high = values.bins[200], values.bins[201]
    weights = twohot(low + torch.tensor([0.0, 0.25, 0.5, 1.0]) * (high - low), values.bins)
    torch.testing.assert_close(weights[:, 200], torch.tensor([1, 0.75, 0.5, 0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(weights[:, 201], torch.tensor([0, 0.25, 0.5, 1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(4))


def test_the_bins_are_symexp_spaced_and_symmetric(values: TwoHot) -> None:
    assert len(values.bins) == 255 and values.bins[127] == 0
    torch.testing.assert_close(values.bins, -values.bins.flip(0), atol=0, rtol=0)
    torch.testing.assert_close(values.bins[-1], torch.tensor(math.expm1(20)))
    torch.testing.assert_close(values.bins[128], torch.tensor(math.expm1(20 / 127)))


def test_zero_logits_and_symmetric_ones_give_exactly_zero(values: TwoHot) -> None:
    assert twohot_mean(torch.zeros(2, 255), values.bins).tolist() == [0.0, 0.0]
    half = torch.randn(127)
    assert twohot_mean(torch.cat([half, torch.ones(1), half.flip(0)]), values.bins) == 0.0


def test_a_fresh_value_head_says_zero_everywhere(values: TwoHot) -> None:
    logits = values(torch.randn(7, 4))
    assert logits.shape == (7, 2, 255) and (values.mean(logits) == 0).all()


def test_the_twohot_loss_is_least_at_the_target(values: TwoHot) -> None:
    target = torch.tensor([3.7])
    weights = twohot(target, values.bins)
    logits = weights.clamp_min(1e-6).log().requires_grad_()
    loss = values.loss(logits, target)
    torch.testing.assert_close(loss, -(weights * weights.clamp_min(1e-9).log()).sum(-1), atol=1e-2, rtol=0)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.abs().max() < 1e-3
    assert values.loss(torch.zeros(1, 255), target) == pytest.approx(math.log(255), rel=1e-4)


def test_each_distance_of_the_end_head_has_its_own_logit() -> None:
    head = randomised(EndHead(4, CONFIG))
    assert head(torch.randn(5, 4)).std(1).min() > 0 and head(torch.randn(5, 4)).shape == (5, 3)


@each_space
def test_the_chances_of_all_rows_sum_to_one_at_every_distance(space: ActionSpace) -> None:
    head, rows = policy(space), all_rows(space)
    hidden = head(torch.randn(1, 5)).expand(len(rows), -1)
    chances = head.log_prob(hidden, rows.unsqueeze(1).expand(-1, 3, -1)).exp()
    torch.testing.assert_close(chances.sum(0), torch.ones(3))
    assert chances.std() > 1e-3 and not torch.allclose(chances[:, 0], chances[:, 1])


@each_space
def test_rows_are_sampled_as_often_as_their_log_probability_says(space: ActionSpace) -> None:
    head, rows, count = policy(space), all_rows(space), 20_000
    hidden = head(torch.randn(1, 5))
    sampled = head.sample(hidden.expand(count, -1), seeded())
    frequency = (sampled.unsqueeze(1) == rows).all(-1).float().mean(0)
    assert frequency.sum() == pytest.approx(1, abs=1e-5)
    chance = head.log_prob(hidden.expand(len(rows), -1), rows.unsqueeze(1))[:, 0].exp()
    noise = (chance * (1 - chance) / count).sqrt()
    assert ((frequency - chance).abs() < 5 * noise + 1e-4).all()


@each_space
def test_a_fresh_policy_is_uniform(space: ActionSpace) -> None:
    head, rows = PolicyHead(5, space, CONFIG), all_rows(space)
    logs = head.log_prob(head(torch.randn(len(rows), 5)), rows.unsqueeze(1))
    torch.testing.assert_close(logs, torch.full_like(logs, -math.log(len(rows))))


def test_the_same_seed_samples_the_same_rows() -> None:
    head = policy(SPACES["all"])
    hidden = head(torch.randn(50, 5))
    assert torch.equal(head.sample(hidden, seeded(1)), head.sample(hidden, seeded(1)))
    assert not torch.equal(head.sample(hidden, seeded(1)), head.sample(hidden, seeded(2)))


def test_a_value_between_two_bins_is_shared_by_nearness() -> None:
    head = policy(SPACES["continuous"])
    hidden = head(torch.randn(1, 5))

    def log_prob(value: float) -> Tensor:
        return head.log_prob(hidden, torch.tensor([[[value]]]))

    torch.testing.assert_close(log_prob(0.25), 0.75 * log_prob(0.0) + 0.25 * log_prob(1.0))
    torch.testing.assert_close(log_prob(-0.9), 0.1 * log_prob(0.0) + 0.9 * log_prob(-1.0))


def test_a_distance_depends_on_its_own_row_alone() -> None:
    head, space = policy(SPACES["all"]), SPACES["all"]
    hidden = head(torch.randn(4, 5))
    rows = action_rows(space, 4, 3)
    other = torch.cat([rows[:, :1], action_rows(space, 4, 1, seed=9), rows[:, 2:]], dim=1)
    one, two = head.log_prob(hidden, rows), head.log_prob(hidden, other)
    assert torch.equal(one[:, [0, 2]], two[:, [0, 2]]) and not torch.allclose(one[:, 1], two[:, 1])


@each_space
def test_kl_is_zero_to_itself_and_positive_to_another(space: ActionSpace) -> None:
    head, other = policy(space), policy(space, seed=1)
    features, rows = torch.randn(6, 5), action_rows(space, 6, 1)
    hidden = head(features)
    torch.testing.assert_close(head.kl(hidden, head, hidden, rows), torch.zeros(6, 1))
    assert (head.kl(hidden, other, other(features), rows) > 1e-5).all()


@each_space
def test_the_mean_kl_over_sampled_rows_is_that_of_the_joint_distributions(space: ActionSpace) -> None:
    head, prior, rows = policy(space), policy(space, seed=1), all_rows(space)
    features = torch.randn(1, 5).expand(len(rows), -1)
    hidden, prior_hidden, rows = head(features), prior(features), rows.unsqueeze(1)
    ours, theirs = head.log_prob(hidden, rows), prior.log_prob(prior_hidden, rows)
    joint = (ours.exp() * (ours - theirs)).sum()
    torch.testing.assert_close((ours.exp() * head.kl(hidden, prior, prior_hidden, rows)).sum(), joint)


@torch.no_grad()
def test_kl_of_independent_parts_is_the_sum_of_theirs_whatever_the_row() -> None:
    space = SPACES["categorical-binary"]
    head, prior = policy(space), policy(space, seed=1)
    features, rows = torch.randn(1, 5).expand(12, -1), all_rows(space).unsqueeze(1)
    hidden, prior_hidden = head(features), prior(features)
    targets = head.targets(rows)
    expected = sum(
        torch.distributions.kl_divergence(*(torch.distributions.Categorical(logits=log[0, 0]) for log in pair))
        for pair in zip(head.log_probs(hidden, targets), prior.log_probs(prior_hidden, targets), strict=True)
    )
    found = head.kl(hidden, prior, prior_hidden, rows)
    torch.testing.assert_close(found, torch.full_like(found, float(expected)))


def test_gradients_of_kl_reach_the_policy_and_not_the_prior() -> None:
    space = SPACES["all"]
    head, prior = policy(space), policy(space, seed=1).requires_grad_(False)
    features = torch.randn(6, 5)
    head.kl(head(features), prior, prior(features), action_rows(space, 6, 1)).sum().backward()
    assert all(p.grad is not None for p in head.parameters()) and all(p.grad is None for p in prior.parameters())


def test_demonstrations_that_go_left_or_right_are_not_averaged_and_stay_joint() -> None:
    """Left goes with slow, right with fast, as often one as the other."""
    config = HeadConfig(hidden=32, distances=1, action_bins=11)
    head = PolicyHead(5, ActionSpace(continuous=("steer", "gas"), binary=("jump",)), config)
    features = torch.ones(64, 5)
    rows = torch.tensor([[-0.8, -0.6, 0.0], [0.8, 1.0, 1.0]]).repeat(32, 1).unsqueeze(1)
    optimizer = torch.optim.Adam(head.parameters(), lr=2e-2)
    for _ in range(150):
        optimizer.zero_grad()
        (-head.log_prob(head(features), rows).mean()).backward()
        optimizer.step()
    sampled = head.sample(head(torch.ones(1000, 5)), seeded())
    left, right = ((sampled - row).abs().amax(-1) < 1e-4 for row in rows[:2, 0])
    assert left.float().mean() > 0.4 and right.float().mean() > 0.4
    assert (left | right).float().mean() > 0.95  # neither the middle nor left with fast


def test_an_even_number_of_bins_has_no_zero_and_is_refused() -> None:
    with pytest.raises(ValueError, match="action_bins=30 must be odd"):
        HeadConfig(action_bins=30)
    with pytest.raises(ValueError, match="value_bins=254"):
        HeadConfig(value_bins=254)
