"""What importers share: recordings become shards in parallel, each whole or not at all, and what is missing later."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from launch.import_clips import Recording, clips_of
from launch.interrupt import Interrupts
from launch.run_folder import alone_in, claimed_as, write_json
from launch.workers import Bar, Tell, carry_out
from tokenizer.shard_format import INDEX, DatasetMeta, read_json
from tokenizer.shard_writer import ShardWriter, finish_dataset, has_shard
from tokenizer.video import Fit


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
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
Notes = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ShardOrder:
    """One shard to make; goes to a worker process."""

    folder: Path
    number: int
    meta: DatasetMeta
    recordings: tuple[Recording, ...]
    clip_frames: int
    shared: int

    @property
    def is_done(self) -> bool:
        return has_shard(self.folder, self.number)

    @property
    def notes(self) -> Path:
        """JSON file of what was seen of its recordings: frames that were imported, or the reason why they were not."""
        return self.folder.parent / "notes" / f"{self.folder.name}-{self.number:06d}.json"


def import_recordings(
    config: ImportConfig,
    recordings: Sequence[Recording],
    meta: DatasetMeta,
    *,
    sizes: Mapping[str, int],
    more: Mapping[str, str] | None = None,
    group: Callable[[Any], str] = attrgetter("name"),
    shared: int = 0,
    report: Callable[[Notes], None] | None = None,
) -> None:
    """Makes what is missing, and reports the notes on each recording, by its name, before it looks for what is wrong.

    `sizes` are bytes by the names of the files that the shards are made of; `more` shapes them beside the config.
    Recordings of one `group` are all held out or none of them; `shared` is that of `clips_of`. Raises ValueError where
    the folder holds a dataset of other settings or recordings or is in use, or where none of them can be read.
    """
    with alone_in(config.out, option="--out"):
        parts = _parts(recordings, config.held_out, group)
        orders = [order for part, some in parts.items() if some for order in _orders(config, part, some, meta, shared)]
        places = ("out", "workers", "source", "index")
        settings = {name: str(value) for name, value in vars(config).items() if name not in places}
        _claim(config.out, {**settings, **(more or {})}, sizes)
        missing = [order for order in orders if not order.is_done]
        for order in missing:
            (order.folder / INDEX).unlink(missing_ok=True)
        _make(missing, config.workers)
        notes: dict[Path, dict[str, Any]] = {order.folder: {} for order in orders}
        for order in orders:
            notes[order.folder] |= read_json(order.notes) if order.notes.exists() else {}
        if report is not None:
            report({name: note for of_folder in notes.values() for name, note in of_folder.items()})
        for folder, of_folder in notes.items():
            _finish(folder, meta, of_folder)


def _parts(recordings: Sequence[Recording], held_out: int, group: Callable[[Any], str]) -> dict[str, list[Recording]]:
    """Which are trained on, and which are held out."""
    groups = list(dict.fromkeys(map(group, recordings)))
    places = set(np.linspace(0, len(groups) - 1, held_out + 2).round().astype(int)[1:-1].tolist())
    if held_out and (len(places) < held_out or len(groups) <= held_out):
        what = "recordings" if len(groups) == len(recordings) else "groups of recordings"
        raise ValueError(f"held_out={held_out} of {len(groups)} {what} leaves none to train on, or cannot be")
    chosen = {groups[place] for place in places}
    return {
        "train": [recording for recording in recordings if group(recording) not in chosen],
        "held_out": [recording for recording in recordings if group(recording) in chosen],
    }


def _make(orders: Sequence[ShardOrder], processes: int) -> None:
    total = sum(recording.frames for order in orders for recording in order.recordings)
    read = 0
    with Interrupts() as interrupts, Bar("frames", total) as bar:

        def tell(frames: int, said: str) -> None:
            nonlocal read
            read += frames
            if said:
                bar.say(said)
            bar.show(min(total, read), f"{read / bar.seconds:.0f} frames/s")

        carry_out(orders, make_shard, tell, processes=processes, stopped=lambda: bool(interrupts.received))
        if read:
            rate, cores = read / bar.seconds, min(max(1, processes), os.cpu_count() or 1)
            bar.say(f"{read} frames in {bar.seconds:.1f} s: {rate:.0f} frames/s, {rate / cores:.0f} a core")


def _finish(folder: Path, meta: DatasetMeta, notes: Notes) -> None:
    if (folder / INDEX).exists():
        print(f"already done: {folder}")
        return
    try:
        done = finish_dataset(folder, meta)
    except ValueError as error:
        said = next((f" ({name}: {note['left_out']})" for name, note in notes.items() if "left_out" in note), "")
        raise ValueError(f"{error}{said}") from error
    print(f"{folder}: {done.num_samples} clips, {done.num_frames} frames, {done.num_bytes / 1e6:.0f} MB")


def make_shard(order: ShardOrder, tell: Tell) -> None:
    """Reads the recordings of a shard one after another; what cannot be decoded is left out, said and noted."""
    notes: dict[str, dict[str, Any]] = {}
    with ShardWriter(order.folder, order.number, order.meta, may_be_empty=True) as shard:
        for place, recording in enumerate(order.recordings):
            key = f"{order.number:06d}-{place:04d}"
            note = notes[recording.name] = {"frames": 0}
            try:
                with recording.open() as content:
                    note |= content.notes
                    for clip in clips_of(recording, content, key, size=order.clip_frames, shared=order.shared):
                        shard.write(**clip)
                        new = len(clip["frames"]) - (order.shared if clip["start"] else 0)
                        note["frames"] += new
                        tell(new, "")
            except ValueError as error:
                note["left_out"] = str(error)
                tell(0, f"left out {recording.name}, or what was left of it: {error}")
        write_json(order.notes, notes)


def _orders(
    config: ImportConfig, part: str, recordings: Sequence[Recording], meta: DatasetMeta, shared: int
) -> list[ShardOrder]:
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
            shared=shared,
        )
        for number, group in enumerate(groups)
    ]


def _claim(out: Path, settings: Mapping[str, str], sizes: Mapping[str, int]) -> None:
    """Raises ValueError where other settings or files were imported."""
    before = claimed_as(out / "import.json", {"settings": dict(settings), "videos": dict(sizes)})
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
