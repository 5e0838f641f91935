"""Where the files of a dataset lie: in a folder of this machine, or behind a URL, from which shards are cached on disk.

Whatever fsspec reads can be a place: http(s)://, s3://, gs://, hf:// and others, some of which need a package that the
error names. A shard is copied whole, checked against the sha256 of the index, and kept until others need its room.
"""

import fcntl
import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, runtime_checkable

import fsspec

from tokenizer.files import DiskFull, disk_full

T = TypeVar("T")
BLOCK = 2**20
MAX_WAIT = 30.0
"""Seconds between two attempts, at most."""
SILENCE = 60.0
"""Seconds without a byte after which an HTTP server counts as gone."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A tar of a dataset, and where it lies."""

    place: "Place"
    name: str
    num_bytes: int
    sha256: str
    part: int = 0
    """Which of several datasets that are read as one it belongs to."""

    def open(self) -> BinaryIO:
        """Raises FileNotFoundError where it is gone, OSError where it cannot be had."""
        return self.place.open(self)

    def __str__(self) -> str:
        return self.name


@runtime_checkable
class Place(Protocol):
    """A folder of shards; it goes to worker processes."""

    @property
    def remote(self) -> bool: ...

    def __str__(self) -> str: ...

    def read(self, name: str) -> bytes:
        """A small file. Raises FileNotFoundError where it is missing, OSError where it cannot be had."""

    def check(self, shard: Shard) -> None:
        """Raises ValueError or FileNotFoundError where it is seen at once that a shard is not as the index says."""

    def open(self, shard: Shard) -> BinaryIO:
        """The bytes of a shard."""


@dataclass(frozen=True)
class LocalFolder:
    path: Path
    remote = False

    def __str__(self) -> str:
        return str(self.path)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def check(self, shard: Shard) -> None:
        path = self.path / shard.name
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing, but the index of {self} lists it: copy it again")
        if path.stat().st_size != shard.num_bytes:
            raise ValueError(f"{path} has {path.stat().st_size} bytes, the index says {shard.num_bytes}: copy it again")

    def open(self, shard: Shard) -> BinaryIO:
        return (self.path / shard.name).open("rb")


@dataclass(frozen=True, kw_only=True)
class ShardCache:
    """A folder of this machine that holds shards from elsewhere; processes share it."""

    folder: Path
    max_bytes: int
    """Of all shards in it; those that were used last stay."""
    attempts: int = 6
    """Of each transfer, with ever longer pauses between them."""
    first_wait: float = 0.5
    """Seconds before the second attempt, twice as many before each other one."""

    def open(self, url: str, shard: Shard) -> BinaryIO:
        """A shard's bytes, fetched first if they are not here."""
        path = self._path(shard)
        for _ in range(self.attempts):
            try:
                file = path.open("rb")
            except FileNotFoundError:
                self.fetch(url, shard)
                continue
            os.utime(file.fileno())
            return file  # also if the room is taken from now on: an open file stays
        raise OSError(
            f"{self.folder} is too small: {shard} was driven out by others before it was read, {self.attempts} times "
            f"in a row; give the cache more than {self.max_bytes / 1e9:.3g} GB"
        )

    def fetch(self, url: str, shard: Shard, *, wait: bool = True) -> None:
        """Has a shard here, checked; without `wait` not if another process is already at it."""
        if shard.num_bytes > self.max_bytes:
            raise ValueError(
                f"{url} has {shard.num_bytes / 1e9:.3g} GB, the whole cache {self.max_bytes / 1e9:.3g}: give it more"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(shard)
        with _locked(path.with_suffix(".lock"), wait=wait) as mine:
            if mine and not path.exists():
                retried(partial(self._transfer, url, shard), what=url, attempts=self.attempts, wait=self.first_wait)

    def _path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.sha256}.tar"

    def _transfer(self, url: str, shard: Shard) -> None:
        partial_path = self.folder / f"{shard.sha256}.{shard.num_bytes}.partial"
        try:
            self._take_room(partial_path, shard)
            copy_file(url, partial_path)
            _check_bytes(url, partial_path, shard)
            os.replace(partial_path, self._path(shard))
        except BaseException as error:
            partial_path.unlink(missing_ok=True)
            full = disk_full(error, partial_path)
            if full is not None:
                raise full from error
            raise

    def _take_room(self, partial_path: Path, shard: Shard) -> None:
        """An empty file whose name counts as a whole one, so that several processes do not take the same room."""
        with _locked(self.folder / "room.lock"):
            coming = [path for path in self.folder.glob("*.partial") if path != partial_path and not _abandoned(path)]
            taken = sum(int(path.name.split(".")[1]) for path in coming)
            held: dict[Path, os.stat_result] = {}
            for path in self.folder.glob("*.tar"):
                with suppress(FileNotFoundError):
                    held[path] = path.stat()
            taken += sum(stat.st_size for stat in held.values())
            for path in sorted(held, key=lambda path: held[path].st_mtime):
                if taken + shard.num_bytes <= self.max_bytes:
                    break
                path.unlink(missing_ok=True)
                taken -= held[path].st_size
            partial_path.touch()


@dataclass(frozen=True)
class RemoteFolder:
    url: str
    cache: ShardCache
    remote = True

    def __str__(self) -> str:
        return self.url

    def read(self, name: str) -> bytes:
        url = f"{self.url}/{name}"
        return retried(partial(_read_file, url), what=url, attempts=self.cache.attempts, wait=self.cache.first_wait)

    def check(self, shard: Shard) -> None:
        """Nothing is asked of the server: a shard is checked when it comes."""

    def open(self, shard: Shard) -> BinaryIO:
        return self.cache.open(f"{self.url}/{shard.name}", shard)

    def fetch(self, shard: Shard) -> None:
        """Has a shard in the cache before it is read, unless another process is at it."""
        self.cache.fetch(f"{self.url}/{shard.name}", shard, wait=False)


def is_url(source: str) -> bool:
    return "://" in source


class Refused(OSError):
    """A server answers, and will not give it: to ask again is of no use."""


def retried(call: Callable[[], T], *, what: str, attempts: int, wait: float) -> T:
    """What the call gives at the first attempt that does not fail for a reason that may pass.

    Raises OSError, which names `what`, after the last, and Refused after one whose reason stays.
    """
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except Exception as error:
            if not _may_pass(error):
                if isinstance(error, (OSError, ValueError, ImportError)):
                    raise
                raise Refused(f"{what} cannot be had: {_reason(error)}") from error
            if attempt == attempts:
                raise OSError(f"{what} cannot be had after {attempts} attempts: {_reason(error)}") from error
        # Drawn, so that many processes that failed together do not come back together.
        time.sleep(min(MAX_WAIT, wait * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5))
    raise AssertionError("attempts is at least 1")


def copy_file(url: str, path: Path) -> None:
    """From any place that fsspec reads."""
    filesystem, inside = _filesystem(url)
    filesystem.get_file(inside, str(path))
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _read_file(url: str) -> bytes:
    filesystem, inside = _filesystem(url)
    data: bytes = filesystem.cat_file(inside)
    return data


def _filesystem(url: str) -> tuple[Any, str]:
    protocol = url.partition("://")[0]
    options: dict[str, Any] = {}
    if protocol in ("http", "https"):
        import aiohttp  # only where it is needed: fsspec's reader of these

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
        options = {"client_kwargs": {"timeout": timeout}}
    try:
        filesystem, inside = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{url} cannot be read: {error}") from error
    return filesystem, inside


def _check_bytes(url: str, path: Path, shard: Shard) -> None:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            size += len(block)
    if size != shard.num_bytes:
        raise OSError(f"{url} gave {size} bytes, the index says {shard.num_bytes}")
    if digest.hexdigest() != shard.sha256:
        raise OSError(f"{url} is not the shard of the index: its sha256 is another")


def _may_pass(error: Exception) -> bool:
    """Whether trying again may help: not where a thing is missing, forbidden or asked for wrongly."""
    if isinstance(error, (DiskFull, FileNotFoundError, PermissionError, ValueError, ImportError, TypeError)):
        return False
    status = getattr(error, "status", None)  # of an HTTP response
    return status is None or status in (408, 429) or status >= 500


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _abandoned(partial_path: Path) -> bool:
    """Whether nobody is at work on it any more; if so it is deleted."""
    lock = partial_path.with_name(f"{partial_path.name.split('.')[0]}.lock")
    with _locked(lock, wait=False) as mine:
        if mine:
            partial_path.unlink(missing_ok=True)
    return mine


@contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Whether the lock is this process's until the block ends; with `wait` it is."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
