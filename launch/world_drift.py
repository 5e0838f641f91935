"""Long dreams: whether their picture goes bad, and whether it stands still.

A dream goes on under the actions of its own held-out drive and, when these end, under those of the next held-out
drives, each after its opening zoom, in the dataset's order and round again. Actions that were made for another road
leave the road, in a dream as in the game: so a dream is held against what the real game shows from the same start under
the same actions, if the game can be played again, and else against the recorded windows.

Axes: b clips, t frames, k chunks, f features of a chunk, a the flat action row, c h w one RGB frame in [0, 1].
"""

from collections.abc import Callable
from contextlib import closing
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from agent.replay import Replay
from launch.encoding import encode_episode
from launch.open_loop import Batch, HeldOut, Models, clip_batches, decode, open_loop
from launch.resampling import draw_clips, summarise_draws
from launch.workers import Bar
from launch.world_distances import Features, chunk_features, distances
from tokenizer.autoencoder import Tokenizer, to_float
from tokenizer.records import EpisodeClip
from tokenizer.shards import Dataset
from tokenizer.video_features import CHUNK, VideoFeatures

ACTIONS = "of the held-out drive itself, then of the next held-out drives, each after its opening zoom"
SAME_ACTIONS, RECORDED = "the real game under the same actions", "the recorded windows where the dreams begin"
MIN_FRAMES = 2 * CHUNK
CHECKED_FRAMES = 100
"""Of the first recorded drive, which the game must show again."""


class Video(NamedTuple):
    """What was measured of a long video of each clip."""

    change: Float[Tensor, "b t"]
    """Mean absolute difference of each frame from the one before it."""
    first: Features
    last: Features
    """Of as many chunks as the first part has, spread over the last one, so that chance adds alike to both; none of
    either without the perceptual weights."""
    shown: Float[Tensor, "b t2 c h w"]
    """Frames of the first dreams: see `shown_frames`; none where the video is shorter than the dream."""


class Drift(NamedTuple):
    dream: Video
    real: Video
    reconstruction: Video
    """Of the real frames: what the tokenizer alone makes of them."""
    reference: str
    """What the real frames are."""


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
    parts: list[list[Video]] = []
    with closing(Drives(config, dataset)) as drives, Bar(f"frames of {starts} long dreams", 2 * starts * frames) as bar:

        def tell(more: int) -> None:
            """Of frames that were dreamed or measured."""
            bar.show(bar.done + more, "")

        for one in clip_batches(config, dataset, models.tokenizer, starts, batch):
            tapes = [drives.tape(place, frames) for place in one.places]
            context = one.latents.window(0, config.context)
            told = partial(_tell_of_all, tell, len(tapes))
            latents = open_loop(models.world, context, torch.stack(tapes), seed=one.seed, tell=told)
            for number, tape in enumerate(tapes):
                dream = decode(models.tokenizer, latents[number : number + 1], config.context - 1)
                real, recon = drives.what_came(one, number, tape, models.tokenizer)
                parts.append([_measure(video, frames, network) for video in (dream, real, recon)])
                tell(frames)
        reference = RECORDED if drives.replay is None else SAME_ACTIONS
    dreams, reals, recons = (Video(*map(torch.cat, zip(*videos, strict=True))) for videos in zip(*parts, strict=True))
    return Drift(dreams, reals, recons, reference)


def _tell_of_all(tell: Callable[[int], None], dreams: int, frames: int) -> None:
    tell(dreams * frames)


class Drives:
    """Held-out drives beyond their end: their actions, and what the game shows under them, if it can be played."""

    def __init__(self, config: HeldOut, dataset: Dataset) -> None:
        self.config, self.dataset = config, dataset
        self.replay = find_replay(dataset)
        self.actions_of = cache(self._actions_of)

    def close(self) -> None:
        if self.replay is not None:
            self.replay.close()

    def tape(self, place: tuple[int, int], frames: int) -> Float[Tensor, "t a"]:
        """So many rows of actions after the context of a window (sample, first frame)."""
        sample, first = place
        return action_tape(
            first + self.config.context,
            sample,
            frames,
            skip=self.config.skip_frames,
            samples=len(self.dataset),
            actions_of=self.actions_of,
        )

    def what_came(
        self, batch: Batch, number: int, tape: Float[Tensor, "t a"], tokenizer: Tokenizer
    ) -> tuple[Float[Tensor, "1 t2 c h w"], Float[Tensor, "1 t2 c h w"]]:
        """Real frames of this window of the batch, from the last of its context on, and their reconstructions."""
        if self.replay is None:
            clip = slice(number, number + 1)
            return to_float(batch.clips.frames[clip]), decode(tokenizer, batch.latents.latents[clip], 0)
        sample, first = batch.places[number]
        begin = first + self.config.context
        rows = torch.cat([self.actions_of(sample)[:begin], tape]).numpy()
        frames = torch.from_numpy(self.replay.play(self.dataset.samples[sample].key, rows))
        latents = encode_episode(tokenizer, frames).unsqueeze(0)
        return to_float(frames[begin - 1 :]).unsqueeze(0), decode(tokenizer, latents, begin - 1)

    def _actions_of(self, sample: int) -> Float[Tensor, "t a"]:
        actions: Tensor = self.dataset.read_window(sample, 0, self.dataset.samples[sample].length).actions
        return actions


def find_replay(dataset: Dataset) -> Replay | None:
    """The game, if its first episode comes out of it as it was recorded; where not, that is said."""
    try:
        replay = Replay(dataset.meta)
    except (ValueError, ImportError) as error:
        print(f"{error}: long dreams are held against {RECORDED}")
        return None
    frames = min(dataset.samples[0].length, CHECKED_FRAMES)
    clip = dataset.read_window(0, 0, frames)
    assert isinstance(clip, EpisodeClip)
    if np.array_equal(replay.play(dataset.samples[0].key, clip.actions.numpy()), clip.frames.numpy()):
        return replay
    replay.close()
    print(f"this machine's {dataset.meta.environment} is not the recorded one: long dreams are held against {RECORDED}")
    return None


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


def _measure(video: Float[Tensor, "1 t c h w"], frames: int, network: VideoFeatures | None) -> Video:
    """Of a video that begins with the frame before the dream's first one."""
    change, ahead = video.diff(dim=1).abs().mean((2, 3, 4)), video[:, 1:]
    shown = ahead[:, [number - 1 for number in shown_frames(frames)]] if ahead.shape[1] == frames else ahead[:, :0]
    if network is None:
        return Video(change, torch.zeros(1, 0, 0), torch.zeros(1, 0, 0), shown)
    first, last = part_lengths(frames)
    begun, ended = chunk_features(network, ahead[:, :first]), chunk_features(network, ahead[:, -last:])
    spread = np.linspace(0, ended.shape[1] - 1, begun.shape[1]).round()
    return Video(change, begun, ended[:, torch.from_numpy(spread).long()], shown)


def summarise_drift(drift: Drift, *, frozen_below: float) -> dict[str, Any]:
    """How much the frames of both parts change, in that of real video, and FVD-lite0 of both parts against it."""
    starts, frames = drift.dream.change.shape
    first, last = part_lengths(frames)
    lengths = {"first": first, "last": last}
    parts = {"first": slice(0, first), "last": slice(-last, None)}
    real = {name: drift.real.change[:, part].mean() for name, part in parts.items()}
    ended = drift.dream.change[:, -last:].mean(1) / real["last"]
    whole = drift.real.change.mean()
    found: dict[str, Any] = {
        "frames": frames,
        "starts": starts,
        "actions": ACTIONS,
        "reference": drift.reference,
        **{
            name: {
                "frames": lengths[name],
                "change": float(drift.dream.change[:, part].mean() / real[name]),
                "reconstructed_change": float(drift.reconstruction.change[:, part].mean() / real[name]),
            }
            for name, part in parts.items()
        },
        "real_change": float(whole),
        "change_by_frame": {
            name: (getattr(drift, name).change.mean(0) / whole).tolist() for name in ("dream", "real", "reconstruction")
        },
        "frozen_below": frozen_below,
        "frozen": bool(ended.mean() < frozen_below),
        "frozen_starts": int((ended < frozen_below).sum()),
    }
    if drift.real.first.numel():
        found["fvd_lite0"] = _distances(drift)
    return found


def _distances(drift: Drift) -> dict[str, Any]:
    """Of dreams and of reconstructions from the same part of the real videos, and by how much they rise."""
    draws = draw_clips(range(len(drift.dream.change)))
    found: dict[str, Any] = {}
    rises: dict[str, NDArray[np.float64]] = {}
    for name in ("dream", "reconstruction"):
        first, last = (
            distances(getattr(getattr(drift, name), part), getattr(drift.real, part), draws, draws)
            for part in ("first", "last")
        )
        rises[name] = last - first
        values = {"first": first, "last": last, "rise": rises[name]}
        found[name] = {part: summarise_draws(value) for part, value in values.items()}
    found["rise_beyond_reconstruction"] = summarise_draws(rises["dream"] - rises["reconstruction"])
    return found
