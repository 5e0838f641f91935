"""Shortcut forcing: learn to denoise in few large steps (Dreamer 4, eq. 7), and to sample with them.

Signal levels and step sizes are whole multiples of the finest step d_min = 1/K_max: level k means tau = k/K_max, a step
of u units means d = u/K_max. K_max is a power of two.

Axes: b batch, t time, n latent tokens of a frame, d their channels.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenizer.draws import Draws, integers, uniform

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""f(noisy [b t n d], level [b t], units [b t]) -> estimate of the clean latents [b t n d]."""


class Grid(NamedTuple):
    """Where each frame stands on its way from noise to data."""

    level: Int[Tensor, "b t"]
    """tau in units of d_min: 0 is noise, K_max is clean."""
    units: Int[Tensor, "b t"]
    """d in units of d_min: a power of two."""


def draw_grid(shape: tuple[int, int], bootstrap_rows: int, max_steps: int, generator: Draws) -> Grid:
    """Draws (tau, d) of every frame by itself.

    The first `bootstrap_rows` rows draw d = 1/2^e uniformly over e, the others stand at d_min. tau is uniform on
    {0, d, .., 1 - d}; frames at d_min may also draw tau = 1, since clean frames are met when sampling.
    """
    exponents = max_steps.bit_length()  # 2^0 .. 2^(exponents - 1) = max_steps units
    units = 2 ** integers(generator, exponents, shape)
    units[bootstrap_rows:] = 1
    places = max_steps // units + (units == 1).long()
    # In float64: a draw just below 1 must not round up to the next place.
    draw = uniform(generator, shape, torch.float64)
    return Grid((draw * places).long() * units, units)


def corrupt(
    clean: Float[Tensor, "b t n d"], noise: Float[Tensor, "b t n d"], level: Int[Tensor, "b t"], max_steps: int
) -> Float[Tensor, "b t n d"]:
    """z~ = (1 - tau) z0 + tau z1."""
    tau = _per_frame(level / max_steps, clean)
    return (1 - tau) * noise + tau * clean


def bootstrap_target(
    denoise: Denoiser, noisy: Float[Tensor, "b t n d"], grid: Grid, max_steps: int
) -> Float[Tensor, "b t n d"]:
    """z~ + (1 - tau)(b' + b'')/2: where two half steps of the model itself lead, seen from the start of the whole step.

    Frames at d_min have no half step: they stand unchanged in both passes, and their target is meaningless.
    """
    halves = grid.units > 1
    half = torch.where(halves, grid.units // 2, grid.units)
    tau = _per_frame(grid.level / max_steps, noisy)
    step = _per_frame(half / max_steps, noisy)
    left = (1 - tau).clamp_min(1 / max_steps)  # clean frames, at d_min, divide by nothing
    first = (denoise(noisy, grid.level, half) - noisy) / left
    moved = torch.where(_per_frame(halves, noisy), noisy + first * step, noisy)
    left_after = (1 - tau - step).clamp_min(1 / max_steps)
    second = (denoise(moved, torch.where(halves, grid.level + half, grid.level), half) - moved) / left_after
    return noisy + (1 - tau) * (first + second) / 2


def shortcut_error(
    estimate: Float[Tensor, "b t n d"], clean: Float[Tensor, "b t n d"], target: Float[Tensor, "r t n d"], grid: Grid
) -> Float[Tensor, "b t"]:
    """Squared error of each frame: against the data at d_min, elsewhere against the target of the first r rows."""
    rows = target.shape[0]
    aim = clean
    if rows:
        at_finest = _per_frame(grid.units[:rows] == 1, clean)
        aim = torch.cat([torch.where(at_finest, clean[:rows], target), clean[rows:]])
    return (estimate.float() - aim.float()).square().mean((-2, -1))


def ramp_weight(level: Int[Tensor, "b t"], max_steps: int) -> Float[Tensor, "b t"]:
    """w(tau) = 0.9 tau + 0.1 (eq. 8): noisy frames say less."""
    return 0.9 * level / max_steps + 0.1


def velocity_weight(level: Int[Tensor, "b t"], max_steps: int) -> Float[Tensor, "b t"]:
    """1/(1 - tau)^2: what turns a squared error of clean latents into one of velocities z1 - z0."""
    return (1 - level / max_steps).clamp_min(1 / max_steps) ** -2


def from_velocity(
    noisy: Float[Tensor, "b t n d"], velocity: Float[Tensor, "b t n d"], level: Int[Tensor, "b t"], max_steps: int
) -> Float[Tensor, "b t n d"]:
    """zhat = z~ + (1 - tau) v."""
    return noisy + _per_frame(1 - level / max_steps, noisy) * velocity


def sample(
    denoise: Denoiser,
    noise: Float[Tensor, "b t n d"],
    num_steps: int,
    max_steps: int,
    *,
    first: Float[Tensor, "b t n d"] | None = None,
) -> Float[Tensor, "b t n d"]:
    """Euler steps of size 1/num_steps from noise to data; the last one returns the estimate itself.

    `first` is the estimate of the first step, where it is known already.
    """
    if not 1 <= num_steps <= max_steps or max_steps % num_steps:
        raise ValueError(f"num_steps={num_steps} does not divide the finest grid of {max_steps} steps")
    units = max_steps // num_steps
    latents = noise
    for k in range(num_steps):
        if k == 0 and first is not None:
            estimate = first
        else:
            level = torch.full(noise.shape[:2], k * units, device=noise.device)
            estimate = denoise(latents, level, torch.full_like(level, units))
        latents = estimate if k == num_steps - 1 else latents + (estimate - latents) / (num_steps - k)
    return latents


def _per_frame(values: Tensor, like: Tensor) -> Tensor:
    values = values[..., None, None]
    return values if values.dtype == torch.bool else values.to(like.dtype)
