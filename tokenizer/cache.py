"""What a stream of frames remembers: rings of keys and values, and the views of them that a pass over new frames takes.

Axes: b batch, m slots that the cache holds, n slots of new frames, w frames that the cache holds, p of them that are
looked at, f new frames, k key-value heads, e channels of a head; l positions that attention runs over, h half of e.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

FIRST_LOOK = 32
"""Cached frames that a step looks at while the cache is young; then four times as many, and so on. Few sizes, so that
each is compiled once, and a short past costs little under a long window."""


class Past(NamedTuple):
    """What new frames need to know of those before them."""

    rope: tuple[Float[Tensor, "l h"], Float[Tensor, "l h"]]
    mask: Bool[Tensor, "q kv"]
    """Which cached positions, then which new ones, each new position sees."""
    keys: tuple[Float[Tensor, "m b k p e"], ...]
    values: tuple[Float[Tensor, "m b k p e"], ...]


@dataclass(frozen=True)
class Cache:
    """Keys and values of the last frames, one ring for each time layer; the rings never grow."""

    keys: tuple[Float[Tensor, "m b k w e"], ...]
    """Slots first: those that a step leaves out are the last, and the rest is then read without a copy."""
    values: tuple[Float[Tensor, "m b k w e"], ...]
    positions: Int[Tensor, "w"]
    """Frame number that each place of the ring holds; far negative where it is empty."""
    next_position: int = 0
    pasts: dict[tuple[int, int, int | None], Past] = field(default_factory=dict, init=False, compare=False)
    """Views that were made of this state: the passes over one frame share theirs."""

    EMPTY = -(2**40)

    @property
    def look(self) -> int:
        """Places that hold the whole past, rounded up to one of a few sizes."""
        size = self.positions.shape[0]
        look = min(FIRST_LOOK, size)
        while look < min(self.next_position, size):
            look = min(4 * look, size)
        return look


def written(cache: Cache, new: list[tuple[Tensor, Tensor]], numbers: Int[Tensor, "f"], *, in_place: bool) -> Cache:
    """The cache with the keys and values [n b k f e] of the frames of these numbers in it."""
    places = numbers % cache.positions.shape[0]
    copy = Tensor.index_copy_ if in_place else Tensor.index_copy
    keys = tuple(copy(ring, 3, places, key.to(ring.dtype)) for ring, (key, _) in zip(cache.keys, new, strict=True))
    values = tuple(copy(ring, 3, places, v.to(ring.dtype)) for ring, (_, v) in zip(cache.values, new, strict=True))
    positions = copy(cache.positions, 0, places, numbers)
    return Cache(keys, values, positions, cache.next_position + len(numbers))
