"""A run's folder belongs to one config and, while it runs, to one process.

The command, run again, resumes; a different config in the same folder is refused rather than mixed in. A run that never
came to a checkpoint has nothing to mix, so a mistaken option can be mended in place.
"""

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launch.serial import flat, flat_defaults, to_json
from tokenizer.files import write_atomically

UNHEARD = frozenset(
    {"run", "log_every", "save_every", "keep", "num_workers", "compile", "cache", "cache_gb", "processes", "num_envs"}
    | {"activation_checkpointing"}
)
"""Fields that no result hears of; `run` is where the folder lies now."""
MAY_CHANGE = UNHEARD | {
    *("steps", "generations"),
    *("batch_size", "long_batch_size", "held_out_clips"),  # what a full memory asks for
}
"""Fields that leave what was learned so far as it is."""


@contextmanager
def claimed(run: Path, config: Any, *, main_process: bool) -> Iterator[None]:
    """Holds the run's folder for this config until the block ends; ranks other than the main one pass through."""
    if not main_process:
        yield
        return
    with alone_in(run):
        _claim_config(run, config)
        yield


@contextmanager
def alone_in(folder: Path, *, option: str = "--run") -> Iterator[None]:
    """Holds a folder until the block ends. Raises ValueError where another process does; `option` names the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+") as lock:
        _lock(lock.fileno(), folder, option)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def held(path: Path, place: int, *, wait: bool = False) -> Iterator[bool]:
    """Whether this process has place `place` of a lock file for itself, until the block or the process ends.

    With `wait` it has it once all others let go. One place at a time: closing the file frees all that a process holds.
    """
    with open(path, "a") as file:
        yield _take(file.fileno(), place, wait)


def _take(handle: int, place: int, wait: bool) -> bool:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def _lock(handle: int, folder: Path, option: str) -> None:
    # A POSIX lock, not flock: data workers do not inherit it, so it is gone the moment the main process is killed.
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = (folder / "lock").read_text() or "another"
        raise ValueError(
            f"folder {folder} is in use by process {holder}: wait for it, stop it, or name another with {option}"
        ) from error


def _claim_config(run: Path, config: Any) -> None:
    path = run / "config.json"
    begun = any((run / "checkpoints").glob("step_*"))
    if begun and path.exists():
        old = flat(json.loads(path.read_text()))
        for name, (was, now) in changes(old, config, besides=MAY_CHANGE).items():
            if not _same_place(was, now, old.get("run"), run):
                raise ValueError(
                    f"run folder {run} was made with {name}={was!r}, this command has {name}={now!r}: "
                    "name another folder with --run, or delete this one"
                )
    elif begun:
        raise ValueError(f"run folder {run} has checkpoints but no config.json: name another folder with --run")
    write_json(path, to_json(config))


def changes(old: Mapping[str, Any], config: Any, *, besides: Set[str]) -> dict[str, tuple[Any, Any]]:
    """Dotted name -> what it was and is, of the fields that differ from what was noted once, flat, of such a config.

    What was not noted there counts as the field's default: it is younger than the note.
    """
    said = {**flat_defaults(config), **old}
    return {
        name: (said[name], now)
        for name, now in flat(to_json(config)).items()
        if name in said and said[name] != now and name.rpartition(".")[2] not in besides
    }


def _same_place(before: Any, now: Any, run_before: Any, run: Path) -> bool:
    """Whether two strings are one path, written otherwise or moved together with the run's folder; or lists of such."""
    if isinstance(before, str) and isinstance(now, list):  # runs of older versions had one place of data
        before = [before]
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(
            one == other or _same_place(one, other, run_before, run) for one, other in zip(before, now, strict=True)
        )
    if not (isinstance(before, str) and isinstance(now, str) and isinstance(run_before, str)):
        return False
    moved_along = os.path.relpath(before, run_before) == os.path.relpath(now, run)
    return moved_along or os.path.abspath(before) == os.path.abspath(now)


def claimed_as(path: Path, made_of: Mapping[str, Any]) -> dict[str, Any]:
    """What the dataset in the file's folder is made of, so that nothing else fills up its gaps: noted there at first.

    Raises ValueError where the folder or its parts hold shards, and no such note.
    """
    if path.exists():
        known: dict[str, Any] = json.loads(path.read_text())
        return known
    folder = path.parent
    if any(folder.glob("shard-*")) or any(folder.glob("*/shard-*")):
        raise ValueError(f"{folder} holds shards that this command did not write: delete it or name another --out")
    write_json(path, made_of)
    return dict(made_of)


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(value, indent=1).encode())
