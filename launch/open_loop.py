"""Open loop: windows of held-out drives, the dreams that a world model goes on with from them, and their pixels.

Axes: b clips, t frames, n latent tokens of a frame, d their channels, a the flat action row, c h w one RGB frame.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.simulator import Simulator
from dynamics.world_model import WorldModel
from launch.distributed import say_once
from launch.encoding import encode_episode
from launch.memory import check_size
from launch.models import (
    check_frame_size,
    check_same_tokenizer,
    default_device,
    fingerprint,
    for_inference,
    identity,
    load_tokenizer,
    load_world,
    newest,
)
from launch.run_folder import write_json
from launch.serial import to_json
from tokenizer.autoencoder import Tokenizer
from tokenizer.cache import Cache
from tokenizer.records import EpisodeClip, LatentClip
from tokenizer.shard_format import read_json
from tokenizer.shards import Dataset, expand
from tokenizer.storage import is_url
from tokenizer.stream import window_places

HORIZONS = (1, 2, 4, 8, 16, 32, 64)
"""Frames ahead that tables and pictures show."""
DEFINITIONS = (
    "PSNR is the mean over frames of -10 log10 MSE on [0, 1] RGB, full frame, held-out episodes after the opening "
    "zoom; shuffled actions are those of another clip."
)
FRAMES_AT_ONCE = 64
"""Of a clip in one pass of the decoder, and of a dream before it tells of them."""
PLACES = frozenset({"run", "held_out", "tokenizer", "dynamics", "training", "json", "compile"})
"""Fields that leave the numbers as they are, or that `made_by` names by their contents."""
STUDIED = frozenset({"shares", "rungs", "seeds", "timing_repeats"})
"""Fields that say which models a study compares, not how one of them is judged."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What every command is told that dreams held-out drives."""

    run: Path
    """Folder that gets the numbers and the pictures."""
    held_out: Path
    """Folder of video shards that no training saw."""
    tokenizer: Path
    context: int = 16
    """Real frames before a dream."""
    horizon: int = 64
    """Dreamed frames."""
    starts: int = 48
    """Dreams, spread evenly over the held-out episodes."""
    skip_frames: int = 13
    """Frames left out at the start of each episode: CarRacing opens with a zoom."""
    seed: int = 0
    compile: bool = True
    json: Path | None = None
    """Also write the numbers here."""

    def __post_init__(self) -> None:
        for name, least in {"context": 1, "horizon": 1, "starts": 2, "skip_frames": 0, "seed": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}, needs at least {least}")

    @property
    def length(self) -> int:
        """Frames of a window: the context, and what became of it."""
        return self.context + self.horizon

    @property
    def longest(self) -> int:
        """Frames of the longest dream, its context counted."""
        return self.length


@dataclass(frozen=True, kw_only=True)
class OpenLoop(HeldOut):
    """The same of one world model."""

    dynamics: Path


class Models(NamedTuple):
    tokenizer: Tokenizer
    world: WorldModel


class Batch(NamedTuple):
    """Windows that are dreamed side by side."""

    places: list[tuple[int, int]]
    """(sample, first frame) of each."""
    seed: int
    """Of the noise of their dreams."""
    clips: EpisodeClip
    latents: LatentClip


def check_memory(clips: int, frames: int, dataset: Dataset, options: str) -> None:
    """Raises ValueError where the pixels of so many clips, as dreams have them, are more than this machine's memory."""
    check_size(clips, frames, 4 * prod(dataset.meta.item_shape), options)


def load_models(config: HeldOut, dynamics: Path) -> Models:
    """Both on this machine's device. Raises ValueError where the world model knows another tokenizer's latents."""
    tokenizer, world = load_tokenizer(config.tokenizer), load_world(dynamics)
    check_same_tokenizer(world.config.tokenizer, fingerprint(tokenizer), model=dynamics, other=config.tokenizer)
    for said in beyond_training(config, dynamics, Models(tokenizer, world)):
        say_once(said)
    device = default_device()
    return Models(for_inference(tokenizer, device, compile=False), for_inference(world, device, compile=config.compile))


def beyond_training(config: HeldOut, dynamics: Path, models: Models) -> Iterator[str]:
    """What to know of dreams that reach farther than a model's attention, or than the clips that it learned from, and
    of drives that are not held out at all.
    """
    if _trained_on(config.tokenizer, config.held_out):
        yield f"{config.tokenizer} was trained on {config.held_out}: these drives are not held out"
    tokenizer, transformer = models.tokenizer.config, models.world.config.transformer
    if config.context > transformer.window:
        yield (
            f"context={config.context} is longer than the attention window of {transformer.window} frames: "
            "a dream knows what was before those only through what they took from it"
        )
    windows = {config.tokenizer: max(tokenizer.encoder.window, tokenizer.decoder.window), dynamics: transformer.window}
    for run, window in windows.items():
        trained = _longest_clip(run)
        if trained is not None and trained < min(window, config.longest):
            yield (
                f"{run} learned from clips of at most {trained} frames, and has {config.longest} to go through with an "
                f"attention window of {window}: it was never taught to look so far back"
            )


def _longest_clip(run: Path) -> int | None:
    """Frames of the longest clips of a training, where its folder says so."""
    config = _config(run)
    return config.get("long_length") or config.get("length")


def _trained_on(run: Path, data: Path) -> bool:
    """Whether a training read this folder, where its own says so."""
    sources = _config(run).get("data", [])
    named = [folder for source in ([sources] if isinstance(sources, str) else sources) for folder in expand(source)]
    return data.resolve() in [Path(folder).resolve() for folder in named if not is_url(folder)]


def _config(run: Path) -> dict[str, Any]:
    path = run / "config.json"
    return read_json(path) if path.exists() else {}


def made_by(config: HeldOut, dataset: Dataset, dynamics: Path) -> dict[str, Any]:
    """What the numbers depend on."""
    left_out = PLACES | STUDIED
    sizes = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in left_out}
    return {
        "tokenizer": identity(newest(config.tokenizer, "Tokenizer")),
        "dynamics": identity(newest(dynamics, "WorldModel")),
        "held_out": dataset.fingerprint()[:16],
        **to_json(sizes),
    }


def finished(path: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The numbers at `path`, written last of all, if they were made by what is wanted now."""
    if not path.exists():
        return None
    numbers: dict[str, Any] = json.loads(path.read_text())
    return numbers if numbers.get("made_by") == wanted else None


def write_numbers(config: HeldOut, path: Path, numbers: dict[str, Any]) -> None:
    for place in filter(None, (config.json, path)):
        write_json(place, numbers)


def find_windows(config: HeldOut, dataset: Dataset, count: int) -> list[tuple[int, int]]:
    """(sample, first frame) of so many windows of context and horizon, spread evenly over the held-out episodes."""
    return window_places(dataset, config.length, count, start=config.skip_frames)


def episodes_of(config: HeldOut, dataset: Dataset, count: int) -> list[int]:
    """Of which episode each of these windows is."""
    names = dataset.episodes
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [numbers[names[sample]] for sample, _ in find_windows(config, dataset, count)]


def load_clips(
    dataset: Dataset, places: Sequence[tuple[int, int]], length: int, tokenizer: Tokenizer
) -> tuple[EpisodeClip, LatentClip]:
    """Windows, one episode's after another's, and their latents, encoded from the episode's beginning.

    Raises ValueError where actions are not known: a dream under none is no answer to what became of them.
    """
    check_frame_size(tokenizer, dataset.meta)
    windows, latents = [], []
    for sample, group in groupby(places, key=lambda place: place[0]):
        firsts = [first for _, first in group]
        episode = dataset.read_window(sample, 0, max(firsts) + length)
        assert isinstance(episode, EpisodeClip)
        codes = encode_episode(tokenizer, episode.frames)
        windows += [episode.window(first, first + length) for first in firsts]
        latents += [codes[first : first + length] for first in firsts]
    clips = EpisodeClip.stack(windows)
    if not clips.labeled[:, 1:].all():  # an episode's first frame came with nothing
        raise ValueError(f"{dataset.name} holds video whose actions are not known: give held-out drives with actions")
    shared = {f.name: getattr(clips, f.name) for f in fields(clips) if f.name != "frames"}
    return clips, LatentClip(latents=torch.stack(latents), **shared)


def clip_batches(config: HeldOut, dataset: Dataset, tokenizer: Tokenizer, count: int, size: int) -> Iterator[Batch]:
    """So many windows, at least `size` at a time and fewer than twice as many; no more are in the memory at once."""
    windows = np.array(find_windows(config, dataset, count))
    for number, chosen in enumerate(np.array_split(windows, max(1, count // size))):
        places = [(int(sample), int(first)) for sample, first in chosen]
        yield Batch(places, config.seed + number, *load_clips(dataset, places, config.length, tokenizer))


def other_actions(actions: Float[Tensor, "b t a"]) -> Float[Tensor, "b t a"]:
    """Those of another clip, half a batch away: neighbours are often of one drive."""
    return actions.roll(len(actions) // 2, dims=0)


def open_loop(
    world: WorldModel,
    context: LatentClip,
    actions: Float[Tensor, "b t a"],
    *,
    seed: int,
    num_steps: int | None = None,
    labeled: bool = True,
    tell: Callable[[int], None] = lambda frames: None,
) -> Float[Tensor, "b t2 n d"]:
    """Latents of the context, then of the dream under `actions` alone, or under none where they are not labeled.

    `tell` hears now and then how many frames more are dreamed.
    """
    device = next(world.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    simulator = Simulator(world, generator=generator, num_steps=num_steps)
    seen = context.to(device)
    simulator.reset(seen)
    latents = [seen.latents]
    for piece in actions.to(device).split(FRAMES_AT_ONCE, dim=1):
        latents.append(simulator.dream(piece, torch.full(piece.shape[:2], labeled, device=device))[0])
        tell(piece.shape[1])
    return torch.cat(latents, dim=1)


def dream_video(
    models: Models,
    batch: Batch,
    actions: Float[Tensor, "b t a"],
    *,
    context: int,
    num_steps: int | None = None,
) -> Float[Tensor, "b t c h w"]:
    """Pixels of what the world model makes of the windows' first `context` frames under these actions."""
    seen = batch.latents.window(0, context)
    latents = open_loop(models.world, seen, actions, seed=batch.seed, num_steps=num_steps)
    return decode(models.tokenizer, latents, context)


@torch.no_grad()
def decode(tokenizer: Tokenizer, latents: Float[Tensor, "b t n d"], first: int) -> Float[Tensor, "b t2 c h w"]:
    """Pixels in [0, 1] from frame `first` on, on the CPU, clip by clip."""
    return torch.cat([_decode_clip(tokenizer, clip.unsqueeze(0))[:, first:] for clip in latents])


def _decode_clip(tokenizer: Tokenizer, latents: Float[Tensor, "1 t n d"]) -> Float[Tensor, "1 t c h w"]:
    """Piece by piece, each with its past in the cache: a long video is no more at once than a short one."""
    device = next(tokenizer.parameters()).device
    cache: Cache | None = None
    parts = []
    for piece in latents.to(device).split(FRAMES_AT_ONCE, dim=1):
        pixels, cache = tokenizer.decoder.step(piece, cache)
        parts.append(pixels.float().clamp(0, 1).cpu())
    return torch.cat(parts, dim=1)
