"""The stream at a size: 10,000 clips in 100 shards, read by 4 ranks of 2 workers each."""

import itertools
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.builders import META
from tokenizer.records import EpisodeClip
from tokenizer.shard_writer import ShardWriter, finish_dataset
from tokenizer.shards import Dataset
from tokenizer.stream import Batch, ClipStream, StreamConfig

SHARDS, CLIPS, RANKS, ROWS = 100, 100, 4, 25
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The rewards of a clip say which one it is."""
    folder = tmp_path_factory.mktemp("data")
    frames = np.zeros((6, 3, 4, 4), np.uint8)
    for number in range(SHARDS):
        with ShardWriter(folder, number, META) as shard:
            for clip in range(CLIPS):
                rewards = np.full(6, number * CLIPS + clip, np.float32)
                shard.write(f"clip-{number:03d}-{clip:03d}", frames=frames, rewards=rewards)
    finish_dataset(folder, META)
    return Dataset.open(folder)


def config(mix_shards: int | None) -> StreamConfig:
    return StreamConfig(length=4, batch_size=ROWS, seed=1, num_workers=2, mix_shards=mix_shards)


def clips_of(batch: Batch) -> list[int]:
    assert isinstance(batch, EpisodeClip)
    return [int(row[0]) for row in batch.rewards]


def memory_mb() -> float:
    """Of this process and of those that read for it, without what they share."""
    total = 0.0
    for pid in ["self", *(str(child.pid) for child in multiprocessing.active_children())]:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # a reader of the rank before, which just ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))
    return total / 1024


@pytest.mark.parametrize("mix_shards", [None, 7])
def test_four_ranks_show_every_clip_once_an_epoch_in_flat_memory(dataset: Dataset, mix_shards: int | None) -> None:
    batches = SHARDS * CLIPS // (RANKS * ROWS)
    seen: list[list[int]] = [[], []]
    memory: list[float] = []
    for rank in range(RANKS):
        stream = iter(ClipStream(dataset, config(mix_shards), rank, RANKS))
        memory.clear()
        for epoch in range(2):
            for number in range(batches):
                seen[epoch] += clips_of(next(stream))
                if epoch and number % 20 == 10:  # in the first the readers come to own the index that they share
                    memory.append(memory_mb())
    for epoch in seen:
        assert sorted(epoch) == list(range(SHARDS * CLIPS))
    assert seen[0] != seen[1]
    print(
        f"memory of a rank and its two workers: {memory[0]:.0f} MB early in the second epoch, "
        f"at most {max(memory):.0f} MB"
    )
    assert max(memory) < memory[0] + 5


@pytest.mark.parametrize("mix_shards", [None, 7])
def test_resuming_after_any_number_of_batches_is_the_same_sequence(dataset: Dataset, mix_shards: int | None) -> None:
    length = 120
    straight = [clips_of(b) for b in itertools.islice(ClipStream(dataset, config(mix_shards), 1, RANKS), length)]
    for stop in torch.randint(1, length - 5, (5,), generator=torch.Generator().manual_seed(0)).tolist():
        before = ClipStream(dataset, config(mix_shards), 1, RANKS)
        assert [clips_of(b) for b in itertools.islice(before, stop)] == straight[:stop]
        after = ClipStream(dataset, config(mix_shards), 1, RANKS)
        assert after.load_state_dict(before.state_dict()) is None
        assert [clips_of(b) for b in itertools.islice(after, 5)] == straight[stop : stop + 5]
