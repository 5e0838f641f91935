"""What generated video is measured by, beside the perceptual features: PSNR, SSIM and the Frechet distance.

Axes: b any number of axes of frames, c h w one RGB frame in [0, 1], k m samples, f features of a sample.
"""

from functools import reduce

import torch
from jaxtyping import Float, Float64
from torch import Tensor

PSNR_FLOOR = 1e-10
"""Mean squared error below which PSNR stays at 100 dB."""
SSIM_WINDOW = 11
"""Pixels across the Gaussian window."""
_SIGMA = 1.5
_GREY = 0.5
_C1, _C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 at L = 1


def psnr(video: Float[Tensor, "*b c h w"], target: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b"]:
    """-10 log10 MSE of each frame, in dB; pixels in [0, 1]."""
    error = (video.float().clamp(0, 1) - target.float()).square().flatten(-3).mean(-1)
    return -10 * error.clamp_min(PSNR_FLOOR).log10()


def ssim(video: Float[Tensor, "*b c h w"], target: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b"]:
    """Structural similarity of each frame (Wang et al. 2004): whole windows only, mean over places and colours."""
    height, width = video.shape[-2:]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs frames of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, got {height}x{width}")
    # About grey: a variance is then a difference of small numbers, and rounding spares flat patches.
    x, y = (frames.float().clamp(0, 1) - _GREY for frames in (video, target))
    mean_x, mean_y = _smooth(x), _smooth(y)
    covariance = _smooth(x * y) - mean_x * mean_y
    variances = _smooth(x * x + y * y) - mean_x.square() - mean_y.square()
    bright_x, bright_y = mean_x + _GREY, mean_y + _GREY
    luminance = (2 * bright_x * bright_y + _C1) / (bright_x.square() + bright_y.square() + _C1)
    return (luminance * (2 * covariance + _C2) / (variances + _C2)).mean((-3, -2, -1))


def _smooth(images: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b h2 w2"]:
    """Gaussian means of all whole windows, down and across. Sums of shifts: a convolution is several times slower."""
    offset = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    weights = torch.softmax(-offset.square() / (2 * _SIGMA**2), dim=0).tolist()
    for axis in (-2, -1):
        size = images.shape[axis] - SSIM_WINDOW + 1
        shifts = (images.narrow(axis, place, size) for place in range(SSIM_WINDOW))
        images = reduce(torch.add, (weight * shift for weight, shift in zip(weights, shifts, strict=True)))
    return images


def frechet_distance(features: Float[Tensor, "k f"], others: Float[Tensor, "m f"]) -> Float64[Tensor, ""]:
    """Squared Frechet distance of two Gaussians fitted to samples; covariances may be rank deficient.

    |mu - mu'|^2 + tr(S + S' - 2 (S S')^(1/2)). The last trace is the sum of the singular values of S^(1/2) S'^(1/2).
    """
    if min(len(features), len(others)) < 2:
        raise ValueError(f"a Frechet distance needs 2 samples on each side, got {len(features)} and {len(others)}")
    (mean, covariance), (other_mean, other_covariance) = _gaussian(features), _gaussian(others)
    shared = torch.linalg.svdvals(_root(covariance) @ _root(other_covariance)).sum()
    spread = covariance.trace() + other_covariance.trace() - 2 * shared
    distance: Tensor = (mean - other_mean).square().sum() + spread
    return distance.clamp_min(0)  # below 0 by rounding alone


def _gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    mean = features.double().mean(0)
    centred = features.double() - mean
    return mean, centred.T @ centred / (len(features) - 1)


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root
