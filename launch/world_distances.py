"""FVD-lite0 of a world model's dreams by the number of denoising steps, with what chance and the tokenizer add.

The dreams are compared with the real frames of the same windows. "Two halves of real" is the distance between the real
clips of half of the episodes and those of the others: so few clips of one kind are so far apart by chance. Intervals
are those of other episodes: real and dreamed clips are drawn together.

Axes: b clips, k chunks of a clip, t frames, f features of a chunk, c h w one RGB frame in [0, 1].
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from launch.open_loop import Batch, HeldOut, Models, clip_batches, decode, dream_video
from launch.resampling import draw_clips, summarise_draws
from launch.workers import Bar
from tokenizer.autoencoder import to_float
from tokenizer.metrics import frechet_distance
from tokenizer.shards import Dataset
from tokenizer.video_features import VideoFeatures, split_chunks

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
                actions = one.clips.actions[:, config.context :]
                video = dream_video(models, one, actions, context=config.context, num_steps=num_steps)
                found.setdefault(str(num_steps), []).append(chunk_features(network, video))
                bar.show(bar.done + num_steps * len(video), f"K = {num_steps}")
    return {name: torch.cat(parts) for name, parts in found.items()}


def _fixed_features(config: HeldOut, batch: Batch, models: Models, network: VideoFeatures) -> dict[str, Tensor]:
    real = to_float(batch.clips.frames[:, config.context :])
    recon = decode(models.tokenizer, batch.latents.latents, config.context)
    return {REAL: chunk_features(network, real), RECONSTRUCTION: chunk_features(network, recon)}


def summarise_chunks(
    features: dict[str, Features], episodes: Sequence[int], *, num_steps: int, finest: int
) -> dict[str, Any]:
    """FVD-lite0 against the real clips and, without what the tokenizer loses, against their reconstructions.

    `episodes` says of each clip which episode it is a window of.
    """
    real, draws = features[REAL], draw_clips(episodes)
    floor = _halves_apart(real, episodes)
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


def _halves_apart(real: Features, episodes: Sequence[int]) -> NDArray[np.float64]:
    """Between the clips of the first episodes and those of the others; of a single episode, between its halves."""
    names = list(dict.fromkeys(episodes))
    first = set(names[: len(names) // 2])
    of_first = torch.tensor([name in first for name in episodes])
    if not first:
        of_first[: len(episodes) // 2] = True
    places = [of_first.nonzero().flatten(), (~of_first).nonzero().flatten()]
    draws = [draw_clips([episodes[i] for i in place.tolist()], seed) for seed, place in enumerate(places)]
    return distances(real[places[0]], real[places[1]], *draws)


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
