"""Memory that does not suffice is told in one sentence: what did not fit, and which options make it smaller."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_PHRASES = (
    "out of memory",
    "an't allocate memory",
    "not enough memory",
    "nable to allocate",
    "ALLOC_FAILED",
    "MemoryError",  # numpy's, out of a process that reads the data
    "shared memory",
    "killed by signal: Killed",
)
_AMOUNT = re.compile(r"(?:ried|nable) to allocate ([\d.]+ ?\w+)")


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out: a GPU's, a CPU's, or that of a process that reads the data."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _PHRASES)


def describe(error: BaseException) -> str:
    """The beginning of a sentence about it."""
    text = str(error)
    amount = _AMOUNT.search(text)
    if amount is not None:
        return f"out of memory ({amount[1]} more were asked for)"
    lines = [line.strip() for line in text.splitlines() if any(phrase in line for phrase in _PHRASES)]
    return f"out of memory ({lines[0]})" if lines else "out of memory"


@contextmanager
def fits(what: str, remedy: str) -> Iterator[None]:
    """Where memory runs out in the block, raises ValueError: `what` did not fit, and the remedy."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise ValueError(f"{describe(error)}: {what} did not fit; {remedy}") from error


def check_size(clips: int, frames: int, frame_bytes: int, options: str) -> None:
    """Raises ValueError where so many clips cannot be: to fill the memory with them takes minutes, or for good."""
    needed, there = clips * frames * frame_bytes, machine_memory()
    if needed > there:
        raise ValueError(
            f"out of memory: {clips} clips x {frames} frames take {needed / 1e9:,.0f} GB, "
            f"and this machine has {there / 1e9:,.0f} GB; lower {options}"
        )


def machine_memory() -> int:
    """Bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
