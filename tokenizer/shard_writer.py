"""Writing a dataset: shard by shard, in any number of processes, then the index (see `tokenizer.shard_format`).

Axes: t frames of a clip, c h w one frame, n latent tokens, d their channels, a the action row.
"""

import hashlib
import io
import json
import tarfile
import zlib
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from webdataset.writer import TarWriter  # type: ignore[import-untyped, unused-ignore]

from tokenizer.files import atomic_file, write_atomically
from tokenizer.shard_format import (
    FORMAT,
    INDEX,
    SAMPLE_KEY,
    VERSION,
    DatasetMeta,
    Member,
    SampleEntry,
    check_actions,
    of_task,
    read_json,
    shard_name,
    sidecar_path,
)
from tokenizer.video import encode_video

MP4_FROM = 128
"""Pixels of the longer side from which mp4 is worth its loss: some thirty times fewer bytes."""


class _HashingFile:
    """What TarWriter writes to. It digests on the way, and swallows what comes after a failure."""

    def __init__(self, file: BinaryIO) -> None:
        self.file: BinaryIO | None = file
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        if self.file is not None:
            self.file.write(data)
            self.sha256.update(data)
        return len(data)


class ShardWriter:
    """Writes shard `number` of a dataset, all of it or nothing.

        with ShardWriter(folder, 3, meta) as shard:
            shard.write("episode-17", frames=frames, actions=actions, rewards=rewards, continues=continues)

    The shard appears when the block ends; an exception inside leaves no trace of it. Several processes may write into
    one folder, each other numbers. A shard without samples is an error, unless it `may_be_empty`. Raises ValueError
    where the dataset is finished already, DiskFull where the disk is full.
    """

    def __init__(
        self,
        folder: Path | str,
        number: int,
        meta: DatasetMeta,
        *,
        storage: Literal["auto", "npy", "mp4"] = "auto",
        may_be_empty: bool = False,
    ) -> None:
        self.path = Path(folder) / shard_name(number)
        self.meta = meta
        self.may_be_empty = may_be_empty
        self.mp4 = max(meta.frame_size) >= MP4_FROM if storage == "auto" else storage == "mp4"
        self.samples: list[SampleEntry] = []
        self._crc32: dict[str, int] = {}
        self._stack = ExitStack()
        if (self.path.parent / INDEX).exists():
            raise ValueError(f"{folder} is a finished dataset: write to another folder, or delete its {INDEX} to add")

    def __enter__(self) -> "ShardWriter":
        self._file = _HashingFile(self._stack.enter_context(atomic_file(self.path)))
        self._tar = TarWriter(self._file, encoder=False, mtime=0)
        return self

    def write(
        self,
        key: str,
        *,
        frames: NDArray[np.uint8] | None = None,
        latents: NDArray[np.floating[Any]] | None = None,
        actions: NDArray[np.floating[Any]] | None = None,
        labeled: NDArray[np.bool_] | None = None,
        rewards: NDArray[np.floating[Any]] | None = None,
        continues: NDArray[np.bool_] | None = None,
        task: int = 0,
        start: int = 0,
        source: str = "",
        extras: dict[str, Any] | None = None,
    ) -> None:
        """Adds a clip: frames uint8 [t, c, h, w] or latents float16/float32 [t, n, d]; actions [t, a], the rest [t].

        Rewards may also be [t, k], of each of the dataset's k tasks: then `task` is whose they are by default.
        `start` is the number of the clip's first frame in its episode. Without actions the clip is unlabeled; without
        `labeled` all actions are known but that of an episode's first frame. Without rewards they are 0, without
        `continues` nothing ends. `extras` is free JSON. Raises ValueError where something does not fit.
        """
        items: NDArray[Any] = _only_one(frames, latents, self.meta.kind)
        length = len(items)
        if labeled is None and actions is not None:
            labeled = np.arange(start, start + length) > 0
        rewards = np.zeros(length, np.float32) if rewards is None else rewards.astype(np.float32)
        continues = np.ones(length, np.bool_) if continues is None else continues.astype(np.bool_)
        self._check(key, items, actions, labeled, rewards, continues, task, start)
        meta = {
            "environment": self.meta.environment,
            "task": task,
            "fps": self.meta.fps,
            "action_space": self.meta.action_space,
            "source": source,
            "length": length,
            "start": start,
            "extras": extras or {},
        }
        members = {"meta.json": json.dumps(meta).encode()}
        members |= {"rewards.npy": _npy(rewards), "continues.npy": _npy(continues)}
        if actions is not None and labeled is not None:
            members["actions.npy"] = _npy(np.where(labeled[:, None], actions, 0).astype(np.float32))
            members["labeled.npy"] = _npy(labeled.astype(np.bool_))
        if frames is not None and self.mp4:
            members["frames.mp4"] = encode_video(frames, self.meta.fps)
        else:
            members[f"{self.meta.kind}.npy"] = _npy(items)
        self._tar.write({"__key__": key, **members})
        self._crc32 |= {f"{key}.{name}": zlib.crc32(data) for name, data in members.items()}
        entry = SampleEntry(
            key=key,
            length=length,
            start=start,
            task=task,
            reward_sum=float(of_task(rewards, task).sum(dtype=np.float64)),
            reward_sums=tuple(rewards.sum(0, dtype=np.float64).tolist()) if rewards.ndim == 2 else (),
            item_shape=items.shape[1:],
            members={name: Member(0, 0, 0) for name in members},  # known once the tar is closed
        )
        self.samples.append(entry)

    def _check(
        self,
        key: str,
        items: NDArray[Any],
        actions: NDArray[Any] | None,
        labeled: NDArray[Any] | None,
        rewards: NDArray[np.float32],
        continues: NDArray[np.bool_],
        task: int,
        start: int,
    ) -> None:
        length = len(items)
        if not SAMPLE_KEY.fullmatch(key):
            raise ValueError(f"a key is 1 to 80 letters, digits, '-' and '_', got {key!r}")  # a dot would end the key
        if any(key == entry.key for entry in self.samples):
            raise ValueError(f"{self.path.name} has a sample {key!r} already")
        if not length:
            raise ValueError(f"clip {key!r} has no frames")
        if self.meta.kind == "frames" and (
            items.dtype != np.uint8 or items.ndim != 4 or items.shape[2:] != self.meta.frame_size
        ):
            want = [length, "c", *self.meta.frame_size]
            raise ValueError(f"clip {key!r}: frames are {items.dtype} {list(items.shape)}, not uint8 {want}")
        if self.meta.kind == "latents" and (items.dtype not in (np.float16, np.float32) or items.ndim != 3):
            raise ValueError(f"clip {key!r}: latents are {items.dtype} {list(items.shape)}, not float16/32 [t, n, d]")
        if self.samples and items.shape[1:] != self.samples[0].item_shape:
            raise ValueError(f"clip {key!r} has shape {items.shape[1:]}, others {self.samples[0].item_shape}")
        if not 0 <= task < len(self.meta.tasks) or start < 0:
            raise ValueError(f"clip {key!r}: {task=} is none of {len(self.meta.tasks)} tasks, or {start=} is negative")
        if (actions is None) != (labeled is None):
            raise ValueError(f"clip {key!r} has `labeled` but no actions")
        shapes: dict[str, tuple[NDArray[Any], tuple[int, ...]]]
        shapes = {
            "rewards": (rewards, (length, len(self.meta.tasks)) if rewards.ndim == 2 else (length,)),
            "continues": (continues, (length,)),
            self.meta.kind: (items, items.shape),
        }
        if actions is not None and labeled is not None:
            shapes |= {"actions": (actions, (length, self.meta.action_size)), "labeled": (labeled, (length,))}
            if start == 0 and labeled[:1].any():
                raise ValueError(f"clip {key!r}: labeled[0] is true, but no action led to an episode's first frame")
        for name, (array, shape) in shapes.items():
            if array.shape != shape:
                raise ValueError(f"clip {key!r}: {name} have shape {array.shape}, not {shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"clip {key!r}: {name} hold a value that is not finite")
        if actions is not None and labeled is not None:
            try:
                check_actions(self.meta.action_space, actions[labeled.astype(np.bool_)])
            except ValueError as error:
                raise ValueError(f"clip {key!r}: {error}") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._file.file = None  # TarWriter would write its end to a file that is being removed
            self._tar.close()
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            try:
                if not self.samples and not self.may_be_empty:
                    raise ValueError(f"{self.path} got no samples")
                self._tar.close()
                assert self._file.file is not None
                self._file.file.flush()
                sidecar = self._sidecar(Path(self._file.file.name))
                sidecar_path(self.path).unlink(missing_ok=True)  # of an earlier shard of this number
            except BaseException:
                self._file.file = None
                raise
        write_atomically(sidecar_path(self.path), json.dumps(sidecar).encode())

    def _sidecar(self, tar: Path) -> dict[str, Any]:
        with tarfile.open(tar, "r:") as file:
            places = {info.name: (info.offset_data, info.size) for info in file}
        samples = []
        for entry in self.samples:
            names = {name: f"{entry.key}.{name}" for name in entry.members}
            members = {name: Member(*places[full], self._crc32[full]) for name, full in names.items()}
            samples.append(replace(entry, members=members).to_json())
        return {
            "format": FORMAT,
            "version": VERSION,
            "sha256": self._file.sha256.hexdigest(),
            "bytes": tar.stat().st_size,
            "num_samples": len(samples),
            "num_frames": sum(entry.length for entry in self.samples),
            "samples": samples,
        }


def has_shard(folder: Path | str, number: int) -> bool:
    """Whether shard `number` is finished; a killed writer leaves one that is not."""
    shard = Path(folder) / shard_name(number)
    return shard.exists() and sidecar_path(shard).exists()


def finish_dataset(folder: Path | str, meta: DatasetMeta) -> DatasetMeta:
    """Writes index.json from the sidecars of all shards, which completes the dataset; returns the meta with its counts.

    Raises ValueError where the folder has no samples, a number is missing, or two samples share a key.
    """
    folder = Path(folder)
    shards, entries = [], []
    present = sorted(path.name for path in folder.glob("shard-*.tar"))
    for number in range(len(present)):
        path = folder / shard_name(number)
        if not has_shard(folder, number):
            raise ValueError(f"{path} is missing or unfinished, but the folder has {present[-1]}: write it again")
        sidecar = read_json(sidecar_path(path))
        entries += [SampleEntry.from_json(sample) for sample in sidecar.pop("samples")]
        shards.append({"name": path.name, **{k: sidecar[k] for k in ("num_samples", "num_frames", "bytes", "sha256")}})
    if not entries:
        raise ValueError(f"{folder} holds no shards with samples to finish")
    key, count = Counter(entry.key for entry in entries).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{count} samples share the key {key!r}; keys are unique in a dataset")
    shapes = {entry.item_shape for entry in entries}
    if len(shapes) > 1:
        raise ValueError(f"samples differ in shape: {sorted(shapes)}")
    returns = np.array([entry.reward_sum for entry in entries])
    meta = replace(
        meta,
        item_shape=shapes.pop(),
        num_shards=len(shards),
        num_samples=len(entries),
        num_frames=sum(entry.length for entry in entries),
        num_bytes=sum(shard["bytes"] for shard in shards),
        return_mean=float(returns.mean()),
        return_std=float(returns.std()),
        return_best=float(returns.max()),
    )
    index = {"format": FORMAT, "version": VERSION, **meta.to_json(), "shards": shards}
    write_atomically(folder / INDEX, json.dumps(index, indent=1).encode())
    return meta


def _only_one(frames: NDArray[Any] | None, latents: NDArray[Any] | None, kind: str) -> NDArray[Any]:
    items, other = (frames, latents) if kind == "frames" else (latents, frames)
    if items is None or other is not None:
        raise ValueError(f"a clip of this dataset has {kind} and nothing in their place")
    return items


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()
