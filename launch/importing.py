"""What importers share: recordings become shards in parallel, each whole or not at all, and what is missing later."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from launch.interrupt import Interrupts
from launch.run_folder import write_json
from launch.workers import Bar, Tell, carry_out
from tokenizer.shard_format import INDEX, DatasetMeta
from tokenizer.shard_writer import ShardWriter, finish_dataset, has_shard
from tokenizer.video import Fit


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    source: Path
    """Folder of what is imported."""
    out: Path
    """Folder that gets `train` and `held_out`."""
    size: tuple[int, int]
    """Height and width of the frames."""
    fit: Fit = "crop"
    """How a frame comes to this size: what is over is cropped, what is missing padded in black, or all is stretched."""
    clip_frames: int = 512
    """Frames of a clip: a longer recording fills several."""
    shard_frames: int = 8192
    """Frames of a shard, about; a recording is never split over two."""
    held_out: int = 1
    """Recordings to judge models on, spread evenly over all."""
    workers: int = 2
    """Processes that read; 0 reads in the command's own."""

    def __post_init__(self) -> None:
        for name in ("clip_frames", "shard_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}, needs at least 1")
        if self.held_out < 0 or self.workers < 0:
            raise ValueError(f"held_out={self.held_out} and workers={self.workers} must not be negative")


C = TypeVar("C", bound=ImportConfig)


@runtime_checkable
class Recording(Protocol):
    """One episode; goes to a worker process."""

    @property
    def name(self) -> str:
        """Of its own among all, for messages and as the clips' source."""

    @property
    def frames(self) -> int:
        """As far as known before it is read."""

    @property
    def task(self) -> int: ...

    def beside(self) -> tuple[dict[str, NDArray[Any]], int | None]:
        """Actions, whether they are known, and rewards of every frame, as far as there are any; and for sure known, of
        how many frames."""

    def pictures(self) -> Iterator[NDArray[np.uint8]]:
        """Every frame, uint8 RGB [h, w, 3]. Raises ValueError where it cannot be decoded."""


@dataclass(frozen=True, kw_only=True)
class ShardOrder:
    """One shard to make; goes to a worker process."""

    folder: Path
    number: int
    meta: DatasetMeta
    recordings: tuple[Recording, ...]
    clip_frames: int

    @property
    def is_done(self) -> bool:
        return has_shard(self.folder, self.number)


def import_recordings(
    config: ImportConfig,
    recordings: Sequence[Recording],
    meta: DatasetMeta,
    *,
    sizes: Mapping[str, int],
    more: Mapping[str, str] | None = None,
) -> None:
    """Makes what is missing. Raises ValueError where the folder holds a dataset of other settings or recordings.

    `sizes` are bytes by the names of the files that the shards are made of; `more` shapes them beside the config.
    """
    chosen = set(np.linspace(0, len(recordings) - 1, config.held_out + 2).round().astype(int)[1:-1].tolist())
    if config.held_out and (len(chosen) < config.held_out or len(recordings) <= config.held_out):
        raise ValueError(
            f"held_out={config.held_out} of {len(recordings)} recordings leaves none to train on, or cannot be"
        )
    parts = {
        "train": [recording for place, recording in enumerate(recordings) if place not in chosen],
        "held_out": [recording for place, recording in enumerate(recordings) if place in chosen],
    }
    orders = [order for part, group in parts.items() if group for order in _orders(config, part, group, meta)]
    settings = {name: str(value) for name, value in vars(config).items() if name not in ("out", "workers", "source")}
    _claim(config.out, {**settings, **(more or {})}, sizes)
    missing = [order for order in orders if not order.is_done]
    for order in missing:
        (order.folder / INDEX).unlink(missing_ok=True)
    total = sum(recording.frames for order in missing for recording in order.recordings)
    with Interrupts() as interrupts, Bar("frames", total) as bar:

        def tell(frames: int, said: str) -> None:
            if said:
                bar.say(said)
            bar.show(min(total, bar.done + frames), f"{(bar.done + frames) / bar.seconds:.0f} frames/s")

        carry_out(missing, make_shard, tell, processes=config.workers, stopped=lambda: bool(interrupts.received))
    for folder in {order.folder: None for order in orders}:
        if (folder / INDEX).exists():
            print(f"already done: {folder}")
            continue
        done = finish_dataset(folder, meta)
        print(f"{folder}: {done.num_samples} clips, {done.num_frames} frames, {done.num_bytes / 1e6:.0f} MB")


def make_shard(order: ShardOrder, tell: Tell) -> None:
    """Reads the recordings of a shard one after another; what cannot be decoded is left out and said."""
    with ShardWriter(order.folder, order.number, order.meta) as shard:
        for place, recording in enumerate(order.recordings):
            try:
                for clip in _clips(recording, f"{order.number:06d}-{place:04d}", order.clip_frames):
                    shard.write(**clip)
                    tell(len(clip["frames"]), "")
            except ValueError as error:
                tell(0, f"left out {recording.name}, or what was left of it: {error}")
        if not shard.samples:
            names = ", ".join(recording.name for recording in order.recordings)
            raise ValueError(f"none of {names} can be read: take them out of --source and import into a new --out")


def _clips(recording: Recording, key: str, size: int) -> Iterator[dict[str, Any]]:
    """What the shard gets of a recording, clip by clip: no more of it is in the memory at once."""
    (beside, counted), start = recording.beside(), 0
    for what, rows in beside.items():
        if counted is not None and len(rows) != counted:
            raise ValueError(f"it has {len(rows)} rows of {what}, and {counted} frames")
    for frames in _chunks(recording.pictures(), size):
        stop = start + len(frames)
        for what, rows in beside.items():
            if stop > len(rows):
                raise ValueError(f"it has {len(rows)} rows of {what}, and more frames")
        arrays = {what: rows[start:stop] for what, rows in beside.items()}
        yield {
            "key": f"{key}-{start:08d}",
            "frames": frames,
            "start": start,
            "source": recording.name,
            "task": recording.task,
            **arrays,
        }
        start = stop
    for what, rows in beside.items():
        if len(rows) > start:
            raise ValueError(f"it has {len(rows)} rows of {what}, and {start} frames")


def _chunks(pictures: Iterator[NDArray[np.uint8]], size: int) -> Iterator[NDArray[np.uint8]]:
    """[t, 3, h, w] of up to so many frames."""
    held: list[NDArray[np.uint8]] = []
    for picture in pictures:
        held.append(picture.transpose(2, 0, 1))
        if len(held) == size:
            yield np.stack(held)
            held = []
    if held:
        yield np.stack(held)


def chosen_to_led(
    actions: NDArray[np.float32], labeled: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Rows that were chosen when their frame was seen, moved to the frame that they led to."""
    return (
        np.concatenate([np.zeros_like(actions[:1]), actions[:-1]]),
        np.concatenate([np.zeros_like(labeled[:1]), labeled[:-1]]),
    )


def _orders(config: ImportConfig, part: str, recordings: Sequence[Recording], meta: DatasetMeta) -> list[ShardOrder]:
    groups: list[list[Recording]] = [[]]
    for recording in recordings:
        if groups[-1] and sum(one.frames for one in [*groups[-1], recording]) > config.shard_frames:
            groups.append([])
        groups[-1].append(recording)
    return [
        ShardOrder(
            folder=config.out / part,
            number=number,
            meta=meta,
            recordings=tuple(group),
            clip_frames=config.clip_frames,
        )
        for number, group in enumerate(groups)
    ]


def _claim(out: Path, settings: Mapping[str, str], sizes: Mapping[str, int]) -> None:
    """Notes what is imported, so that no other settings or files fill up the gaps."""
    path = out / "import.json"
    if not path.exists():
        write_json(path, {"settings": dict(settings), "videos": dict(sizes)})
        return
    before = json.loads(path.read_text())
    was, there = before["settings"], before["videos"]
    differing = [f"{name}={was.get(name)}" for name in settings if was.get(name) != settings[name]]
    if differing:
        raise ValueError(f"{out} was imported with {', '.join(differing)}: choose another --out")
    changed = sorted(name for name in there.keys() | sizes.keys() if there.get(name) != sizes.get(name))
    if changed:
        raise ValueError(
            f"{out} was imported from other videos ({changed[0]}{' and others' if changed[1:] else ''} changed, "
            "came or went): choose another --out"
        )


def presets(laptop: C) -> dict[str, C]:
    """The frame sizes of the models' presets; `laptop` is that one."""
    return {
        "debug": replace(laptop, out=Path("runs/debug/data"), clip_frames=32, shard_frames=128, workers=0),
        "laptop": laptop,
        "base": replace(laptop, out=Path("runs/base/data"), size=(128, 128)),
        "dreamer4": replace(laptop, out=Path("runs/dreamer4/data"), size=(384, 640), fit="pad"),
    }
