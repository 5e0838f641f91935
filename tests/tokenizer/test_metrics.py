"""PSNR, SSIM and the Frechet distance, by hand."""

import math

import pytest
import torch
from torch import Tensor

from tokenizer.metrics import frechet_distance, psnr, ssim


def test_psnr_of_a_known_error() -> None:
    target = torch.full((2, 3, 4, 4), 0.5)
    video = target.clone()
    video[0] += 0.1
    video[1, 0] += 0.2  # one of three colours
    torch.testing.assert_close(psnr(video, target), torch.tensor([20.0, -10 * torch.tensor(0.04 / 3).log10()]))


def test_psnr_clips_what_cannot_be_shown_and_ends_at_100_db() -> None:
    target = torch.ones(1, 3, 4, 4)
    torch.testing.assert_close(psnr(target + 3, target), torch.tensor([100.0]))


def test_ssim_of_one_window_is_the_formula() -> None:
    """An 11x11 frame has one whole window: the Gaussian moments can be taken by hand."""
    x, y = torch.rand(2, 1, 3, 11, 11).double()
    places = torch.arange(11) - 5
    weights = torch.exp(-(places[:, None] ** 2 + places**2) / (2 * 1.5**2)).double()
    weights /= weights.sum()

    def mean(values: Tensor) -> Tensor:
        return (values * weights).sum((-1, -2))

    variance_x, variance_y = mean(x * x) - mean(x) ** 2, mean(y * y) - mean(y) ** 2
    covariance = mean(x * y) - mean(x) * mean(y)
    luminance = (2 * mean(x) * mean(y) + 1e-4) / (mean(x) ** 2 + mean(y) ** 2 + 1e-4)
    expected = (luminance * (2 * covariance + 9e-4) / (variance_x + variance_y + 9e-4)).mean(-1)
    torch.testing.assert_close(ssim(x.float(), y.float()), expected.float())


def test_ssim_is_one_for_equal_frames_and_falls_below_zero_for_a_negative() -> None:
    video = torch.rand(2, 4, 3, 16, 20)
    torch.testing.assert_close(ssim(video, video), torch.ones(2, 4))
    assert (ssim(1 - video, video) < 0).all()


def test_ssim_of_two_flat_frames_compares_their_brightness_alone() -> None:
    dark, light = torch.full((1, 3, 12, 12), 0.2), torch.full((1, 3, 12, 12), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    torch.testing.assert_close(ssim(dark, light), torch.tensor([expected]), atol=5e-5, rtol=0)


def test_a_frame_smaller_than_a_window_has_no_ssim() -> None:
    with pytest.raises(ValueError, match="at least 11x11 pixels, got 8x64"):
        ssim(torch.rand(1, 3, 8, 64), torch.rand(1, 3, 8, 64))


def samples(mean: Tensor, covariance: Tensor, count: int = 60) -> Tensor:
    """Random samples whose mean and covariance are exactly these."""
    noise = torch.randn(count, len(mean), dtype=torch.float64)
    noise = noise - noise.mean(0)
    white = torch.linalg.cholesky(noise.T @ noise / (count - 1))
    whitened = torch.linalg.solve_triangular(white, noise.T, upper=False).T
    found: Tensor = whitened @ torch.linalg.cholesky(covariance).T + mean
    return found


def close(value: Tensor, expected: float, atol: float = 1e-9) -> None:
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64), atol=atol, rtol=1e-6)


def test_the_frechet_distance_of_gaussians_along_the_axes() -> None:
    """Sum over the axes of (mu - mu')^2 + (sigma - sigma')^2."""
    one = samples(torch.tensor([0.0, 1.0]).double(), torch.tensor([4.0, 9.0]).diag().double())
    other = samples(torch.tensor([3.0, 1.0]).double(), torch.tensor([1.0, 25.0]).diag().double(), count=80)
    close(frechet_distance(one, other), 9 + (2 - 1) ** 2 + (3 - 5) ** 2)


def test_the_frechet_distance_of_gaussians_that_share_no_axes() -> None:
    """Of a 2x2 matrix, tr M^(1/2) = (tr M + 2 det(M)^(1/2))^(1/2)."""
    one = torch.tensor([[2.0, 1.2], [1.2, 1.0]]).double()
    other = torch.tensor([[1.0, -0.4], [-0.4, 3.0]]).double()
    product = one @ other
    root = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(product.det())))
    mean = torch.zeros(2).double()
    expected = float(one.trace() + other.trace()) - 2 * root
    assert expected > 0.5
    close(frechet_distance(samples(mean, one), samples(mean, other)), expected)


def test_equal_sets_are_at_no_distance_and_the_order_does_not_matter() -> None:
    one, other = torch.randn(30, 8), torch.randn(20, 8) * 2 + 1
    close(frechet_distance(one, one), 0.0)
    torch.testing.assert_close(frechet_distance(one, other), frechet_distance(other, one))
    assert frechet_distance(one, other) > 1


def test_fewer_samples_than_features_still_give_the_distance_of_a_shift() -> None:
    """Both covariances are singular and equal: only the means differ."""
    one = torch.randn(5, 40, dtype=torch.float64)
    close(frechet_distance(one, one + 0.5), 40 * 0.25, atol=1e-7)


def test_one_sample_has_no_spread() -> None:
    with pytest.raises(ValueError, match="needs 2 samples on each side, got 1 and 5"):
        frechet_distance(torch.randn(1, 4), torch.randn(5, 4))
