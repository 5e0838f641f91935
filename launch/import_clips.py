"""What an importer tells of a recording, and the clips that it is cut into."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tokenizer.shard_format import clip_key

Rows = dict[str, NDArray[Any]]
"""By what they are, as the shard's writer calls it: a row a frame."""


class Content(NamedTuple):
    """A recording that is open."""

    rows: Rows
    """Actions, whether they are known, and rewards of every frame, as far as there are any."""
    counted: int | None
    """How many frames there are, where that is known for sure."""
    pictures: Iterator[NDArray[np.uint8]]
    """Every frame, uint8 RGB [h, w, 3]. Raises ValueError where it cannot be decoded."""
    notes: Mapping[str, Any] = MappingProxyType({})
    """What else was seen, as JSON."""


@runtime_checkable
class Recording(Protocol):
    """One episode; goes to a worker process."""

    @property
    def name(self) -> str:
        """Of its own among all, for messages and as the clips' source."""

    @property
    def frames(self) -> int:
        """As far as known before it is read."""

    def open(self) -> AbstractContextManager[Content]:
        """Raises ValueError where it cannot be read."""

    def clip(self, rows: Rows) -> dict[str, Any]:
        """What the shard's writer is given beside the frames, of the rows of a clip."""


def clips_of(
    recording: Recording, content: Content, key: str, *, size: int, shared: int = 0
) -> Iterator[dict[str, Any]]:
    """What the shard gets of a recording, clip by clip: no more of it is in the memory at once.

    A clip begins with the last frames of the one before, as many as are `shared`; what arrived with them is told there
    and not again. Raises ValueError where frames and rows are not equally many.
    """
    rows, counted, start = content.rows, content.counted, 0
    for what, array in rows.items():
        if counted is not None and len(array) != counted:
            raise ValueError(f"it has {len(array)} rows of {what}, and {counted} frames")
    stop = 0
    for frames in _chunks(content.pictures, size, shared):
        start = max(0, stop - shared)
        stop = start + len(frames)
        for what, array in rows.items():
            if stop > len(array):
                raise ValueError(f"it has {len(array)} rows of {what}, and more frames")
        of_clip = {what: array[start:stop].copy() for what, array in rows.items()}
        for what in of_clip.keys() - {"continues"}:
            of_clip[what][: shared if start else 0] = 0
        yield {
            "key": clip_key(key, start),
            "frames": frames,
            "start": start,
            "source": recording.name,
            **recording.clip(of_clip),
        }
    for what, array in rows.items():
        if len(array) > stop:
            raise ValueError(f"it has {len(array)} rows of {what}, and {stop} frames")


def _chunks(pictures: Iterator[NDArray[np.uint8]], size: int, shared: int) -> Iterator[NDArray[np.uint8]]:
    """[t, 3, h, w] of up to so many frames; the first of them are the last of the chunk before, where it has one."""
    held: list[NDArray[np.uint8]] = []
    new = 0
    for picture in pictures:
        held.append(picture.transpose(2, 0, 1))
        new += 1
        if len(held) == size:
            yield np.stack(held)
            held, new = held[size - shared :], 0
    if new:
        yield np.stack(held)


def chosen_to_led(
    actions: NDArray[np.float32], labeled: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Rows that were chosen when their frame was seen, moved to the frame that they led to."""
    return (
        np.concatenate([np.zeros_like(actions[:1]), actions[:-1]]),
        np.concatenate([np.zeros_like(labeled[:1]), labeled[:-1]]),
    )
