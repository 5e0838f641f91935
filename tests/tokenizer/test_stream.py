"""The stream: one order for all workers and ranks, exact resume, and damage that is skipped, counted and named."""

import itertools
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.builders import META
from tokenizer.order import PERIOD
from tokenizer.records import EpisodeClip
from tokenizer.shard_format import clip_key
from tokenizer.shard_writer import ShardWriter, finish_dataset
from tokenizer.shards import Dataset
from tokenizer.stream import AlternatingStream, Batch, ClipStream, PairedStream, StreamConfig, endings, windows

CONFIG = StreamConfig(length=4, batch_size=2, seed=3)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """12 clips of 10 frames; each pixel of a frame is the clip's number, each reward the frame's."""
    for number in range(3):
        with ShardWriter(tmp_path, number, META) as shard:
            for index in range(number * 4, number * 4 + 4):
                frames = np.full((10, 3, 4, 4), index, np.uint8)
                shard.write(f"clip-{index:02d}", frames=frames, rewards=np.arange(10, dtype=np.float32))
    finish_dataset(tmp_path, META)
    return Dataset.open(tmp_path)


def rows(batch: Batch) -> list[tuple[int, int]]:
    """(clip, first frame) of each row."""
    assert isinstance(batch, EpisodeClip)
    return [(int(f[0, 0, 0, 0]), int(r[0])) for f, r in zip(batch.frames, batch.rewards, strict=True)]


def take(stream: ClipStream, count: int) -> list[list[tuple[int, int]]]:
    return [rows(batch) for batch in itertools.islice(stream, count)]


def damage(dataset: Dataset, index: int) -> None:
    sample = dataset.samples[index]
    path = Path(dataset.name) / sample.shard.name
    data = bytearray(path.read_bytes())
    data[sample.members["frames.npy"].offset + 200] ^= 1
    path.write_bytes(data)


def test_batches_are_windows_in_the_records_shapes(dataset: Dataset) -> None:
    batch = next(iter(ClipStream(dataset, CONFIG)))
    assert isinstance(batch, EpisodeClip)
    assert batch.frames.shape == (2, 4, 3, 4, 4) and batch.actions.shape == (2, 4, 1) and batch.task.shape == (2,)
    torch.testing.assert_close(batch.rewards.diff(), torch.ones(2, 3))


def test_an_epoch_shows_each_sample_once_and_epochs_differ(dataset: Dataset) -> None:
    batches = take(ClipStream(dataset, CONFIG), 12)
    first, second = (sum(part, []) for part in (batches[:6], batches[6:]))
    assert sorted(clip for clip, _ in first) == sorted(clip for clip, _ in second) == list(range(12))
    assert [clip for clip, _ in first] != [clip for clip, _ in second]
    assert sorted(first) != sorted(second)  # other windows too


def test_the_seed_decides_the_order(dataset: Dataset) -> None:
    assert take(ClipStream(dataset, CONFIG), 6) == take(ClipStream(dataset, CONFIG), 6)
    assert take(ClipStream(dataset, CONFIG), 6) != take(
        ClipStream(dataset, StreamConfig(length=4, batch_size=2, seed=4)), 6
    )


def test_the_order_is_the_same_for_any_number_of_workers(dataset: Dataset) -> None:
    workers = StreamConfig(length=4, batch_size=2, seed=3, num_workers=2)
    assert take(ClipStream(dataset, workers), 15) == take(ClipStream(dataset, CONFIG), 15)


def test_what_a_worker_holds_can_be_sent_to_a_spawned_one(dataset: Dataset) -> None:
    slots = ClipStream(dataset, CONFIG).slots
    torch.testing.assert_close(pickle.loads(pickle.dumps(slots))[5][0].rewards, slots[5][0].rewards)


@pytest.mark.parametrize("mix_shards", [1, 2, 3, 7])
def test_so_many_shards_at_a_time_are_mixed(dataset: Dataset, mix_shards: int) -> None:
    """4 clips a shard."""
    config = StreamConfig(length=4, batch_size=4, seed=3, mix_shards=mix_shards)
    batches = take(ClipStream(dataset, config), 30)
    epochs = [[clip for batch in batches[first : first + 3] for clip, _ in batch] for first in range(0, 30, 3)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    group = 4 * mix_shards
    for epoch in epochs:
        parts = [{clip // 4 for clip in epoch[first : first + group]} for first in range(0, 12, group)]
        assert all(len(part) <= mix_shards for part in parts) and sum(map(len, parts)) == 3
    assert len({tuple(epoch[:4]) for epoch in epochs}) > 5  # drawn anew in each
    firsts = {frozenset(clip // 4 for clip in epoch[:group]) for epoch in epochs}
    assert len(firsts) == (1 if mix_shards >= 3 else 3)


def test_what_order_is_saved_is_what_goes_on(dataset: Dataset) -> None:
    config = StreamConfig(length=4, batch_size=2, seed=3, mix_shards=2)
    straight, before = take(ClipStream(dataset, config), 9), ClipStream(dataset, config)
    take(before, 4)
    after = ClipStream(dataset, config)
    assert after.load_state_dict(before.state_dict()) is None and take(after, 5) == straight[4:]
    with pytest.raises(ValueError, match="mix_shards=2 and now has None"):
        ClipStream(dataset, CONFIG).load_state_dict(before.state_dict())
    older = {name: value for name, value in ClipStream(dataset, CONFIG).state_dict().items() if name != "mix_shards"}
    assert ClipStream(dataset, CONFIG).load_state_dict(older) is None


def two_datasets(folder: Path, sizes: tuple[int, int], tasks: tuple[str, ...] = ("one",)) -> list[str]:
    """Folders of clips as above; the second one's numbers begin at 100."""
    names = []
    for part, size in enumerate(sizes):
        name, meta = folder / f"part{part}", META if part == 0 else replace(META, tasks=tasks)
        with ShardWriter(name, 0, meta) as shard:
            for index in range(size):
                frames = np.full((10, 3, 4, 4), 100 * part + index, np.uint8)
                shard.write(f"clip-{index:02d}", frames=frames, rewards=np.arange(10, dtype=np.float32))
        finish_dataset(name, meta)
        names.append(str(name))
    return names


def test_several_datasets_are_one_epoch_by_their_samples(tmp_path: Path) -> None:
    both = Dataset.open(*two_datasets(tmp_path, (3, 9)))
    assert len(both) == 12 and both.name == f"{tmp_path}/part0 + {tmp_path}/part1"
    epoch = sum(take(ClipStream(both, CONFIG), 6), [])
    assert sorted(clip for clip, _ in epoch) == [0, 1, 2, *range(100, 109)]


@pytest.mark.parametrize("weights", [(3.0, 1.0), (0.5, 0.5), (1.0, 2.0)])
def test_weights_say_how_often_each_dataset_is_shown(tmp_path: Path, weights: tuple[float, ...]) -> None:
    both = Dataset.open(*two_datasets(tmp_path, (3, 9)), weights=weights)
    config = StreamConfig(length=4, batch_size=10, seed=3)
    shown = [clip for clip, _ in sum(take(ClipStream(both, config), PERIOD // 10), [])]
    first = [clip for clip in shown if clip < 100]
    assert abs(len(first) - PERIOD * weights[0] / sum(weights)) < 1
    for part, size in ((first, 3), ([clip for clip in shown if clip >= 100], 9)):
        epochs = [part[begin : begin + size] for begin in range(0, len(part) - size + 1, size)]
        assert all(len(set(epoch)) == size for epoch in epochs)  # each has epochs of its own
    longest = max(len(list(run)) for _, run in itertools.groupby(clip < 100 for clip in shown))
    assert longest < 60  # mixed, not one after the other
    assert take(ClipStream(both, config, 1, 2), 4) == take(ClipStream(both, config), 8)[1::2]
    with pytest.raises(ValueError, match="weights="):
        ClipStream(Dataset.open(tmp_path / "part0", tmp_path / "part1"), config).load_state_dict(
            ClipStream(both, config).state_dict()
        )


def test_datasets_that_do_not_go_together_are_named(tmp_path: Path) -> None:
    one, other = two_datasets(tmp_path, (2, 2), tasks=("one", "two"))
    with pytest.raises(ValueError, match=f"{one} and {other} do not go together: tasks is"):
        Dataset.open(one, other)
    with pytest.raises(ValueError, match="3 weights for 2 datasets"):
        Dataset.open(one, other, weights=(1, 2, 3))
    with pytest.raises(ValueError, match="must all be above 0"):
        Dataset.open(one, one, weights=(1, 0))


def test_video_without_actions_goes_with_any_action_space(tmp_path: Path) -> None:
    none = replace(META, action_space={"continuous": ["y", "z"], "categorical": [], "binary": []})
    for name, meta in (("silent", none), ("told", META)):
        with ShardWriter(tmp_path / name, 0, meta) as shard:
            actions = np.ones((10, 1), np.float32) if meta is META else None
            shard.write("clip", frames=np.zeros((10, 3, 4, 4), np.uint8), actions=actions)
        finish_dataset(tmp_path / name, meta)
    both = Dataset.open(tmp_path / "silent", tmp_path / "told")
    assert both.meta.action_space == META.action_space
    silent, told = (both.read_window(index, 2, 4) for index in range(2))
    assert silent.actions.shape == told.actions.shape == (4, 1)
    assert not silent.labeled.any() and told.labeled.all()


def test_two_ranks_cover_an_epoch_once_without_overlap(dataset: Dataset) -> None:
    ranks = [sum(take(ClipStream(dataset, CONFIG, rank, 2), 3), []) for rank in range(2)]
    assert sorted(clip for clip, _ in ranks[0] + ranks[1]) == list(range(12))
    straight = take(ClipStream(dataset, StreamConfig(length=4, batch_size=4, seed=3)), 3)
    assert [ranks[0][2 * k : 2 * k + 2] + ranks[1][2 * k : 2 * k + 2] for k in range(3)] == straight


@pytest.mark.parametrize("num_workers", [0, 1])
def test_resuming_equals_a_straight_run(dataset: Dataset, num_workers: int) -> None:
    config = StreamConfig(length=4, batch_size=2, seed=3, num_workers=num_workers)
    straight = take(ClipStream(dataset, config), 10)
    before = ClipStream(dataset, config)
    assert take(before, 4) == straight[:4]
    state = before.state_dict()
    assert state["batches"] == 4  # those that workers read ahead are not counted
    after = ClipStream(dataset, config)
    assert after.load_state_dict(state) is None
    assert take(after, 6) == straight[4:]
    assert take(before, 6) == straight[4:]  # a new iteration goes on as well


def test_reading_leaves_the_global_random_state_alone(dataset: Dataset) -> None:
    before = torch.get_rng_state()
    take(ClipStream(dataset, CONFIG), 2)
    torch.testing.assert_close(torch.get_rng_state(), before)


def test_another_seed_or_dataset_does_not_resume(dataset: Dataset) -> None:
    state = ClipStream(dataset, CONFIG).state_dict()
    with pytest.raises(ValueError, match="seed=3 and now has 4"):
        ClipStream(dataset, StreamConfig(length=4, batch_size=2, seed=4)).load_state_dict(state)
    with pytest.raises(ValueError, match="saved with dataset="):
        ClipStream(dataset.split(2)[0], CONFIG).load_state_dict(state)


def test_other_ranks_resume_without_loss_and_say_so(dataset: Dataset) -> None:
    one = ClipStream(dataset, CONFIG)
    seen = sum(take(one, 2), [])
    for rank in range(2):
        two = ClipStream(dataset, CONFIG, rank, 2)
        sentence = two.load_state_dict(one.state_dict())
        assert sentence is not None and "world_size 1 -> 2" in sentence
        seen += sum(take(two, 2), [])
    assert sorted(clip for clip, _ in seen) == list(range(12))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_corrupt_sample_is_replaced_counted_and_named(dataset: Dataset, num_workers: int) -> None:
    config = StreamConfig(length=4, batch_size=2, seed=3, num_workers=num_workers)
    whole = sum(take(ClipStream(dataset, config), 6), [])
    damage(dataset, 7)
    stream = ClipStream(Dataset.open(dataset.name), config)
    got = sum(take(stream, 6), [])
    assert list(stream.corrupt) == ["clip-07"] and "checksum of frames.npy" in stream.corrupt["clip-07"]
    changed = [index for index in range(12) if got[index] != whole[index]]
    assert changed == [index for index in range(12) if whole[index][0] == 7]
    assert got == sum(take(ClipStream(Dataset.open(dataset.name), CONFIG), 6), [])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda sample: sample["members"].pop("frames.npy"), "frames.npy is missing"),
        (lambda sample: sample.update(length=9), "has shape (10,), not (9,)"),
        (lambda sample: sample.update(key="../../evil"), "no sample may have this name"),
        (lambda sample: sample.update(key="/etc/evil"), "no sample may have this name"),
    ],
)
def test_a_sample_that_is_not_what_its_index_says_is_replaced_and_named(
    dataset: Dataset, change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    sidecar = Path(dataset.name) / "shard-000001.json"
    content = json.loads(sidecar.read_text())
    change(content["samples"][3])
    sidecar.write_text(json.dumps(content))
    before = {path for path in Path(dataset.name).parent.rglob("*")}
    stream = ClipStream(Dataset.open(dataset.name), CONFIG)
    assert {clip for clip, _ in sum(take(stream, 6), [])} == set(range(12)) - {7}
    assert list(stream.corrupt) == [content["samples"][3]["key"]]
    assert reason in stream.corrupt[content["samples"][3]["key"]]
    assert {path for path in Path(dataset.name).parent.rglob("*")} == before


def test_the_last_sound_sample_fills_every_slot(dataset: Dataset) -> None:
    for index in range(11):
        damage(dataset, index)
    stream = ClipStream(dataset, CONFIG)
    assert {clip for clip, _ in sum(take(stream, 6), [])} == {11}
    assert set(stream.corrupt) <= {f"clip-{index:02d}" for index in range(11)}


def test_a_wholly_corrupt_dataset_is_an_error(dataset: Dataset) -> None:
    for index in range(12):
        damage(dataset, index)
    with pytest.raises(ValueError, match="12 samples in a row are corrupt"):
        take(ClipStream(dataset, CONFIG), 1)


def test_a_shard_that_vanishes_is_an_error(dataset: Dataset) -> None:
    stream = ClipStream(dataset, CONFIG)
    (Path(dataset.name) / "shard-000001.tar").unlink()
    with pytest.raises(FileNotFoundError):
        take(stream, 6)


def test_short_samples_are_counted_and_none_left_is_an_error(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 0, META) as shard:
        for length in (3, 4, 5):
            shard.write(f"clip-{length}", frames=np.full((length, 3, 4, 4), length, np.uint8))
    finish_dataset(tmp_path, META)
    stream = ClipStream(Dataset.open(tmp_path), CONFIG)
    assert (stream.num_too_short, stream.num_samples) == (1, 2)
    assert {clip for clip, _ in sum(take(stream, 4), [])} == {4, 5}
    with pytest.raises(ValueError, match="no sample of .* has 6 frames: the longest of 3 has 5; choose a shorter"):
        ClipStream(Dataset.open(tmp_path), StreamConfig(length=6, batch_size=1))


def test_evaluation_windows_are_those_asked_for(dataset: Dataset) -> None:
    several = rows(windows(dataset, 4, 14, start=1))
    assert [clip for clip, _ in several].count(5) == [clip for clip, _ in several].count(11) == 2, "the samples share"
    assert {(5, 1), (5, 6), (11, 1), (11, 6)} <= set(several) and len(several) == 14
    assert {first for clip, first in several if clip not in (5, 11)} == {1, 2, 3, 4, 5, 6}, "not beginnings alone"
    assert [clip for clip, _ in rows(windows(dataset, 4, 3))] == [3, 7, 11], "few windows are of samples all over"
    assert rows(windows(dataset, 4, 36, start=0))[:3] == [(0, 0), (0, 3), (0, 6)]
    assert rows(windows(dataset, 10, 12)) == [(index, 0) for index in range(12)]
    with pytest.raises(ValueError, match="has 10 frames from frame 1 on"):
        windows(dataset, 10, 1, start=1)


def test_a_paired_stream_joins_two_streams_and_resumes_both(dataset: Dataset) -> None:
    def paired() -> PairedStream:
        best = dataset.only(dataset.samples[:3])
        config = StreamConfig(length=4, batch_size=2)
        return PairedStream(ClipStream(dataset, config), ClipStream(best, config))

    straight = iter(paired())
    batches = [next(straight) for _ in range(5)]
    assert all(len(batch.task) == 4 for batch in batches)
    assert {index for batch in batches for index, _ in rows(batch)[2:]} <= {0, 1, 2}
    stopped = paired()
    for _, _ in zip(range(2), stopped, strict=False):
        pass
    resumed = paired()
    resumed.load_state_dict(stopped.state_dict())
    assert [rows(batch) for _, batch in zip(range(3), resumed, strict=False)] == [rows(batch) for batch in batches[2:]]


def alternating(dataset: Dataset, long_share: float = 0.5, *, seed: int = 3, rank: int = 0) -> AlternatingStream:
    """Two rows of 4 frames, or one of 8."""
    short, long = (
        ClipStream(dataset, StreamConfig(length=length, batch_size=8 // length, seed=seed), rank, 2)
        for length in (4, 8)
    )
    return AlternatingStream(short, long, long_share=long_share, seed=seed)


def lengths(stream: AlternatingStream, count: int) -> list[int]:
    return [batch.num_frames for _, batch in zip(range(count), stream, strict=False)]


def test_long_batches_come_at_their_share_and_at_the_same_steps_on_all_ranks(dataset: Dataset) -> None:
    many = alternating(dataset, 0.1)
    assert sum(map(many.is_long, range(5000))) == pytest.approx(500, abs=75)
    for step in (5, 10, 20):  # logged or not, steps have their share
        assert sum(map(many.is_long, range(step - 1, 1000 * step, step))) == pytest.approx(100, abs=40)
    pattern = lengths(alternating(dataset), 20)
    assert set(pattern) == {4, 8}
    assert lengths(alternating(dataset, rank=1), 20) == pattern
    assert lengths(alternating(dataset, seed=4), 20) != pattern
    assert lengths(alternating(dataset, 0.0), 5) == [4] * 5 and lengths(alternating(dataset, 1.0), 5) == [8] * 5


def test_short_and_long_batches_each_go_through_the_data_as_if_alone(dataset: Dataset) -> None:
    stream = alternating(dataset)
    seen = [rows(batch) for _, batch in zip(range(20), stream, strict=False)]
    alone = {count: iter(part) for count, part in ((2, alternating(dataset, 0.0)), (1, alternating(dataset, 1.0)))}
    assert seen == [rows(next(alone[len(batch)])) for batch in seen]


def test_an_alternating_stream_resumes_exactly_with_pairs_inside(dataset: Dataset) -> None:
    def stream() -> AlternatingStream:
        short, long = (
            PairedStream(*(ClipStream(dataset, StreamConfig(length=length, batch_size=1, seed=s)) for s in (0, 1)))
            for length in (4, 8)
        )
        return AlternatingStream(short, long, long_share=0.5)

    straight = [rows(batch) for _, batch in zip(range(12), stream(), strict=False)]
    stopped = stream()
    assert [rows(batch) for _, batch in zip(range(5), stopped, strict=False)] == straight[:5]
    resumed = stream()
    assert resumed.load_state_dict(stopped.state_dict()) is None
    assert [rows(batch) for _, batch in zip(range(7), resumed, strict=False)] == straight[5:]
    assert [rows(batch) for _, batch in zip(range(7), stopped, strict=False)] == straight[5:]


def test_a_stream_without_long_batches_does_not_go_on_with_some(dataset: Dataset) -> None:
    stream = alternating(dataset)
    with pytest.raises(ValueError, match="saved without long clips"):
        stream.load_state_dict(ClipStream(dataset, CONFIG).state_dict())
    with pytest.raises(ValueError, match=r"long_share=1.5 is not in \[0, 1\]"):
        alternating(dataset, 1.5)


def test_an_alternating_stream_counts_for_each_length_and_names_what_is_corrupt(dataset: Dataset) -> None:
    damage(dataset, 7)
    stream = alternating(Dataset.open(dataset.name))
    assert stream.too_short == {4: 0, 8: 0}
    lengths(stream, 30)
    assert list(stream.corrupt) == ["clip-07"]


@pytest.fixture
def labeled(tmp_path: Path) -> Dataset:
    """40 clips of 6 frames whose actions are known but for the first; each reward is the clip's number."""
    with ShardWriter(tmp_path / "labeled", 0, META) as shard:
        for index in range(40):
            shard.write(
                f"clip-{index:02d}",
                frames=np.full((6, 3, 4, 4), index, np.uint8),
                actions=np.full((6, 1), 0.5, np.float32),
                labeled=np.arange(6) > 0,
                rewards=np.full(6, index, np.float32),
            )
    finish_dataset(tmp_path / "labeled", META)
    return Dataset.open(tmp_path / "labeled")


def labels(dataset: Dataset, share: float, seed: int = 0, num_workers: int = 0) -> set[int]:
    """The clips of three epochs that show actions; those that do show them whole, the others none."""
    config = StreamConfig(length=6, batch_size=8, seed=seed, num_workers=num_workers, labeled_share=share)
    with_labels, without = set(), set()
    for batch in itertools.islice(ClipStream(dataset, config), 15):
        for clip, shown, actions in zip(batch.rewards[:, 0].tolist(), batch.labeled, batch.actions, strict=True):
            if shown.any():
                assert shown.tolist() == [False] + 5 * [True] and (actions[1:] == 0.5).all()
                with_labels.add(int(clip))
            else:
                assert not actions.any()
                without.add(int(clip))
    assert not with_labels & without and len(with_labels | without) == 40  # all videos are shown, in every epoch alike
    return with_labels


def test_a_share_of_the_episodes_keeps_its_actions(labeled: Dataset) -> None:
    assert labels(labeled, 0.0) == set() and labels(labeled, 1.0) == set(range(40))
    assert 10 <= len(labels(labeled, 0.5)) <= 30
    assert labels(labeled, 0.5) == labels(labeled, 0.5, num_workers=2)
    assert labels(labeled, 0.5) != labels(labeled, 0.5, seed=1)


def test_a_larger_share_of_labels_holds_a_smaller_one(labeled: Dataset) -> None:
    found = [labels(labeled, share) for share in (0.1, 0.3, 0.6, 0.9)]
    assert all(small < large for small, large in itertools.pairwise(found))


def test_labels_belong_to_the_episode_whatever_else_is_in_the_dataset(labeled: Dataset) -> None:
    part = labeled.only(labeled.samples[10:])
    config = StreamConfig(length=6, batch_size=30, labeled_share=0.5)
    batch = next(iter(ClipStream(part, config)))
    shown = {int(clip) for clip in batch.rewards[batch.labeled.any(1), 0]}
    assert shown == {clip for clip in labels(labeled, 0.5) if clip >= 10}


def test_all_clips_of_an_episode_show_actions_or_none_does(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 0, META) as shard:
        for clip in range(40):
            shard.write(
                clip_key(f"episode-{clip // 2}", 5 * (clip % 2)),
                start=5 * (clip % 2),
                frames=np.zeros((6, 3, 4, 4), np.uint8),
                actions=np.full((6, 1), 0.5, np.float32),
                labeled=np.arange(6) > 0,
                rewards=np.full(6, clip, np.float32),
            )
    finish_dataset(tmp_path, META)
    shown = labels(Dataset.open(tmp_path), 0.5)
    assert 0 < len(shown) < 40 and shown == {clip ^ 1 for clip in shown}


def test_another_share_of_labels_does_not_resume(labeled: Dataset) -> None:
    def stream(share: float) -> ClipStream:
        return ClipStream(labeled, StreamConfig(length=6, batch_size=2, labeled_share=share))

    state = stream(0.5).state_dict()
    assert stream(0.5).load_state_dict(state) is None
    with pytest.raises(ValueError, match=r"saved with labeled_share=0.5 and now has 1.0"):
        stream(1.0).load_state_dict(state)
    del state["labeled_share"]  # as it was saved before there was a choice
    assert stream(1.0).load_state_dict(state) is None
    with pytest.raises(ValueError, match="labeled_share=1.5 is not in"):
        stream(1.5)


def test_joined_windows_show_every_frame_equally_often_and_ends_anywhere(dataset: Dataset) -> None:
    """Within a sample one window in L - T + 1 reached the end, always at its own end: M learned to count to it."""
    stream = ClipStream(dataset, StreamConfig(length=4, batch_size=12, joined=True))
    shown, places = np.zeros(10), np.zeros(4)
    batches = iter(stream)
    for _ in range(300):
        batch = next(batches)
        frames = batch.rewards.long()  # a frame's reward is its number
        first = batch.is_first
        assert torch.equal(first[:, 1:], frames[:, 1:] == 0), "another clip begins there, and is marked"
        going_on = ~first[:, 1:]
        assert torch.equal(frames[:, 1:][going_on], frames[:, :-1][going_on] + 1)
        shown += np.bincount(frames.flatten(), minlength=10)
        places += (frames == 9).sum(0).numpy()
    assert np.abs(shown / shown.mean() - 1).max() < 0.12
    assert np.abs(places / places.mean() - 1).max() < 0.2


def test_joined_windows_go_on_after_a_stop_and_leave_no_clip_out(dataset: Dataset) -> None:
    config = StreamConfig(length=25, batch_size=3, joined=True)
    straight, stream = ClipStream(dataset, config), ClipStream(dataset, config)
    assert straight.num_too_short == 0 and straight.num_samples == len(dataset)
    batches = iter(straight)
    expected = [next(batches) for _ in range(4)]
    first = iter(stream)
    next(first), next(first)
    again = ClipStream(dataset, config)
    assert again.load_state_dict(stream.state_dict()) is None
    third = next(iter(again))
    assert isinstance(third, EpisodeClip) and third.num_frames == 25
    assert torch.equal(third.frames, expected[2].frames) and torch.equal(third.is_first, expected[2].is_first)
    state = stream.state_dict()
    del state["joined"]  # as it was saved before there was a choice
    with pytest.raises(ValueError, match="saved with joined=False and now has True"):
        ClipStream(dataset, config).load_state_dict(state)


def test_endings_are_the_last_frames_of_episodes_that_ended(tmp_path: Path) -> None:
    """Of eight clips every other one ended; one of these has three frames, and one is damaged."""
    with ShardWriter(tmp_path, 0, META) as shard:
        for index in range(8):
            length = 3 if index == 1 else 10
            frames, continues = np.full((length, 3, 4, 4), index, np.uint8), np.ones(length, np.bool_)
            continues[-1] = index % 2 == 0
            rewards = np.arange(length, dtype=np.float32)
            shard.write(f"clip-{index:02d}", frames=frames, rewards=rewards, continues=continues)
    finish_dataset(tmp_path, META)
    dataset = Dataset.open(tmp_path)

    def found(count: int, look_at: int) -> list[tuple[int, int]]:
        clips = endings(dataset, 4, count, look_at)
        assert not any(clip.continues[-1] for clip in clips)
        return [rows(EpisodeClip.stack([clip]))[0] for clip in clips if isinstance(clip, EpisodeClip)]

    assert found(10, look_at=8) == [(1, 0), (3, 6), (5, 6), (7, 6)]
    assert found(2, look_at=8) == [(1, 0), (5, 6)], "spread"
    assert found(10, look_at=4) == [], "0, 2, 4, 6"
    damage(dataset, 3)
    dataset = Dataset.open(tmp_path)
    assert found(10, look_at=8) == [(1, 0), (5, 6), (7, 6)]


def test_a_damaged_clip_that_was_to_fill_a_window_up_is_passed_over_and_named(dataset: Dataset) -> None:
    """All clips are shorter than a window; each is still shown, and the damaged one is not."""
    damage(dataset, 5)
    stream = ClipStream(dataset, StreamConfig(length=25, batch_size=3, joined=True))
    shown = set()
    for batch in itertools.islice(stream, 24):
        assert isinstance(batch, EpisodeClip) and batch.num_frames == 25
        shown |= set(batch.frames[:, :, 0, 0, 0].flatten().tolist())
    assert shown == set(range(12)) - {5} and stream.corrupt.keys() == {"clip-05"}
