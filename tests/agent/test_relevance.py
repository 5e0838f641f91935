"""Which clips are cloned."""

from pathlib import Path

import numpy as np
import pytest

from agent.relevance import relevant_clips
from tokenizer.shard_format import DatasetMeta
from tokenizer.shard_writer import ShardWriter, finish_dataset
from tokenizer.shards import Dataset


def dataset_of(
    folder: Path, rewards: list[list[float]], tasks: tuple[int, ...] = (), labeled: tuple[int, ...] = ()
) -> Dataset:
    space = {"continuous": ["a"], "categorical": [], "binary": []}
    meta = DatasetMeta(environment="toy", frame_size=(4, 4), fps=10, action_space=space, tasks=("one", "two", "none"))
    with ShardWriter(folder, 0, meta) as shard:
        for number, row in enumerate(rewards):
            frames, task = np.zeros((len(row), 3, 4, 4), np.uint8), tasks[number] if tasks else 0
            actions = np.zeros((len(row), 1), np.float32) if number in labeled else None
            shard.write(f"clip-{number}", frames=frames, actions=actions, rewards=np.array(row, np.float32), task=task)
    finish_dataset(folder, meta)
    return Dataset.open(folder)


def test_the_better_half_by_return_is_relevant_from_its_first_frame_on(tmp_path: Path) -> None:
    """A drive that ends well is cloned whole: its start earned nothing, and is what a policy needs first."""
    dataset = dataset_of(tmp_path, [[0, 0, 9], [5, 0, 0], [1, 1, 1], [0, 8, 0]])
    better = relevant_clips(dataset)
    assert [sample.key for sample in better.samples] == ["clip-0", "clip-3"]
    assert better.read_window(0, 0, 3).is_first.tolist() == [True, False, False]


@pytest.mark.parametrize("count", [1, 3])
def test_clips_that_rewards_do_not_tell_apart_are_all_relevant(tmp_path: Path, count: int) -> None:
    assert len(relevant_clips(dataset_of(tmp_path, [[0, 0]] * count))) == count


def test_the_better_half_is_of_each_task(tmp_path: Path) -> None:
    """Else a task that pays little would not be cloned at all."""
    dataset = dataset_of(tmp_path, [[9], [0.2], [7], [0.1], [8], [0.3], [6], [0.4]], tasks=(0, 1) * 4)
    assert [sample.key for sample in relevant_clips(dataset).samples] == ["clip-0", "clip-4", "clip-5", "clip-7"]
    assert [sample.key for sample in relevant_clips(dataset, share=0.25).samples] == ["clip-0", "clip-7"]
    assert len(relevant_clips(dataset, share=1.0)) == 8


def test_of_a_rare_event_the_clips_that_show_it_are_relevant(tmp_path: Path) -> None:
    """Half of all clips would be mostly such as show how not to do it."""
    dataset = dataset_of(tmp_path, [[0, 0], [0, 1], [0, 0], [0, 0], [0, 0]])
    assert [sample.key for sample in relevant_clips(dataset).samples] == ["clip-1"]
    assert len(relevant_clips(dataset, share=1.0)) == 5


def test_a_task_of_which_nothing_is_ever_earned_is_not_cloned_beside_others(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, [[0, 2], [0, 0], [0, 1], [0, 0]], tasks=(0, 1, 0, 1))
    assert [sample.key for sample in relevant_clips(dataset).samples] == ["clip-0"]


def test_video_without_actions_does_not_count_among_the_clips_to_clone(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, [[0, 9], [0, 8], [0, 0], [0, 0], [0, 7], [0, 6]], labeled=(0, 1, 4, 5))
    assert [sample.key for sample in relevant_clips(dataset).samples] == ["clip-0", "clip-1"]
    assert len(relevant_clips(dataset, share=1.0)) == 4
