"""In which order a stream shows the samples of its datasets, and the shards that it fetches ahead of that order."""

import queue
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenizer.shards import Dataset
from tokenizer.storage import RemoteFolder, Shard

_ORDER, _REPLACEMENT, _TURNS = 1, 3, 6
"""Begin the seeds, apart from those of `tokenizer.stream`: no two uses draw the same."""
PERIOD = 1000
"""Slots in which datasets with weights have their exact shares."""


class Order:
    """In which order the epochs of a dataset show its samples."""

    def __init__(self, dataset: Dataset, samples: Sequence[int], *, seed: int, mix_shards: int | None) -> None:
        """`samples` are the indices of those that are shown; so many shards are mixed at a time, None are all."""
        self.seed, self.samples = seed, np.array(samples)
        shards = list(dict.fromkeys(dataset.samples[index].shard for index in samples))
        self.shards: list[Shard] = shards
        number = {shard: place for place, shard in enumerate(shards)}
        self._shard_of = np.array([number[dataset.samples[index].shard] for index in samples])
        self.mix = len(shards) if mix_shards is None else mix_shards
        self.remote = any(shard.place.remote for shard in shards)
        self.ahead = Ahead()
        self._epochs: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        """Samples of an epoch."""
        return len(self.samples)

    def sample(self, epoch: int, place: int) -> int:
        """The index in the dataset of the sample at this place of an epoch."""
        return int(self.samples[self._epoch(epoch)[0][place]])

    def replacement(self, slot: int, attempt: int) -> int:
        """Without repetition, so that the last sound sample is found."""
        order = np.random.default_rng((_REPLACEMENT, self.seed, slot)).permutation(len(self))
        return int(self.samples[order[attempt % len(order)]])

    def next_shards(self, epoch: int, place: int) -> list[Shard]:
        """Those that are mixed at this place, and then those after them, where they come from elsewhere."""
        if not self.remote:
            return []
        order, shards = self._epoch(epoch)
        here = int(np.flatnonzero(shards == self._shard_of[order[place]])[0]) // self.mix * self.mix
        wanted = shards[here : here + 2 * self.mix]
        return [self.shards[number] for number in wanted]

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The order of the samples, and that of the shards."""
        if epoch not in self._epochs:
            kept = sorted(self._epochs)[-1:]  # a batch may straddle two epochs
            self._epochs = {number: self._epochs[number] for number in kept} | {epoch: self._drawn(epoch)}
        return self._epochs[epoch]

    def _drawn(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rng = np.random.default_rng((_ORDER, self.seed, epoch))
        order = rng.permutation(len(self))
        if self.mix >= len(self.shards):
            return order, np.arange(len(self.shards))
        shards = rng.permutation(len(self.shards))
        group = np.empty_like(shards)
        group[shards] = np.arange(len(shards)) // self.mix
        return order[np.argsort(group[self._shard_of[order]], kind="stable")], shards


class Turns:
    """Slot number -> which of several datasets is shown, and its how manieth sample that is."""

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self.single = len(weights) == 1
        exact = np.array(weights) / sum(weights) * PERIOD
        counts = np.maximum(1, exact.astype(int))
        for index in np.argsort(counts - exact)[: max(0, PERIOD - counts.sum())]:  # the largest remainders
            counts[index] += 1
        turns = np.repeat(np.arange(len(weights)), counts)
        self.turns: NDArray[np.int64] = np.random.default_rng((_TURNS, seed)).permutation(turns)
        self.counts = np.bincount(self.turns, minlength=len(weights))
        self._before = np.zeros_like(self.turns)
        for part in range(len(weights)):
            mine = self.turns == part
            self._before[mine] = np.arange(mine.sum())

    def __getitem__(self, slot: int) -> tuple[int, int]:
        if self.single:
            return 0, slot
        period, place = divmod(slot, len(self.turns))
        part = int(self.turns[place])
        return part, period * int(self.counts[part]) + int(self._before[place])


class Ahead:
    """Fetches shards that will be read soon, in a thread of each process that reads."""

    def __init__(self) -> None:
        self._wanted: queue.SimpleQueue[Shard] | None = None
        self._asked: set[Shard] = set()

    def want(self, shards: Sequence[Shard]) -> None:
        """In this order; those that were asked for last time are not asked for again."""
        new = [shard for shard in shards if shard not in self._asked and isinstance(shard.place, RemoteFolder)]
        self._asked &= set(shards)
        self._asked.update(new)
        if new and self._wanted is None:
            self._wanted = queue.SimpleQueue()
            threading.Thread(target=self._fetch, args=(self._wanted,), daemon=True).start()
        for shard in new:
            assert self._wanted is not None
            self._wanted.put(shard)

    def _fetch(self, wanted: "queue.SimpleQueue[Shard]") -> None:
        while True:
            shard = wanted.get()
            assert isinstance(shard.place, RemoteFolder)
            with suppress(Exception):  # whoever reads the shard meets the error too, and says it
                shard.place.fetch(shard)

    def __getstate__(self) -> dict[str, Any]:
        """Threads stay in their process."""
        return {"_wanted": None, "_asked": set()}
