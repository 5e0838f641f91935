"""The running RMS, by hand, and the share of rows of a kind."""

import pytest
import torch

from tokenizer.losses import RunningRMS


def test_the_first_loss_becomes_one_and_the_next_are_mixed_in() -> None:
    rms = RunningRMS()
    torch.testing.assert_close(rms(torch.tensor(4.0)), torch.tensor(1.0))
    torch.testing.assert_close(rms.mean_square, torch.tensor(16.0))
    mixed = 0.99 * 16 + 0.01 * 100
    torch.testing.assert_close(rms(torch.tensor(10.0)), torch.tensor(10 / mixed**0.5))
    torch.testing.assert_close(rms.mean_square, torch.tensor(mixed))


def test_no_gradient_goes_through_the_estimate() -> None:
    rms = RunningRMS()
    loss = torch.tensor(4.0, requires_grad=True)
    rms(loss).backward()
    torch.testing.assert_close(loss.grad, torch.tensor(1 / 4))  # 0 if the estimate were differentiated


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_leaves_the_estimate(bad: float) -> None:
    rms = RunningRMS()
    rms(torch.tensor(3.0))
    assert not torch.isfinite(rms(torch.tensor(bad)))
    torch.testing.assert_close(rms.mean_square, torch.tensor(9.0))


def test_in_evaluation_the_estimate_stands_still() -> None:
    rms = RunningRMS()
    torch.testing.assert_close(rms.eval()(torch.tensor(5.0)), torch.tensor(5.0))  # nothing seen yet
    rms.train()(torch.tensor(2.0))
    torch.testing.assert_close(rms.eval()(torch.tensor(6.0)), torch.tensor(3.0))
    torch.testing.assert_close(rms.mean_square, torch.tensor(4.0))


def test_a_loss_of_zero_does_not_divide_by_zero() -> None:
    rms = RunningRMS()
    assert rms(torch.tensor(0.0)) == 0


def test_the_estimate_is_saved() -> None:
    rms, other = RunningRMS(), RunningRMS()
    rms(torch.tensor(3.0))
    other.load_state_dict(rms.state_dict())
    torch.testing.assert_close(other.eval()(torch.tensor(3.0)), torch.tensor(1.0))
