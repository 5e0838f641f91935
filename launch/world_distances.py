"""FVD-lite0 of a world model's dreams by the number of denoising steps, with what chance and the tokenizer add.

The dreams are compared with the real frames of the same windows. The floor is the distance between two halves of these
real clips, from other episodes each. Intervals are those of other clips: real and dreamed ones are drawn together.

Axes: b clips, k chunks of a clip, t frames, f features of a chunk, c h w one RGB frame in [0, 1].
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from launch.open_loop import Batch, HeldOut, Models, clip_batches, decode, open_loop
from launch.workers import Bar
from tokenizer.autoencoder import to_float
from tokenizer.metrics import frechet_distance
from tokenizer.shards import Dataset
from tokenizer.video_features import VideoFeatures, split_chunks

RESAMPLES = 200
REAL, RECONSTRUCTION = "real", "reconstruction"
Features = Float[Tensor, "b k f"]


def chunk_features(network: VideoFeatures, video: Float[Tensor, "b t c h w"]) -> Features:
    """Of all whole chunks, clip by clip, on the CPU."""
    device = network.directions.device
    return torch.stack([network(split_chunks(clip.unsqueeze(0))[0].to(device)).cpu() for clip in video])


def measure_chunks(
    config: HeldOut,
    dataset: Dataset,
    models: Models,
    network: VideoFeatures,
    *,
    clips: int,
    batch: int,
    steps: Sequence[int],
) -> dict[str, Features]:
    """Features of the real frames, their reconstructions, and the dreams of each number of steps (under its name)."""
    found: dict[str, list[Tensor]] = {}
    with Bar("passes of dreams by the number of steps", clips * sum(steps)) as bar:
        for one in clip_batches(config, dataset, models.tokenizer, clips, batch):
            for name, features in _fixed_features(config, one, models, network).items():
                found.setdefault(name, []).append(features)
            for num_steps in steps:
                video = _dreamed(config, one, models, num_steps)
                found.setdefault(str(num_steps), []).append(chunk_features(network, video))
                bar.show(bar.done + num_steps * len(video), f"K = {num_steps}")
    return {name: torch.cat(parts) for name, parts in found.items()}


def _fixed_features(config: HeldOut, batch: Batch, models: Models, network: VideoFeatures) -> dict[str, Tensor]:
    real = to_float(batch.clips.frames[:, config.context :])
    recon = decode(models.tokenizer, batch.latents.latents, config.context)
    return {REAL: chunk_features(network, real), RECONSTRUCTION: chunk_features(network, recon)}


def _dreamed(config: HeldOut, batch: Batch, models: Models, num_steps: int) -> Tensor:
    context, actions = batch.latents.window(0, config.context), batch.clips.actions[:, config.context :]
    latents = open_loop(models.world, context, actions, seed=batch.seed, num_steps=num_steps)
    return decode(models.tokenizer, latents, config.context)


def summarise_chunks(features: dict[str, Features], *, num_steps: int, finest: int) -> dict[str, Any]:
    """FVD-lite0 against the real clips and, without what the tokenizer loses, against their reconstructions."""
    real = features[REAL]
    half = len(real) // 2
    draws = draw_clips(len(real))
    floor = distances(real[:half], real[half:], draw_clips(half), draw_clips(len(real) - half, seed=1))
    reconstruction = distances(features[RECONSTRUCTION], real, draws, draws)
    return {
        "clips": len(real),
        "chunks": real.shape[0] * real.shape[1],
        "num_steps": num_steps,
        "finest": finest,
        "floor": summarise_draws(floor),
        RECONSTRUCTION: summarise_draws(reconstruction),
        **_by_steps(features, real, draws, num_steps=num_steps, finest=finest),
        "against_reconstruction": _by_steps(
            features, features[RECONSTRUCTION], draws, num_steps=num_steps, finest=finest
        ),
    }


def _by_steps(
    features: dict[str, Features], others: Features, draws: Sequence[Tensor], *, num_steps: int, finest: int
) -> dict[str, Any]:
    found = {
        name: distances(values, others, draws, draws)
        for name, values in features.items()
        if name not in (REAL, RECONSTRUCTION)
    }
    gap = found[str(num_steps)] - found[str(finest)]
    return {
        "by_steps": {name: summarise_draws(values) for name, values in found.items()},
        "gap": summarise_draws(gap),
        "relative_gap": summarise_draws(gap / found[str(finest)]),
    }


def draw_clips(count: int, seed: int = 0) -> list[Tensor]:
    """All clips as they are, then drawn with repetition so many times."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(count, (count,), generator=generator) for _ in range(RESAMPLES)]
    return [torch.arange(count), *drawn]


def distances(
    features: Features, others: Float[Tensor, "b2 k2 f"], draws: Sequence[Tensor], other_draws: Sequence[Tensor]
) -> NDArray[np.float64]:
    """FVD-lite0 of two sets of clips, for each draw of clips."""
    return np.array(
        [
            float(frechet_distance(features[one].flatten(0, 1), others[other].flatten(0, 1)))
            for one, other in zip(draws, other_draws, strict=True)
        ]
    )


def summarise_draws(values: NDArray[np.float64]) -> dict[str, Any]:
    """The value of the clips as they are, and its 95 % interval.

    Clips drawn twice make a sample look narrower than it is, so that the distances of drawn clips lie above that of
    the clips themselves: the interval has the drawn ones' spread, about the value itself.
    """
    low, high = np.quantile(values[1:], [0.025, 0.975]) - values[1:].mean()
    return {"value": float(values[0]), "ci95": [float(values[0] + low), float(values[0] + high)]}
