"""Shards: what is written is read, whatever is damaged is noticed, and a dataset is whole or it is none."""

import errno
import io
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset  # type: ignore[import-untyped, unused-ignore]
from numpy.typing import NDArray

from tokenizer import shard_writer, shards
from tokenizer.files import DiskFull
from tokenizer.records import EpisodeClip, LatentClip
from tokenizer.shard_format import CorruptSample, DatasetMeta
from tokenizer.shard_writer import ShardWriter, finish_dataset, has_shard
from tokenizer.shards import Dataset

SPACE = {"continuous": ["steer", "gas"], "categorical": [], "binary": ["honk"]}
META = DatasetMeta(
    environment="toy", frame_size=(16, 24), fps=20.0, action_space=SPACE, tasks=("drive", "park"), extra={"crop": 12}
)


def clip(length: int, seed: int, meta: DatasetMeta = META) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (length, 3)).astype(np.float32)
    actions[:, 2] = actions[:, 2] > 0
    return {
        "frames": rng.integers(0, 256, (length, 3, *meta.frame_size), np.uint8),
        "actions": actions,
        "labeled": np.arange(length) > 0,
        "rewards": rng.normal(size=length).astype(np.float32),
        "continues": np.arange(length) < length - 1,
    }


def write_dataset(folder: Path, shards: int = 2, samples: int = 3) -> Dataset:
    for number in range(shards):
        with ShardWriter(folder, number, META) as shard:
            for index in range(samples):
                seed = number * samples + index
                shard.write(f"clip-{seed:03d}", **clip(10 + seed, seed), task=seed % 2, start=0, source="test")
    finish_dataset(folder, META)
    return Dataset.open(folder)


def flip_byte(dataset: Dataset, index: int, name: str) -> None:
    sample = dataset.samples[index]
    path = Path(dataset.name) / sample.shard.name
    data = bytearray(path.read_bytes())
    data[sample.members[name].offset + sample.members[name].size // 2] ^= 1
    path.write_bytes(data)


def test_clips_come_back_bit_for_bit(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path)
    assert len(dataset) == 6
    for index in range(6):
        wrote, read = clip(10 + index, index), dataset.read_window(index, 0, 10 + index)
        assert isinstance(read, EpisodeClip)
        np.testing.assert_array_equal(read.frames.numpy(), wrote["frames"])
        np.testing.assert_array_equal(read.actions[1:].numpy(), wrote["actions"][1:])
        assert not read.actions[0].any()  # what was not labeled is zero
        for name in ("labeled", "rewards", "continues"):
            np.testing.assert_array_equal(getattr(read, name).numpy(), wrote[name])
        assert read.task.item() == index % 2
        assert read.is_first.tolist() == [True] + [False] * (9 + index)


def test_a_window_equals_that_of_the_whole(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path)
    whole, window = dataset.read_window(3, 0, 13), dataset.read_window(3, 4, 5)
    assert isinstance(whole, EpisodeClip) and isinstance(window, EpisodeClip)
    for name in ("frames", "actions", "labeled", "rewards", "continues", "is_first"):
        torch.testing.assert_close(getattr(window, name), getattr(whole, name)[4:9], rtol=0, atol=0)
    with pytest.raises(IndexError, match="13 frames"):
        dataset.read_window(3, 9, 5)


def test_rewards_of_all_tasks_are_read_as_those_of_each(tmp_path: Path) -> None:
    rewards = np.array([[0, 0], [1, 0], [0, 5], [2, 0]], np.float32)
    with ShardWriter(tmp_path, 0, META) as shard:
        shard.write("all", **{**clip(4, 0), "rewards": rewards}, task=1)
        shard.write("one", **clip(4, 1), task=1)
    finish_dataset(tmp_path, META)
    dataset = Dataset.open(tmp_path)
    assert dataset.read_window(0, 1, 3).rewards.tolist() == [0, 5, 0]
    assert dataset.samples[0].reward_sum == 5 and dataset.read_rewards(1).shape == (4,)
    np.testing.assert_array_equal(dataset.read_rewards(0), rewards)
    each = dataset.each_task()
    assert [(sample.key, sample.task) for sample in each.samples] == [("all", 0), ("all", 1), ("one", 1)]
    assert [sample.reward_sum for sample in each.samples[:2]] == [3, 5]
    first = each.read_window(0, 1, 3)
    assert first.rewards.tolist() == [1, 0, 2] and first.task == 0
    assert each.fingerprint() != dataset.only([*dataset.samples[:1] * 2, dataset.samples[1]]).fingerprint()


def test_large_frames_are_stored_as_video_within_the_codecs_error(tmp_path: Path) -> None:
    meta = replace(META, frame_size=(128, 128))
    ramp = np.add.outer(np.arange(128), np.arange(128)) // 2
    frames = np.stack([np.broadcast_to(ramp + 2 * t, (3, 128, 128)) for t in range(20)]).astype(np.uint8)
    with ShardWriter(tmp_path, 0, meta) as shard:
        shard.write("ramp", frames=frames)
    finish_dataset(tmp_path, meta)
    dataset = Dataset.open(tmp_path)
    assert "frames.mp4" in dataset.samples[0].members
    whole, window = dataset.read_window(0, 0, 20), dataset.read_window(0, 17, 2)
    assert isinstance(whole, EpisodeClip) and isinstance(window, EpisodeClip)
    assert np.abs(whole.frames.numpy().astype(float) - frames).mean() < 3
    torch.testing.assert_close(window.frames, whole.frames[17:19], rtol=0, atol=0)


def test_latents_come_back_as_float32(tmp_path: Path) -> None:
    meta = replace(META, kind="latents", tokenizer="abc")
    latents = np.random.default_rng(0).normal(size=(8, 4, 2)).astype(np.float16)
    with ShardWriter(tmp_path, 0, meta) as shard:
        shard.write("z", latents=latents, start=5)
    finish_dataset(tmp_path, meta)
    dataset = Dataset.open(tmp_path)
    window = dataset.read_window(0, 2, 3)
    assert isinstance(window, LatentClip) and dataset.meta.item_shape == (4, 2)
    np.testing.assert_array_equal(window.latents.numpy(), latents[2:5].astype(np.float32))
    assert not window.is_first.any()  # the clip begins at frame 5 of its episode


def test_the_index_says_what_the_dataset_is(tmp_path: Path) -> None:
    meta = write_dataset(tmp_path).meta
    returns = [clip(10 + seed, seed)["rewards"].sum() for seed in range(6)]
    assert (meta.num_shards, meta.num_samples, meta.num_frames) == (2, 6, 75)
    assert meta.num_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.tar"))
    np.testing.assert_allclose([meta.return_mean, meta.return_best], [np.mean(returns), np.max(returns)], rtol=1e-5)
    assert (meta.tasks, meta.extra, meta.item_shape) == (("drive", "park"), {"crop": 12}, (3, 16, 24))


def test_plain_webdataset_reads_our_tars(tmp_path: Path) -> None:
    write_dataset(tmp_path, shards=1)
    samples = list(webdataset.WebDataset(str(tmp_path / "shard-000000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["clip-000", "clip-001", "clip-002"]
    frames = np.load(io.BytesIO(samples[1]["frames.npy"]), allow_pickle=False)
    np.testing.assert_array_equal(frames, clip(11, 1)["frames"])
    assert json.loads(samples[1]["meta.json"])["action_space"] == SPACE


def test_a_clip_without_actions_is_unlabeled(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 0, META) as shard:
        shard.write("silent", frames=clip(6, 0)["frames"])
    finish_dataset(tmp_path, META)
    read = Dataset.open(tmp_path).read_window(0, 1, 4)
    assert read.actions.shape == (4, 3) and not read.actions.any() and not read.labeled.any()
    assert read.continues.all() and not read.rewards.any()


def test_a_flipped_byte_is_noticed_at_first_touch(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path)
    flip_byte(dataset, 4, "frames.npy")
    with pytest.raises(CorruptSample, match=r"'clip-004' in shard-000001.tar: the checksum of frames.npy is wrong"):
        dataset.read_window(4, 0, 1)
    dataset.read_window(3, 0, 1)


@pytest.mark.parametrize("block", [1, 100, 1000])
def test_checksums_are_taken_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """An hour of raw frames does not fit into the memory."""
    monkeypatch.setattr(shards, "BLOCK", block)
    dataset = write_dataset(tmp_path)
    dataset.read_window(4, 2, 3)
    flip_byte(dataset, 5, "frames.npy")
    with pytest.raises(CorruptSample, match="checksum of frames.npy"):
        dataset.read_window(5, 2, 3)


def test_the_error_of_a_corrupt_sample_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(CorruptSample("a", "b", "c")))
    assert (error.key, error.shard, error.reason) == ("a", "b", "c")


def test_a_truncated_shard_is_an_error(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path)
    path = tmp_path / "shard-000001.tar"
    os.truncate(path, dataset.samples[4].members["frames.npy"].offset + 100)
    with pytest.raises(ValueError, match="shard-000001.tar has .* bytes"):
        Dataset.open(tmp_path)
    with pytest.raises(CorruptSample, match="the shard ends within"):  # truncated while it was open
        dataset.read_window(4, 0, 1)


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "shard-000001.tar").unlink()
    with pytest.raises(FileNotFoundError, match="shard-000001.tar is missing"):
        Dataset.open(tmp_path)


def test_a_folder_that_is_no_dataset_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no dataset: looked for .*index.json.*`python -m launch.collect`"):
        Dataset.open(tmp_path)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_in_an_npy_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def npy_with_bomb(array: NDArray[Any]) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, np.array([Bomb(tmp_path / "exploded")] * len(array)), allow_pickle=True)
        return buffer.getvalue()

    monkeypatch.setattr(shard_writer, "_npy", npy_with_bomb)
    with ShardWriter(tmp_path, 0, META) as shard:
        shard.write("bomb", **clip(4, 0))
    finish_dataset(tmp_path, META)
    with pytest.raises(CorruptSample, match="holds object"):
        Dataset.open(tmp_path).read_window(0, 0, 2)
    assert not (tmp_path / "exploded").exists()


def test_a_killed_writer_leaves_the_folder_whole(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 0, META) as shard:
        shard.write("one", **clip(4, 0))
    child = os.fork()
    if child == 0:
        with ShardWriter(tmp_path, 1, META) as shard:
            shard.write("two", **clip(400, 1))
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert has_shard(tmp_path, 0) and not has_shard(tmp_path, 1)
    assert [path.name for path in tmp_path.glob("*.tar")] == ["shard-000000.tar"]
    with pytest.raises(ValueError, match="1 shards without their index"):
        Dataset.open(tmp_path)
    with ShardWriter(tmp_path, 1, META) as shard:
        shard.write("two", **clip(4, 1))
    finish_dataset(tmp_path, META)
    assert len(Dataset.open(tmp_path)) == 2
    assert not list(tmp_path.glob("*.tmp"))


def test_an_error_while_writing_leaves_no_shard(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="simulator"), ShardWriter(tmp_path, 0, META) as shard:
        shard.write("one", **clip(4, 0))
        raise RuntimeError("the simulator died")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["write", "sync"])
def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    class FullDisk(io.FileIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def fsync(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with ShardWriter(tmp_path, 0, META) as shard:
        shard.write("one", **clip(4, 0))
    if where == "write":
        monkeypatch.setattr("tokenizer.files.open", FullDisk, raising=False)
    else:
        monkeypatch.setattr("tokenizer.files.os.fsync", fsync)
    with (
        pytest.raises(DiskFull, match=r"disk full while writing .*shard-000001.tar: free some space"),
        ShardWriter(tmp_path, 1, META) as shard,
    ):
        shard.write("two", **clip(40, 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-000000.json", "shard-000000.tar"]


def test_what_does_not_fit_is_refused_where_it_is_written(tmp_path: Path) -> None:
    good = clip(4, 0)
    bad: list[tuple[str, dict[str, Any]]] = [
        ("a key is", {"key": "with.dot"}),
        ("frames are uint8", {"frames": good["frames"][:, :, :8]}),
        ("actions have shape", {"actions": good["actions"][:, :2]}),
        ("rewards have shape", {"rewards": np.zeros((4, 3), np.float32)}),
        ("rewards hold", {"rewards": np.full(4, np.nan, np.float32)}),
        ("labeled\\[0\\]", {"labeled": np.ones(4, np.bool_)}),
        ("task=2", {"task": 2}),
        ("a clip of this dataset has frames", {"frames": None, "latents": np.zeros((4, 2, 2), np.float32)}),
    ]
    for match, change in bad:
        with pytest.raises(ValueError, match=match), ShardWriter(tmp_path, 0, META) as shard:
            shard.write(**{"key": "k", **good, **change})
    assert not list(tmp_path.iterdir())


def test_a_finished_dataset_is_not_added_to(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    with pytest.raises(ValueError, match="finished dataset"):
        ShardWriter(tmp_path, 2, META)


def test_finishing_notices_gaps_and_twins(tmp_path: Path) -> None:
    for number in (0, 2):
        with ShardWriter(tmp_path, number, META) as shard:
            shard.write("same", **clip(4, 0))
    with pytest.raises(ValueError, match="shard-000001.tar is missing"):
        finish_dataset(tmp_path, META)
    with ShardWriter(tmp_path, 1, META) as shard:
        shard.write("other", **clip(4, 0))
    with pytest.raises(ValueError, match="2 samples share the key 'same'"):
        finish_dataset(tmp_path, META)


def test_held_out_samples_are_not_in_training(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path)
    train, test = dataset.split(2)
    assert [sample.key for sample in test.samples] == ["clip-004", "clip-005"] and len(train) == 4
    train, test = dataset.split(lambda sample: sample.task == 1)
    assert [sample.key for sample in test.samples] == ["clip-001", "clip-003", "clip-005"] and len(train) == 3
    with pytest.raises(ValueError, match="both parts need some"):
        dataset.split(6)


def test_actions_that_are_none_of_the_space_are_neither_written_nor_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not known of a frame may be anything."""
    wrong = clip(5, 0)
    wrong["actions"][0], wrong["actions"][3, 2] = 9.0, 0.5
    said = "clip 'wrong': action part 'honk' is 0.5, allowed: 0 to 1, whole numbers"
    with pytest.raises(ValueError, match=said), ShardWriter(tmp_path, 0, META) as shard:
        shard.write("wrong", **wrong)
    monkeypatch.setattr("tokenizer.shard_writer.check_actions", lambda *_: None)  # as another program writes
    with ShardWriter(tmp_path, 0, META) as shard:
        shard.write("wrong", **wrong)
    finish_dataset(tmp_path, META)
    dataset = Dataset.open(tmp_path)
    assert dataset.read_window(0, 0, 3).num_frames == 3
    with pytest.raises(CorruptSample, match="sample 'wrong' in shard-000000.tar: action part 'honk' is 0.5"):
        dataset.read_window(0, 1, 3)
