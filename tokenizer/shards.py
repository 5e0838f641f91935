"""Reading a dataset: any window of any sample, by its place in the tar (the format: `tokenizer.shard_format`).

Axes: t frames of a window, c h w one frame, n latent tokens, d their channels, a the action row.
"""

import hashlib
import io
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from braceexpand import braceexpand
from numpy.typing import NDArray

from tokenizer.records import EpisodeClip, LatentClip
from tokenizer.shard_format import (
    FORMAT,
    INDEX,
    SAMPLE_KEY,
    VERSION,
    CorruptSample,
    DatasetMeta,
    Member,
    SampleEntry,
    check_actions,
    of_task,
    parse_json,
    sidecar_path,
)
from tokenizer.storage import LocalFolder, Place, RemoteFolder, Shard, ShardCache, is_url
from tokenizer.video import decode_video

MAX_NPY_HEADER = 1024
BLOCK = 2**20
"""Bytes that are checked at once: an episode may be larger than the memory."""


@dataclass(frozen=True, kw_only=True)
class Sample(SampleEntry):
    """A clip of an episode, and the tar that it is in."""

    shard: Shard

    def of_each_task(self) -> list["Sample"]:
        """The same clip by what each task pays, if that is known."""
        sums = enumerate(self.reward_sums)
        return [replace(self, task=task, reward_sum=found) for task, found in sums] or [self]


class Dataset:
    """The samples of a folder, of several folders, or some of them; `Dataset.open` makes one, `len` counts samples."""

    def __init__(self, name: str, meta: DatasetMeta, samples: Sequence[Sample], weights: Sequence[float] = ()) -> None:
        self.name = name
        """What it was opened by, for people."""
        self.meta = meta
        """Of the whole dataset, also in a part of it."""
        self.samples = list(samples)
        self.weights = tuple(weights)
        """Of several datasets that are read as one: how often a sample of each is shown; none, by their samples."""
        self._verified: set[tuple[int, str]] = set()
        """Part and key of the samples whose checksums are right."""

    @classmethod
    def open(cls, *sources: Path | str, weights: Sequence[float] = (), cache: ShardCache | None = None) -> "Dataset":
        """Opens one finished dataset, or several as one.

        A source is a folder or its index.json, some of its shards by braces (`data/shard-{000000..000007}.tar`), or any
        of these at a URL that fsspec reads; shards from there come through `cache`. Braces may also name several
        folders. Raises ValueError where a source is no finished dataset, a shard is not the one in the index, or the
        datasets do not fit together; FileNotFoundError where a file is missing; OSError where it cannot be had.
        """
        found = [one for source in sources for one in expand(str(source)).items()]
        if not found:
            raise ValueError("no dataset is named")
        if weights and len(weights) != len(found):
            raise ValueError(f"{len(weights)} weights for {len(found)} datasets: give one for each")
        parts = [_open_part(folder, shards, number, cache) for number, (folder, shards) in enumerate(found)]
        if len(parts) == 1:
            return parts[0]
        return _joined(parts, weights)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def num_frames(self) -> int:
        return sum(sample.length for sample in self.samples)

    @property
    def episodes(self) -> list[tuple[int, str]]:
        """Part and name of each sample's episode: the same for all clips of one."""
        return [(sample.shard.part, sample.episode) for sample in self.samples]

    def only(self, samples: Sequence[Sample]) -> "Dataset":
        """The same dataset with these of its samples."""
        return Dataset(self.name, self.meta, samples, self.weights)

    def each_task(self) -> "Dataset":
        """Clips whose rewards are of all tasks once for each of these; the others as they are."""
        return self.only([view for sample in self.samples for view in sample.of_each_task()])

    def fingerprint(self) -> str:
        """Names the samples and their bytes: equal for two datasets that give equal data in equal order."""
        digest = hashlib.sha256()
        for sample in self.samples:
            task = (sample.task,) if sample.reward_sums else ()
            digest.update(repr((sample.key, sample.length, sorted(sample.members.items()), *task)).encode())
        return digest.hexdigest()

    def split(self, held_out: int | Callable[[Sample], bool]) -> tuple["Dataset", "Dataset"]:
        """(train, held out): the last `held_out` samples are held out, or those for which it is true.

        Give a predicate where an episode fills several clips: a number may cut through an episode. Raises ValueError
        where one of the two would be empty.
        """
        if isinstance(held_out, int):
            first = len(self) - held_out
            chosen = [index >= first for index in range(len(self))]
        else:
            chosen = [held_out(sample) for sample in self.samples]
        if all(chosen) or not any(chosen):
            raise ValueError(f"{sum(chosen)} of {len(self)} samples would be held out; both parts need some")
        train = [sample for sample, out in zip(self.samples, chosen, strict=True) if not out]
        test = [sample for sample, out in zip(self.samples, chosen, strict=True) if out]
        return self.only(train), self.only(test)

    def read_window(self, index: int, start: int, length: int) -> EpisodeClip | LatentClip:
        """Frames [start, start + length) of a sample; latents come as float32.

        At a sample's first touch its checksums are verified. Raises CorruptSample where they or the contents are wrong,
        IndexError where the sample has no such window, FileNotFoundError where its shard is gone.
        """
        sample = self.samples[index]
        if start < 0 or length < 1 or start + length > sample.length:
            raise IndexError(f"sample {sample.key!r} has {sample.length} frames, none of [{start}, {start + length})")
        with sample.shard.open() as file:
            self._verify(index, file)
            return self._assemble(_SampleFile(file, sample, start, length))

    def read_rewards(self, index: int) -> NDArray[np.float32]:
        """Of all its frames, [t], or where they are of all tasks [t, k]; errors as of `read_window`."""
        sample = self.samples[index]
        with sample.shard.open() as file:
            self._verify(index, file)
            return _SampleFile(file, sample, 0, sample.length).rewards()

    def _assemble(self, window: "_SampleFile") -> EpisodeClip | LatentClip:
        sample, length = window.sample, window.length
        if sample.has_actions:
            actions = window.array("actions.npy", (np.float32,), (self.meta.action_size,))
            labeled = window.array("labeled.npy", (np.bool_,), ())
            try:
                check_actions(self.meta.action_space, actions[labeled])
            except ValueError as error:
                raise window.corrupt(str(error)) from error
        else:
            actions, labeled = np.zeros((length, self.meta.action_size), np.float32), np.zeros(length, np.bool_)
        common = {
            "actions": torch.from_numpy(actions),
            "labeled": torch.from_numpy(labeled),
            "rewards": torch.from_numpy(of_task(window.rewards(), sample.task)),
            "continues": torch.from_numpy(window.array("continues.npy", (np.bool_,), ())),
            "is_first": torch.arange(length) + sample.start + window.start == 0,
            "task": torch.tensor(sample.task),
        }
        shape = sample.item_shape
        if self.meta.kind == "latents":
            latents = window.array("latents.npy", (np.float16, np.float32), shape)
            return LatentClip(latents=torch.from_numpy(latents).float(), **common)
        mp4 = "frames.mp4" in sample.members
        frames = window.video("frames.mp4", shape) if mp4 else window.array("frames.npy", (np.uint8,), shape)
        return EpisodeClip(frames=torch.from_numpy(frames), **common)

    def _verify(self, index: int, file: BinaryIO) -> None:
        sample = self.samples[index]
        if (sample.shard.part, sample.key) in self._verified:
            return
        if not SAMPLE_KEY.fullmatch(sample.key):
            raise CorruptSample(sample.key, sample.shard.name, "no sample may have this name")
        for name, member in sample.members.items():
            crc32, section = 0, _Section(file, member)
            while block := section.read(BLOCK):
                crc32 = zlib.crc32(block, crc32)
            if section.tell() < member.size:
                raise CorruptSample(sample.key, sample.shard.name, f"the shard ends within {name}")
            if crc32 != member.crc32:
                raise CorruptSample(sample.key, sample.shard.name, f"the checksum of {name} is wrong")
        self._verified.add((sample.shard.part, sample.key))


class _Section(io.RawIOBase):
    """A member of an open tar as a file of its own."""

    def __init__(self, file: BinaryIO, member: Member) -> None:
        self.file, self.member, self.place = file, member, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.member.size}[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.member.size - self.place)
        self.file.seek(self.member.offset + self.place)
        data = self.file.read(left if size < 0 else min(size, left))
        self.place += len(data)
        return data


class _SampleFile:
    """A window of a sample in its open tar."""

    def __init__(self, file: BinaryIO, sample: Sample, start: int, length: int) -> None:
        self.file, self.sample, self.start, self.length = file, sample, start, length

    def corrupt(self, reason: str) -> CorruptSample:
        return CorruptSample(self.sample.key, self.sample.shard.name, reason)

    def member(self, name: str) -> Member:
        if name not in self.sample.members:
            raise self.corrupt(f"{name} is missing")
        return self.sample.members[name]

    def rewards(self) -> NDArray[np.float32]:
        """[t], or where they are of all tasks [t, k]."""
        return self.array(
            "rewards.npy", (np.float32,), (len(self.sample.reward_sums),) if self.sample.reward_sums else ()
        )

    def array(self, name: str, dtypes: tuple[type[np.generic], ...], shape: tuple[int, ...]) -> NDArray[Any]:
        """The window's rows of an npy member [t, *shape], and only their bytes; an array of objects is refused."""
        member = self.member(name)
        self.file.seek(member.offset)
        header = io.BytesIO(self.file.read(min(member.size, MAX_NPY_HEADER)))
        try:
            version = np.lib.format.read_magic(header)
            if version != (1, 0):
                raise ValueError(f"npy version {version}")
            stored, fortran, dtype = np.lib.format.read_array_header_1_0(header)
        except ValueError as error:
            raise self.corrupt(f"{name} is no npy file: {error}") from error
        if dtype.hasobject or dtype not in [np.dtype(choice) for choice in dtypes]:
            raise self.corrupt(f"{name} holds {dtype}, not {' or '.join(np.dtype(choice).name for choice in dtypes)}")
        if stored != (self.sample.length, *shape) or fortran:
            raise self.corrupt(f"{name} has shape {stored}, not {(self.sample.length, *shape)}")
        rows: NDArray[Any] = np.empty((self.length, *shape), dtype)
        row_bytes = rows.nbytes // self.length
        if header.tell() + row_bytes * self.sample.length != member.size:
            raise self.corrupt(f"{name} is {member.size} bytes, not what its header says")
        self.file.seek(member.offset + header.tell() + row_bytes * self.start)
        data = self.file.read(rows.nbytes)
        if len(data) < rows.nbytes:
            raise self.corrupt(f"the shard ends within {name}")
        rows[...] = np.frombuffer(data, dtype).reshape(rows.shape)  # copied: torch wants memory that it may write
        return rows

    def video(self, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        try:
            frames = decode_video(_Section(self.file, self.member(name)), self.start, self.length)
        except ValueError as error:
            raise self.corrupt(f"{name}: {error}") from error
        if frames.shape[1:] != shape:
            raise self.corrupt(f"{name} has frames of {frames.shape[1:]}, not {shape}")
        return frames


def expand(source: str) -> dict[str, list[str]]:
    """The folders that a source names, each with the shards of it that are meant; none are all.

    Raises ValueError where the source would run a program.
    """
    if source.startswith("pipe:"):
        raise ValueError(f"{source!r} would run a program: give a folder or a URL")
    found: dict[str, list[str]] = {}
    for one in braceexpand(source):
        folder, _, name = one.rpartition("/")
        if name.endswith(".tar"):
            found.setdefault(folder or ".", []).append(name)
        else:
            found.setdefault((folder or ".") if name == INDEX else one.rstrip("/"), [])
    return found


def _open_part(folder: str, shards: Sequence[str], number: int, cache: ShardCache | None) -> Dataset:
    """One dataset, or the named shards of it; `number` is its place among others."""
    place = _place(folder, cache)
    index = _read_index(place)
    listed = {Path(shard["name"]).name for shard in _entries(index, place)}
    unknown = [name for name in shards if name not in listed]
    if unknown:
        raise ValueError(
            f"{place} has no {unknown[0]}{f' and {len(unknown) - 1} others' if unknown[1:] else ''}: "
            f"its {len(listed)} shards are {min(listed)} to {max(listed)}"
        )
    try:
        meta = DatasetMeta.from_json(index)
        samples: list[Sample] = []
        for shard in index["shards"]:
            if not shards or Path(shard["name"]).name in shards:
                samples += _read_sidecar(place, shard, number)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the index or a sidecar in {place} is incomplete: {error!r}") from error
    return Dataset(str(place), meta, samples)


def _entries(index: dict[str, Any], place: Place) -> list[dict[str, Any]]:
    shards: list[dict[str, Any]] = index.get("shards", [])
    if not shards:
        raise ValueError(f"the index or a sidecar in {place} is incomplete: it lists no shards")
    return shards


def _place(folder: str, cache: ShardCache | None) -> Place:
    if not is_url(folder):
        return LocalFolder(Path(folder))
    if cache is None:
        raise ValueError(f"{folder} is not of this machine: shards from there need a cache")
    return RemoteFolder(folder, cache)


def _joined(parts: Sequence[Dataset], weights: Sequence[float]) -> Dataset:
    """Several datasets as one. Raises ValueError where they do not fit together.

    Whatever action space video without actions names, it goes with any other.
    """
    if any(not weight > 0 for weight in weights):
        raise ValueError(f"weights {list(weights)} must all be above 0")
    labeled = [part for part in parts if any(sample.has_actions for sample in part.samples)]
    first = (labeled or list(parts))[0]
    for part in parts:
        for what in ("kind", "tokenizer", "item_shape", "action_space", "tasks"):
            mine, other = getattr(first.meta, what), getattr(part.meta, what)
            if mine != other and (what != "action_space" or part in labeled):
                raise ValueError(
                    f"{first.name} and {part.name} do not go together: {what} is {mine!r} in the one and {other!r} in "
                    "the other"
                )
    name = " + ".join(part.name for part in parts)
    return Dataset(name, first.meta, [sample for part in parts for sample in part.samples], weights)


def _read_index(place: Place) -> dict[str, Any]:
    try:
        index = parse_json(place.read(INDEX), f"{place}/{INDEX}")
    except (FileNotFoundError, NotADirectoryError) as error:
        num_shards = len(list(place.path.glob("shard-*.tar"))) if isinstance(place, LocalFolder) else 0
        found = f"{num_shards} shards without their index, an unfinished dataset" if num_shards else "no shards either"
        raise ValueError(
            f"{place} is no dataset: looked for {place}/{INDEX} and found {'none' if place.remote else found}; "
            "`python -m launch.collect` makes one, and run again finishes one"
        ) from error
    if index.get("format") != FORMAT or index.get("version") != VERSION:
        kind = f"{index.get('format')!r} version {index.get('version')!r}"
        raise ValueError(f"{place}/{INDEX} is {kind}, this code reads {FORMAT!r} version {VERSION}")
    return index


def _read_sidecar(place: Place, entry: dict[str, Any], part: int) -> list[Sample]:
    name = Path(entry["name"]).name
    if not re.fullmatch("[0-9a-f]{64}", entry["sha256"]) or int(entry["bytes"]) < 0:  # both name files of the cache
        raise ValueError(f"{place}/{INDEX} says of {name}: sha256 {entry['sha256']!r} and {entry['bytes']!r} bytes")
    shard = Shard(place=place, name=name, num_bytes=entry["bytes"], sha256=entry["sha256"], part=part)
    place.check(shard)
    sidecar = sidecar_path(Path(name)).name
    try:
        data = parse_json(place.read(sidecar), f"{place}/{sidecar}")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{place}/{sidecar} is missing, but {INDEX} lists its shard: copy it again") from error
    if data["sha256"] != entry["sha256"] or len(data["samples"]) != entry["num_samples"]:
        raise ValueError(f"{place}/{sidecar} is of another shard than the one in {INDEX}: copy both again")
    return [Sample.from_json(sample, shard=shard) for sample in data["samples"]]
