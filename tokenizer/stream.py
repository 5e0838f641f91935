"""Batches in an order that is a function of (seed, epoch, sample) alone, never of timing or of the number of workers.

Every window that training sees has a number, its slot. With N samples that are long enough, slot i is of epoch i // N
and shows sample order(seed, epoch)[i % N] from a frame drawn by (seed, epoch, sample). Of R ranks with b rows, batch k
of rank r is slots [(k R + r) b, (k R + r + 1) b): ranks share without overlap, and the place in the stream is one
number.

The order is a permutation of all samples; or, where `mix_shards` is given, the shards are permuted and so many of them
at a time give their samples mixed, so that no more shards have to be at hand (`tokenizer.storage`). Of several datasets
with weights each has epochs of its own, and a pattern of slots says whose turn it is (`tokenizer.order`).
"""

import signal
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as MapDataset

from tokenizer.order import Order, Turns
from tokenizer.records import EpisodeClip, LatentClip
from tokenizer.shard_format import CorruptSample
from tokenizer.shards import Dataset

Batch = EpisodeClip | LatentClip
T = TypeVar("T")

MAX_ATTEMPTS = 100
"""Corrupt samples in a row after which the dataset counts as ruined."""

# SeedSequence pads with zeros, so (seed, epoch) and (seed, epoch, 0) are one state: each use begins with a number.
_WINDOW, _LENGTH, _LABELS = 2, 4, 5  # 1, 3 and 6 are those of `tokenizer.order`
UNSAID: dict[str, Any] = {"labeled_share": 1.0, "mix_shards": None, "weights": [], "joined": False}
"""What states that were saved by older versions mean by their silence."""


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    length: int
    """Frames of a window."""
    batch_size: int
    """Rows of a batch, on each rank."""
    seed: int = 0
    num_workers: int = 0
    """Processes that read; 0 reads in the caller's."""
    labeled_share: float = 1.0
    """Share of the episodes that keep their actions; the others are video without actions."""
    mix_shards: int | None = None
    """Shards whose samples are mixed at a time; None mixes all."""
    joined: bool = False
    """Whether a window begins at any frame of a sample and, where that ends, goes on with the beginning of another,
    whose first frame is marked `is_first`: so all frames are shown equally often, if those that fill up count, and
    ends at any place in a window.
    Without it windows lie within a sample: few reach its end, and it is always their last frame."""

    def __post_init__(self) -> None:
        if self.length < 1 or self.batch_size < 1:
            raise ValueError(f"length={self.length} and batch_size={self.batch_size} must be at least 1")
        if self.seed < 0 or self.num_workers < 0:
            raise ValueError(f"seed={self.seed} and num_workers={self.num_workers} must not be negative")
        if not 0 <= self.labeled_share <= 1:
            raise ValueError(f"labeled_share={self.labeled_share} is not in [0, 1]")
        if self.mix_shards is not None and self.mix_shards < 1:
            raise ValueError(f"mix_shards={self.mix_shards} must be at least 1")


class ClipStream:
    """Iterating yields this rank's batches, [b, t, ...], forever; each `iter` goes on after the last batch handed out.

    Raises ValueError where no sample is long enough, and, while iterating, where all samples are corrupt.
    """

    def __init__(self, dataset: Dataset, config: StreamConfig, rank: int = 0, world_size: int = 1) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} is not one of world_size={world_size}")
        self.config, self.rank, self.world_size = config, rank, world_size
        self.slots = _Slots(dataset, config)
        self.num_too_short = len(dataset) - self.slots.num_samples
        """Samples that are never shown."""
        self.corrupt: dict[str, str] = {}
        """Samples that were skipped so far on this rank: key -> reason."""
        self._fingerprint = dataset.fingerprint()
        self._batches = 0
        self._first_slot = 0
        """Of the next batch, over all ranks."""

    @property
    def too_short(self) -> dict[int, int]:
        """Length of a window -> samples that have fewer frames and are never shown at it."""
        return {self.config.length: self.num_too_short}

    @property
    def num_samples(self) -> int:
        """Samples of an epoch."""
        return self.slots.num_samples

    def __iter__(self) -> Iterator[Batch]:
        loader = DataLoader(
            self.slots,
            batch_sampler=_RankSlots(self._first_slot, self.config.batch_size, self.rank, self.world_size),
            num_workers=self.config.num_workers,
            collate_fn=_collate,
            worker_init_fn=_begin_worker,
            generator=torch.Generator(),  # the global one belongs to the training and must not move here
        )
        for batch, corrupt in loader:
            self.corrupt |= corrupt
            self._batches += 1
            self._first_slot += self.config.batch_size * self.world_size
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream: plain JSON values, the same on all ranks after the same number of batches."""
        return {
            "batches": self._batches,
            "first_slot": self._first_slot,
            "seed": self.config.seed,
            "length": self.config.length,
            "labeled_share": self.config.labeled_share,
            "mix_shards": self.config.mix_shards,
            "weights": list(self.slots.dataset.weights),
            "joined": self.config.joined,
            "batch_size": self.config.batch_size,
            "world_size": self.world_size,
            "dataset": self._fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> str | None:
        """Goes on at a saved place; take a new `iter` afterwards.

        With other ranks or rows than before no window is lost or repeated, but batches are cut differently: then the
        result is a sentence that says so. Raises ValueError where seed, length, labels or data are not the same.
        """
        mine, state = self.state_dict(), UNSAID | state
        for name in ("seed", "length", "labeled_share", "mix_shards", "weights", "joined", "dataset"):
            if state[name] != mine[name]:
                raise ValueError(
                    f"the stream was saved with {name}={state[name]!r} and now has {mine[name]!r}: "
                    "resume with what the run began with, or begin another run"
                )
        self._batches, self._first_slot = int(state["batches"]), int(state["first_slot"])
        changed = [name for name in ("world_size", "batch_size") if state[name] != mine[name]]
        if not changed:
            return None
        what = ", ".join(f"{name} {state[name]} -> {mine[name]}" for name in changed)
        return f"the stream goes on at the same window, but its batches are no longer those of a straight run: {what}"


class PairedStream:
    """Batches whose first rows come from one stream and the others from a second one."""

    def __init__(self, first: ClipStream, second: ClipStream) -> None:
        self.parts = {"first": first, "second": second}

    @property
    def too_short(self) -> dict[int, int]:
        """As of the first, which reads the whole dataset."""
        return self.parts["first"].too_short

    @property
    def corrupt(self) -> dict[str, str]:
        return _corrupt(self.parts)

    def __iter__(self) -> Iterator[Batch]:
        for first, second in zip(*self.parts.values(), strict=True):
            yield type(first).concatenate([first, second])

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> str | None:
        """As of the streams themselves."""
        return _load(self.parts, state)


class AlternatingStream:
    """Batches of short clips, and now and then one of long clips (Dreamer 4, sec. 3.2).

    Whether a batch is long is drawn by (seed, number of the batch) alone, so it is the same on all ranks. It is drawn
    because long batches at a fixed interval could coincide with all that are logged, or with none.
    """

    def __init__(
        self, short: ClipStream | PairedStream, long: ClipStream | PairedStream, *, long_share: float, seed: int = 0
    ) -> None:
        if not 0 <= long_share <= 1:
            raise ValueError(f"long_share={long_share} is not in [0, 1]")
        self.parts = {"short": short, "long": long}
        self.long_share, self.seed = long_share, seed
        self._batches = 0

    @property
    def too_short(self) -> dict[int, int]:
        return {length: count for part in self.parts.values() for length, count in part.too_short.items()}

    @property
    def corrupt(self) -> dict[str, str]:
        return _corrupt(self.parts)

    def is_long(self, batch: int) -> bool:
        """Of the batch of this number, counted from 0."""
        return bool(np.random.default_rng((_LENGTH, self.seed, batch)).random() < self.long_share)

    def __iter__(self) -> Iterator[Batch]:
        batches = {name: iter(part) for name, part in self.parts.items()}
        while True:
            batch = next(batches["long" if self.is_long(self._batches) else "short"])
            self._batches += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self._batches, **{name: part.state_dict() for name, part in self.parts.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> str | None:
        """As of the streams themselves."""
        if "long" not in state:
            raise ValueError("the stream was saved without long clips: resume without them, or begin another run")
        self._batches = int(state["batches"])
        return _load(self.parts, state)


AnyStream = ClipStream | PairedStream | AlternatingStream


def _load(parts: Mapping[str, ClipStream | PairedStream], state: dict[str, Any]) -> str | None:
    said = [part.load_state_dict(state[name]) for name, part in parts.items()]
    return next(filter(None, said), None)


def _corrupt(parts: Mapping[str, ClipStream | PairedStream]) -> dict[str, str]:
    return {key: reason for part in parts.values() for key, reason in part.corrupt.items()}


def too_short(dataset: Dataset, length: int) -> ValueError:
    """What to raise where no sample has so many frames."""
    longest = max((sample.length for sample in dataset.samples), default=0)
    return ValueError(
        f"no sample of {dataset.name} has {length} frames: the longest of {len(dataset.samples)} has {longest}; "
        "choose a shorter length"
    )


class _Slots(MapDataset[tuple[Batch, dict[str, str]]]):
    """Slot number -> (window, samples found corrupt on the way to it); what a worker process holds."""

    def __init__(self, dataset: Dataset, config: StreamConfig) -> None:
        self.dataset, self.seed, self.length = dataset, config.seed, config.length
        self.labeled_share, self.joined = config.labeled_share, config.joined
        lengths = [sample.length for sample in dataset.samples]
        needed = 1 if config.joined else config.length
        eligible = [index for index, length in enumerate(lengths) if length >= needed]
        if not eligible:
            raise too_short(dataset, config.length)
        self.num_samples = len(eligible)
        parts: dict[int, list[int]] = {}
        for index in eligible:
            parts.setdefault(dataset.samples[index].shard.part if dataset.weights else 0, []).append(index)
        self.orders = [Order(dataset, part, seed=config.seed, mix_shards=config.mix_shards) for part in parts.values()]
        self.turns = Turns([dataset.weights[part] for part in parts] if len(parts) > 1 else [1.0], config.seed)

    def __getitem__(self, slot: int) -> tuple[Batch, dict[str, str]]:
        part, number = self.turns[slot]
        order = self.orders[part]
        epoch, place = divmod(number, len(order))
        sample = order.sample(epoch, place)
        order.ahead.want(order.next_shards(epoch, place))
        corrupt: dict[str, str] = {}
        for attempt in range(min(len(order), MAX_ATTEMPTS) + 1):
            try:
                return self._read(order, epoch, place, sample, corrupt), corrupt
            except CorruptSample as error:
                corrupt[error.key] = str(error)
            sample = order.replacement(slot, attempt)
        raise ValueError(f"{len(corrupt)} samples in a row are corrupt, the first: {next(iter(corrupt.values()))}")

    def _read(self, order: Order, epoch: int, place: int, sample: int, corrupt: dict[str, str]) -> Batch:
        """Notes samples that were to fill the window up and cannot be read; raises CorruptSample where its own cannot.

        The window's own sample has its turn among those that fill it up, so that one is found.
        """
        start = self._start(epoch, sample)
        clip = self._part(sample, start, self.length)
        while clip.num_frames < self.length:
            place += 1
            try:
                other = self._part(order.sample(epoch, place % len(order)), 0, self.length - clip.num_frames)
            except CorruptSample as error:
                corrupt[error.key] = str(error)
                continue
            is_first = other.is_first.clone()
            is_first[0] = True
            clip = _in_time([clip, replace(other, is_first=is_first)])
        return clip

    def _part(self, sample: int, start: int, length: int) -> Batch:
        """So many frames, or as many as there are, with the actions or without."""
        clip = self.dataset.read_window(sample, start, min(length, self.dataset.samples[sample].length - start))
        if keeps_labels(self.seed, self.dataset.samples[sample].episode, self.labeled_share):
            return clip
        return replace(clip, actions=torch.zeros_like(clip.actions), labeled=torch.zeros_like(clip.labeled))

    def _start(self, epoch: int, sample: int) -> int:
        rng = np.random.default_rng((_WINDOW, self.seed, epoch, sample))
        length = self.dataset.samples[sample].length
        return int(rng.integers(length if self.joined else length - self.length + 1))


class _RankSlots:
    """The slots of each of a rank's batches, forever."""

    def __init__(self, first_slot: int, batch_size: int, rank: int, world_size: int) -> None:
        self.first_slot, self.batch_size, self.rank, self.world_size = first_slot, batch_size, rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        first = self.first_slot + self.rank * self.batch_size
        while True:
            yield list(range(first, first + self.batch_size))
            first += self.batch_size * self.world_size


def _begin_worker(number: int) -> None:
    """Ctrl-C is the trainer's to handle, who may finish a step first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _collate(items: Sequence[tuple[Batch, dict[str, str]]]) -> tuple[Batch, dict[str, str]]:
    """Stacks in the worker, so that one record crosses to the trainer."""
    corrupt = {key: reason for _, found in items for key, reason in found.items()}
    return _stack([clip for clip, _ in items]), corrupt


def _stack(clips: Sequence[Batch]) -> Batch:
    return type(clips[0]).stack(clips)  # type: ignore[arg-type]  # all of one dataset, so of one kind


def _in_time(clips: Sequence[Batch]) -> Batch:
    return type(clips[0]).in_time(clips)  # type: ignore[arg-type]  # all of one dataset, so of one kind


def keeps_labels(seed: int, episode: str, share: float) -> bool:
    """Whether an episode is among the share whose actions are shown; a larger share holds all of a smaller one."""
    return bool(np.random.default_rng((_LABELS, seed, zlib.crc32(episode.encode()))).random() < share)


def windows(dataset: Dataset, length: int, count: int, start: int = 0) -> Batch:
    """The windows of `window_places` as a batch. Raises CorruptSample where one cannot be read."""
    places = window_places(dataset, length, count, start)
    return _stack([dataset.read_window(index, first, length) for index, first in places])


def endings(dataset: Dataset, length: int, count: int, look_at: int) -> list[Batch]:
    """Up to `count` single clips whose last frame ended the episode, of up to `length` frames each.

    They are found among `look_at` samples and, like these, spread over the dataset. Corrupt ones are left out.
    """
    ended: list[Batch] = []
    for index in _spread(list(range(len(dataset))), look_at):
        frames = dataset.samples[index].length
        try:
            if not dataset.read_window(index, frames - 1, 1).continues.item():
                ended.append(dataset.read_window(index, max(0, frames - length), min(length, frames)))
        except CorruptSample:
            continue
    return _spread(ended, count)


def _spread(items: list[T], count: int) -> list[T]:
    """Up to `count` of them, evenly spaced."""
    return [items[place * len(items) // count] for place in range(count)] if len(items) > count else items


GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, modulo 1, fill [0, 1] evenly however many there are."""


def window_places(dataset: Dataset, length: int, count: int, start: int = 0) -> list[tuple[int, int]]:
    """(sample, first frame) of the same `count` windows of `length` frames at each call, for evaluation.

    They are shared out evenly among the samples and spread evenly over each, from frame `start` on; of samples that get
    one only, each has it somewhere else. Raises ValueError where no sample is long enough.
    """
    eligible = [index for index, sample in enumerate(dataset.samples) if start + length <= sample.length]
    if not eligible:
        longest = max((sample.length for sample in dataset.samples), default=0)
        raise ValueError(
            f"no sample of {dataset.name} has {length} frames from frame {start} on: the longest has {longest}; "
            "choose a shorter length"
        )
    chosen: list[tuple[int, int]] = []
    for place, index in enumerate(eligible):
        share = (place + 1) * count // len(eligible) - place * count // len(eligible)
        last = dataset.samples[index].length - length
        parts = [len(chosen) * GOLDEN % 1] if share == 1 else np.linspace(0, 1, share).tolist()
        chosen += [(index, round(start + part * (last - start))) for part in parts]
    return chosen
