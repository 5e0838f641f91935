"""Files that are whole or absent: written under a temporary name, then renamed."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


class DiskFull(OSError):
    """No space left while a file was written; nothing of that file remains."""


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the name `path` when the block ends well, and vanishes when it does not.

    Raises DiskFull where the disk (or the user's quota) is full. Removes the temporary files that a killed writer of
    the same `path` left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f"{path.name}.*.tmp"):
        stale.unlink(missing_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        file = open(temporary, "wb")  # noqa: SIM115 (closed below, whatever closing says)
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        finally:
            with suppress(OSError):  # closing flushes again, which fails again on a full disk
                file.close()
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        full = disk_full(error, path)
        if full is not None:
            raise full from error
        raise


def disk_full(error: BaseException, path: Path) -> DiskFull | None:
    """What to say of an error in writing a file, if it is one of space."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return DiskFull(
        f"disk full while writing {path}: free some space in {path.parent} or choose a folder on another disk, "
        "then run the same command again; the files that were finished are kept"
    )


def write_atomically(path: Path, data: bytes) -> None:
    with atomic_file(path) as file:
        file.write(data)
