"""Lambda-returns and PMPO, by hand."""

import pytest
import torch
from torch import Tensor

from agent.pmpo import lambda_return, pmpo_loss

ALL = torch.ones(2, 3, dtype=torch.bool)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float32)


def returns(decay: float, goes_on: Tensor) -> Tensor:
    return lambda_return(row(1, 2, 3), row(10, 20, 30), goes_on, discount=0.5, decay=decay)


def test_without_lambda_a_return_is_one_reward_and_the_next_value() -> None:
    torch.testing.assert_close(returns(0.0, row(1, 1, 1)), row(1 + 5, 2 + 10, 3 + 15))


def test_with_full_lambda_a_return_is_the_discounted_rewards_and_the_last_value() -> None:
    torch.testing.assert_close(returns(1.0, row(1, 1, 1)), row(1 + 1 + 0.75 + 3.75, 2 + 1.5 + 7.5, 3 + 15))


def test_lambda_mixes_value_and_return() -> None:
    third = 3 + 0.5 * 30
    second = 2 + 0.5 * (0.2 * 20 + 0.8 * third)
    first = 1 + 0.5 * (0.2 * 10 + 0.8 * second)
    torch.testing.assert_close(returns(0.8, row(1, 1, 1)), row(first, second, third))


def test_the_end_of_an_episode_keeps_its_reward_and_cuts_what_follows() -> None:
    torch.testing.assert_close(returns(1.0, row(1, 0, 1)), row(1 + 0.5 * 2, 2, 18))
    torch.testing.assert_close(returns(1.0, row(1, 0.5, 1))[:, 1], torch.tensor([2 + 0.25 * 18]))


def loss(
    log_prob: Tensor, advantage: Tensor, kl: Tensor, counts: Tensor, alpha: float = 0.5, beta: float = 0.3
) -> Tensor:
    return pmpo_loss(log_prob, advantage, kl, counts, alpha=alpha, beta=beta)


def test_each_set_is_averaged_by_itself() -> None:
    log_prob = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]])
    advantage = torch.tensor([[0.0, -1.0, -2.0], [-3.0, -4.0, -5.0]])  # zero is good
    kl = torch.tensor([[1.0, 0, 0], [0, 0, 2.0]])
    expected = (1 - 0.6) * -4.0 - 0.6 * -1.0 + 0.3 * 0.5
    torch.testing.assert_close(loss(log_prob, advantage, kl, ALL, alpha=0.6), torch.tensor(expected))


def test_the_size_of_an_advantage_says_nothing() -> None:
    log_prob, advantage, kl = torch.randn(3, 2, 3).unbind(0)
    torch.testing.assert_close(loss(log_prob, advantage, kl, ALL), loss(log_prob, advantage * 100, kl, ALL))


@pytest.mark.parametrize(("sign", "weight"), [(1.0, -0.5), (-1.0, 0.5)])
def test_an_empty_set_adds_nothing(sign: float, weight: float) -> None:
    log_prob = torch.randn(2, 3, requires_grad=True)
    found = loss(log_prob, torch.full((2, 3), sign), torch.zeros(2, 3), ALL)
    torch.testing.assert_close(found, weight * log_prob.mean())
    (gradient,) = torch.autograd.grad(found, log_prob)
    torch.testing.assert_close(gradient, torch.full((2, 3), weight / 6))


def test_steps_that_do_not_count_are_in_no_set() -> None:
    log_prob, advantage, kl = torch.randn(3, 2, 3).unbind(0)
    counts = torch.tensor([[True, True, False], [True, False, False]])
    other = torch.where(counts, log_prob, 1e6), torch.where(counts, advantage, -advantage), torch.where(counts, kl, 1e6)
    torch.testing.assert_close(loss(log_prob, advantage, kl, counts), loss(*other, counts))
    nothing = loss(log_prob, advantage, kl, torch.zeros_like(counts))
    assert nothing == 0


def test_a_good_step_is_made_likelier_and_a_bad_one_less() -> None:
    log_prob = torch.zeros(2, 3, requires_grad=True)
    advantage = torch.tensor([[1.0, -1, 1], [-1, 1, -1]])
    (gradient,) = torch.autograd.grad(loss(log_prob, advantage, torch.zeros(2, 3), ALL), log_prob)
    torch.testing.assert_close(gradient, -advantage * 0.5 / 3)
