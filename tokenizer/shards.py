"""Reading a dataset: any window of any sample, by its place in the tar (the format: `tokenizer.shard_format`).

Axes: t frames of a window, c h w one frame, n latent tokens, d their channels, a the action row.
"""

import hashlib
import io
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from tokenizer.records import EpisodeClip, LatentClip
from tokenizer.shard_format import (
    FORMAT,
    INDEX,
    VERSION,
    CorruptSample,
    DatasetMeta,
    Member,
    SampleEntry,
    read_json,
    sidecar_path,
)
from tokenizer.video import decode_video

MAX_NPY_HEADER = 1024
BLOCK = 2**20
"""Bytes that are checked at once: an episode may be larger than the memory."""


class Dataset:
    """The samples of a folder, or some of them; `Dataset.open` makes one, and `len` counts its samples."""

    def __init__(self, folder: Path, meta: DatasetMeta, samples: Sequence[SampleEntry]) -> None:
        self.folder = folder
        self.meta = meta
        """Of the whole folder, also in a part of it."""
        self.samples = list(samples)
        self._verified: set[int] = set()

    @classmethod
    def open(cls, folder: Path | str) -> "Dataset":
        """Opens a finished dataset and checks that its shards are there and of the right size.

        Raises ValueError where the folder is no finished dataset or a shard is not the one in the index,
        FileNotFoundError where a shard or its sidecar is missing.
        """
        folder = Path(folder)
        index = _read_index(folder)
        samples: list[SampleEntry] = []
        try:
            meta = DatasetMeta.from_json(index)
            for shard in index["shards"]:
                samples += _read_sidecar(folder, shard)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the index or a sidecar in {folder} is incomplete: {error!r}") from error
        return cls(folder, meta, samples)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def num_frames(self) -> int:
        return sum(sample.length for sample in self.samples)

    def fingerprint(self) -> str:
        """Names the samples and their bytes: equal for two datasets that give equal data in equal order."""
        digest = hashlib.sha256()
        for sample in self.samples:
            digest.update(repr((sample.key, sample.length, sorted(sample.members.items()))).encode())
        return digest.hexdigest()

    def split(self, held_out: int | Callable[[SampleEntry], bool]) -> tuple["Dataset", "Dataset"]:
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
        return Dataset(self.folder, self.meta, train), Dataset(self.folder, self.meta, test)

    def read_window(self, index: int, start: int, length: int) -> EpisodeClip | LatentClip:
        """Frames [start, start + length) of a sample; latents come as float32.

        At a sample's first touch its checksums are verified. Raises CorruptSample where they or the contents are wrong,
        IndexError where the sample has no such window, FileNotFoundError where its shard is gone.
        """
        sample = self.samples[index]
        if start < 0 or length < 1 or start + length > sample.length:
            raise IndexError(f"sample {sample.key!r} has {sample.length} frames, none of [{start}, {start + length})")
        with (self.folder / sample.shard).open("rb") as file:
            self._verify(index, file)
            return self._assemble(_SampleFile(file, sample, start, length))

    def _assemble(self, window: "_SampleFile") -> EpisodeClip | LatentClip:
        sample, length = window.sample, window.length
        if "actions.npy" in sample.members:
            actions = window.array("actions.npy", (np.float32,), (self.meta.action_size,))
            labeled = window.array("labeled.npy", (np.bool_,), ())
        else:
            actions, labeled = np.zeros((length, self.meta.action_size), np.float32), np.zeros(length, np.bool_)
        common = {
            "actions": torch.from_numpy(actions),
            "labeled": torch.from_numpy(labeled),
            "rewards": torch.from_numpy(window.array("rewards.npy", (np.float32,), ())),
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
        if index in self._verified:
            return
        sample = self.samples[index]
        for name, member in sample.members.items():
            crc32, section = 0, _Section(file, member)
            while block := section.read(BLOCK):
                crc32 = zlib.crc32(block, crc32)
            if section.tell() < member.size:
                raise CorruptSample(sample.key, sample.shard, f"the shard ends within {name}")
            if crc32 != member.crc32:
                raise CorruptSample(sample.key, sample.shard, f"the checksum of {name} is wrong")
        self._verified.add(index)


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

    def __init__(self, file: BinaryIO, sample: SampleEntry, start: int, length: int) -> None:
        self.file, self.sample, self.start, self.length = file, sample, start, length

    def corrupt(self, reason: str) -> CorruptSample:
        return CorruptSample(self.sample.key, self.sample.shard, reason)

    def member(self, name: str) -> Member:
        if name not in self.sample.members:
            raise self.corrupt(f"{name} is missing")
        return self.sample.members[name]

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


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.exists():
        num_shards = len(list(folder.glob("shard-*.tar")))
        found = f"{num_shards} shards without their index, an unfinished dataset" if num_shards else "no shards either"
        raise ValueError(
            f"{folder} is no dataset: looked for {path} and found {found}; "
            "`python -m launch.collect` makes one, and run again finishes one"
        )
    index = read_json(path)
    if index.get("format") != FORMAT or index.get("version") != VERSION:
        kind = f"{index.get('format')!r} version {index.get('version')!r}"
        raise ValueError(f"{path} is {kind}, this code reads {FORMAT!r} version {VERSION}")
    return index


def _read_sidecar(folder: Path, shard: dict[str, Any]) -> list[SampleEntry]:
    path = folder / Path(shard["name"]).name
    sidecar = sidecar_path(path)
    for needed in (path, sidecar):
        if not needed.exists():
            raise FileNotFoundError(f"{needed} is missing, but {folder / INDEX} lists it: copy it again")
    if path.stat().st_size != shard["bytes"]:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, {INDEX} says {shard['bytes']}: copy it again")
    data = read_json(sidecar)
    if data["sha256"] != shard["sha256"] or len(data["samples"]) != shard["num_samples"]:
        raise ValueError(f"{sidecar} is of another shard than the one in {INDEX}: copy both again")
    return [SampleEntry.from_json(sample, path.name) for sample in data["samples"]]
