"""How close a world model's dreams stay to what really came, frame by frame, and what the actions have to do with it.

Axes: b clips, t dreamed frames, n latent tokens of a frame, d their channels, c h w one RGB frame in [0, 1].
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.world_model import WorldModel
from launch.open_loop import HORIZONS, Batch, HeldOut, Models, clip_batches, decode, open_loop, other_actions
from launch.resampling import draw_clips, mean_of_draws
from launch.workers import Bar
from tokenizer.autoencoder import to_float
from tokenizer.metrics import psnr, ssim
from tokenizer.perceptual import PerceptualDistance, feature_distance, perceptual_available
from tokenizer.shards import Dataset

MEAN_OVER = 16
"""Frames ahead that one number is the mean of."""
MEAN_KEY = f"mean_1_{MEAN_OVER}"
LPIPS = "lpips_lite0"
Scores = dict[str, dict[str, Tensor]]
"""Metric -> video -> [b t]."""


class Quality(NamedTuple):
    """What was measured of every clip."""

    scores: Scores
    latent_distance: dict[str, Tensor]
    """Other dream -> [b t]: its distance from the dream under the true actions, from the same noise."""
    shown: dict[str, Tensor]
    """Video -> frames [t c h w] of the first clip."""


def measure_quality(config: HeldOut, dataset: Dataset, models: Models, *, batch: int) -> Quality:
    """Dreams under true, other and no actions, and what they are held against, `batch` clips at a time."""
    device = next(models.tokenizer.parameters()).device
    network = PerceptualDistance().to(device) if perceptual_available() else None
    parts = []
    with Bar("clips dreamed under true, other and no actions", config.starts) as bar:
        for clips in clip_batches(config, dataset, models.tokenizer, config.starts, batch):
            parts.append(_measure(config, clips, models, network, device))
            bar.show(bar.done + len(clips.clips.frames), "")
    scores = {metric: _join([part.scores[metric] for part in parts]) for metric in parts[0].scores}
    return Quality(scores, _join([part.latent_distance for part in parts]), parts[0].shown)


def dreams(models: Models, batch: Batch, context: int) -> dict[str, Tensor]:
    """Latents [b t n d], context and dream, from the same noise under true, other and no actions."""
    actions = batch.clips.actions[:, context:]
    same = partial(open_loop, models.world, batch.latents.window(0, context), seed=batch.seed)
    return {
        "dream": same(actions),
        "shuffled": same(other_actions(actions)),
        "unlabeled": same(torch.zeros_like(actions), labeled=False),
    }


def score(
    videos: Mapping[str, Float[Tensor, "b t c h w"]],
    real: Float[Tensor, "b t c h w"],
    network: PerceptualDistance | None,
    device: torch.device,
) -> Scores:
    """Every metric of every frame; clip by clip, so that no more than one clip's features are in the memory."""
    clips = [
        _score_clip({name: video[i].to(device) for name, video in videos.items()}, real[i].to(device), network)
        for i in range(len(real))
    ]
    return {
        metric: {name: torch.stack([clip[metric][name] for clip in clips]) for name in videos} for metric in clips[0]
    }


@torch.no_grad()
def _score_clip(videos: Mapping[str, Tensor], real: Tensor, network: PerceptualDistance | None) -> Scores:
    found = {
        "psnr": {name: psnr(video, real).cpu() for name, video in videos.items()},
        "ssim": {name: ssim(video, real).cpu() for name, video in videos.items()},
    }
    if network is not None:
        aims = network.features(real)
        found[LPIPS] = {name: feature_distance(network.features(v), aims).cpu() for name, v in videos.items()}
    return found


def _measure(
    config: HeldOut, batch: Batch, models: Models, network: PerceptualDistance | None, device: torch.device
) -> Quality:
    dreamed = dreams(models, batch, config.context)
    frames = to_float(batch.clips.frames)
    real, last = frames[:, config.context :], frames[:, config.context - 1 : config.context]
    videos = {name: decode(models.tokenizer, latents, config.context) for name, latents in dreamed.items()}
    recon = decode(models.tokenizer, batch.latents.latents, config.context - 1)
    videos |= {"repeat_recon": recon[:, :1].expand_as(real), "repeat_real": last.expand_as(real)}
    videos["reconstruction"] = recon[:, 1:]
    distance = {
        name: latent_distance(models.world, dreamed["dream"], dreamed[name])[:, config.context :]
        for name in ("shuffled", "unlabeled")
    }
    shown = {name: videos[name][0] for name in (*dreamed, "reconstruction")}
    return Quality(score(videos, real, network, device), distance, {"real": real[0], **shown})


def latent_distance(
    world: WorldModel, one: Float[Tensor, "b t n d"], other: Float[Tensor, "b t n d"]
) -> Float[Tensor, "b t"]:
    """Root mean square difference of two dreams' frames, where every latent channel has a spread of 1."""
    return (world.standardise(one) - world.standardise(other)).square().mean((-2, -1)).sqrt().cpu()


def summarise_quality(quality: Quality, episodes: Sequence[int]) -> dict[str, Any]:
    """Curves by horizon, and the mean over the first frames with its interval over episodes.

    `episodes` says of each clip which episode it is a window of.
    """
    horizon = quality.scores["psnr"]["dream"].shape[1]
    named, draws = [h for h in HORIZONS if h <= horizon], draw_clips(episodes)
    return {
        "horizons": named,
        **{
            metric: {name: _summary(values, named, draws) for name, values in videos.items()}
            for metric, videos in quality.scores.items()
        },
        "margins": {
            metric: {f"dream - {name}": _margin(videos, name, draws) for name in ("repeat_recon", "shuffled")}
            for metric, videos in quality.scores.items()
        },
        "controllability": {
            "psnr": {
                f"dream - {name}": {
                    **_margin(quality.scores["psnr"], name, draws),
                    "curve": _gain(quality.scores, name),
                }
                for name in ("shuffled", "unlabeled")
            },
            "latent_distance": {
                f"dream to {name}": _summary(values, named, draws) for name, values in quality.latent_distance.items()
            },
        },
    }


def early_mean(values: Float[Tensor, "b t"]) -> list[float]:
    """Of each clip, over the first frames ahead."""
    means: list[float] = values[:, :MEAN_OVER].double().mean(1).tolist()
    return means


def _summary(values: Float[Tensor, "b t"], named: list[int], draws: Sequence[Tensor]) -> dict[str, Any]:
    curve = values.double().mean(0).tolist()
    return {
        "curve": curve,
        "at": {str(h): curve[h - 1] for h in named},
        MEAN_KEY: mean_of_draws(early_mean(values), draws),
    }


def _margin(videos: Mapping[str, Tensor], name: str, draws: Sequence[Tensor]) -> dict[str, Any]:
    """By how much the dream is above, paired by clip."""
    return {MEAN_KEY: mean_of_draws(early_mean(videos["dream"] - videos[name]), draws)}


def _gain(scores: Scores, name: str) -> list[float]:
    gain: list[float] = (scores["psnr"]["dream"] - scores["psnr"][name]).double().mean(0).tolist()
    return gain


def _join(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
