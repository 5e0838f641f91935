"""The real game under given actions: the recorded drive again, and what comes after its end."""

import numpy as np
import pytest

from agent.collecting import ShardOrder, collect_shard, dataset_meta
from agent.replay import Replay
from tokenizer.records import EpisodeClip
from tokenizer.shard_writer import finish_dataset
from tokenizer.shards import Dataset

pytest.importorskip("Box2D")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("drives")
    meta = dataset_meta("CarRacing-v3", action_repeat=4, extra={"seeds": [5, 6]})
    order = ShardOrder(folder=folder, number=0, meta=meta, driver="scripted", seeds=(5, 6), max_steps=12)
    collect_shard(order, lambda frames, reward: None)
    finish_dataset(folder, meta)
    return Dataset.open(folder)


def test_a_recorded_drive_comes_again_to_the_pixel(dataset: Dataset) -> None:
    replay = Replay(dataset.meta)
    for index in (1, 0):
        clip = dataset.read_window(index, 0, 13)
        assert isinstance(clip, EpisodeClip)
        frames = replay.play(dataset.samples[index].key, clip.actions.numpy())
        assert np.array_equal(frames, clip.frames.numpy())
    other = replay.play(dataset.samples[0].key, -clip.actions.numpy())
    assert np.array_equal(other[0], frames[0]) and not np.array_equal(other[-1], frames[-1])
    replay.close()


def test_a_drive_without_its_seed_is_refused(dataset: Dataset) -> None:
    dataset.meta.extra.clear()
    with pytest.raises(ValueError, match="cannot be played again"):
        Replay(dataset.meta)
