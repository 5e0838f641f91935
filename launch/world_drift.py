"""Long dreams: whether their picture goes bad, and whether it stands still.

A dream goes on under the actions of its own held-out drive and, when these end, under those of the next held-out
drives, each after its opening zoom, in the dataset's order and round again.

Axes: b clips, t frames, k chunks, f features of a chunk, a the flat action row, c h w one RGB frame in [0, 1].
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from launch.open_loop import Batch, HeldOut, Models, clip_batches, decode, open_loop
from launch.resampling import draw_clips, summarise_draws
from launch.workers import Bar
from launch.world_distances import Features, chunk_features, distances
from tokenizer.autoencoder import to_float
from tokenizer.shards import Dataset
from tokenizer.video_features import CHUNK, VideoFeatures

ACTIONS = "of the held-out drive itself, then of the next held-out drives, each after its opening zoom"
MIN_FRAMES = 2 * CHUNK
DREAMS_SHOWN = 4


class Drift(NamedTuple):
    """What was measured of every long dream."""

    change: Float[Tensor, "b t"]
    """Mean absolute difference of each frame from the one before it."""
    real_change: Float[Tensor, "b"]
    """The same of the real drive where the dream began, on average."""
    reconstructed_change: Float[Tensor, "b"]
    """The same of its reconstruction, which shows what the tokenizer loses of it."""
    first: Features
    last: Features
    """Of as many chunks as the first part has, spread over the last one, so that chance adds alike to both; none of
    either without the perceptual weights."""
    shown: Float[Tensor, "b t2 c h w"]
    """Frames of the first dreams: see `shown_frames`."""


def part_lengths(frames: int) -> tuple[int, int]:
    """Frames of the first part of a long dream, an eighth, and of its last part, a half."""
    return max(CHUNK, frames // 8), max(CHUNK, frames // 2)


def shown_frames(frames: int) -> list[int]:
    """Numbers, from 1, of the frames of the picture strip: the first, and eight at equal distances to the last."""
    return [1, *(frames * part // 8 for part in range(1, 9))]


def measure_drift(
    config: HeldOut,
    dataset: Dataset,
    models: Models,
    network: VideoFeatures | None,
    *,
    frames: int,
    starts: int,
    batch: int,
) -> Drift:
    """Dreams of so many frames from so many starts, `batch` of them at a time."""
    parts = []
    actions_of = cache(partial(_drive_actions, dataset))
    with Bar(f"frames of {starts} long dreams", starts * frames) as bar:
        for one in clip_batches(config, dataset, models.tokenizer, starts, batch):
            tape = torch.stack(
                [
                    action_tape(
                        first + config.context,
                        sample,
                        frames,
                        skip=config.skip_frames,
                        samples=len(dataset),
                        actions_of=actions_of,
                    )
                    for sample, first in one.places
                ]
            )
            context = one.latents.window(0, config.context)

            def tell(more: int, dreams: int = len(tape)) -> None:
                bar.show(bar.done + dreams * more, "")

            latents = open_loop(models.world, context, tape, seed=one.seed, tell=tell)
            parts.append(_measure(config, one, models, network, latents))
    return Drift(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _drive_actions(dataset: Dataset, sample: int) -> Float[Tensor, "t a"]:
    actions: Tensor = dataset.read_window(sample, 0, dataset.samples[sample].length).actions
    return actions


def action_tape(
    first: int, sample: int, frames: int, *, skip: int, samples: int, actions_of: Callable[[int], Tensor]
) -> Float[Tensor, "t a"]:
    """So many action rows: those of a drive from frame `first` on, then those of the next drives from `skip` on."""
    parts = [actions_of(sample)[first:]]
    while sum(map(len, parts)) < frames:
        sample = (sample + 1) % samples
        actions = actions_of(sample)
        parts.append(actions[min(skip, len(actions) - 1) :])
    return torch.cat(parts)[:frames]


def _measure(
    config: HeldOut, batch: Batch, models: Models, network: VideoFeatures | None, latents: Float[Tensor, "b t n d"]
) -> Drift:
    """Clip by clip: only one long video is in the memory at once."""
    clips = [_measure_clip(decode(models.tokenizer, row.unsqueeze(0), config.context - 1), network) for row in latents]
    change, first, last, shown = (torch.cat(part) for part in zip(*clips, strict=True))
    real = mean_change(to_float(batch.clips.frames))
    reconstructed = mean_change(decode(models.tokenizer, batch.latents.latents, 0))
    return Drift(change, real, reconstructed, first, last, shown)


def mean_change(video: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b"]:
    """Mean absolute difference of a frame from the one before it, over all frames of a video."""
    return video.diff(dim=1).abs().mean((1, 2, 3, 4))


def _measure_clip(video: Float[Tensor, "1 t c h w"], network: VideoFeatures | None) -> tuple[Tensor, ...]:
    """Change, features of the first and of the last part, and frames to show; the video begins with the context."""
    change, dream = video.diff(dim=1).abs().mean((2, 3, 4)), video[:, 1:]
    shown = dream[:, [number - 1 for number in shown_frames(dream.shape[1])]]
    if network is None:
        return change, torch.zeros(1, 0, 0), torch.zeros(1, 0, 0), shown
    first, last = part_lengths(dream.shape[1])
    begun, ended = chunk_features(network, dream[:, :first]), chunk_features(network, dream[:, -last:])
    spread = np.linspace(0, ended.shape[1] - 1, begun.shape[1]).round()
    return change, begun, ended[:, torch.from_numpy(spread).long()], shown


def summarise_drift(
    drift: Drift, real: tuple[Features, Sequence[int]] | None, *, frozen_below: float
) -> dict[str, Any]:
    """Changes relative to those of real video; FVD-lite0 of both parts against the chunks of real clips.

    `real` holds these and says of each clip which episode it is a window of.
    """
    starts, frames = drift.change.shape
    first, last = part_lengths(frames)
    ratio = drift.change / drift.real_change.mean()
    ended = ratio[:, -last:].mean(1)
    found: dict[str, Any] = {
        "frames": frames,
        "starts": starts,
        "actions": ACTIONS,
        "first": {"frames": first, "change": float(ratio[:, :first].mean())},
        "last": {"frames": last, "change": float(ended.mean())},
        "real_change": float(drift.real_change.mean()),
        "reconstructed_change": float(drift.reconstructed_change.mean() / drift.real_change.mean()),
        "change_by_frame": ratio.mean(0).tolist(),
        "frozen_below": frozen_below,
        "frozen": bool(ended.mean() < frozen_below),
        "frozen_starts": int((ended < frozen_below).sum()),
    }
    if real is not None:
        features, episodes = real
        mine, others = draw_clips(range(starts)), draw_clips(episodes, seed=1)
        values = {name: distances(getattr(drift, name), features, mine, others) for name in ("first", "last")}
        found["fvd_lite0"] = {
            **{name: summarise_draws(distance) for name, distance in values.items()},
            "rise": summarise_draws(values["last"] - values["first"]),
        }
    return found
