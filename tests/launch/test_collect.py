"""Collecting a dataset."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("Box2D")

from agent.collecting import ShardOrder, collect_shard
from agent.ladder import CRAFTER_LADDER
from agent.seeds import BLOCK, EVALUATION_TRACKS, HELD_OUT_TRACKS, TRAIN_TRACKS, track_seed
from launch import collect as command
from launch.collect import PRESETS, CollectConfig, collect
from launch.workers import Tell
from tokenizer.shards import Dataset


def config(out: Path) -> CollectConfig:
    return replace(PRESETS["debug"], out=out, max_steps=12)


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_debug_preset_makes_two_datasets_that_read_back(tmp_path: Path) -> None:
    collect(config(tmp_path))
    train, held_out = Dataset.open(tmp_path / "train"), Dataset.open(tmp_path / "held_out")
    assert (len(train), len(held_out)) == (4, 2)
    assert [sample.length for sample in train.samples] == [13] * 4  # the first frame and 12 actions
    assert train.meta.fps == 12.5 and train.meta.action_size == 3 and train.meta.item_shape == (3, 64, 64)
    assert train.meta.extra["driver"] == "mixed" and held_out.meta.extra["driver"] == "scripted_mixed"
    assert not set(train.meta.extra["seeds"]) & set(held_out.meta.extra["seeds"])
    assert train.meta.return_best >= train.meta.return_mean
    assert train.meta.tasks == ("drive",), "the environment's first"


def test_run_again_it_says_that_it_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collect(config(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    collect(config(tmp_path))
    assert "already done" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_lost_shard_is_collected_again_to_the_same_bytes(tmp_path: Path) -> None:
    collect(config(tmp_path))
    before = digests(tmp_path)
    (tmp_path / "train" / "shard-000001.tar").unlink()
    collect(replace(config(tmp_path), processes=2))  # by other processes, too
    assert digests(tmp_path) == before


def test_an_interrupted_run_leaves_whole_shards_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collect(config(tmp_path / "straight"))
    calls: list[ShardOrder] = []

    def interrupted(order: ShardOrder, progress: Tell) -> None:
        calls.append(order)
        if len(calls) == 2:
            raise KeyboardInterrupt
        collect_shard(order, progress)

    monkeypatch.setattr(command, "collect_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(config(tmp_path / "resumed"))
    assert set(digests(tmp_path / "resumed")) == {"collect.json", "train/shard-000000.tar", "train/shard-000000.json"}
    monkeypatch.undo()
    collect(config(tmp_path / "resumed"))
    assert digests(tmp_path / "resumed") == digests(tmp_path / "straight")


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    collect(config(tmp_path))
    with pytest.raises(ValueError, match="driver='mixed'"):
        collect(replace(config(tmp_path), driver="random"))


def test_wrong_settings_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'expert'"):
        CollectConfig(driver="expert", out=tmp_path)
    with pytest.raises(ValueError, match="'Pong'"):
        collect(replace(config(tmp_path), env="Pong"))
    assert not list(tmp_path.iterdir())


def test_no_track_is_both_trained_on_and_judged() -> None:
    last = [track_seed(start, 99, 9999) for start in (TRAIN_TRACKS, HELD_OUT_TRACKS, EVALUATION_TRACKS)]
    assert np.all(np.array(last[:2]) < [HELD_OUT_TRACKS, EVALUATION_TRACKS])
    assert track_seed(TRAIN_TRACKS, 0, BLOCK - 1) < HELD_OUT_TRACKS
    with pytest.raises(ValueError, match="episode 10000 of a run of seed 99, allowed: 0 to 9999"):
        track_seed(TRAIN_TRACKS, 99, 10_000)


def test_any_environment_of_gymnasium_is_collected(
    tmp_path: Path, call: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pygame")
    options = ("--env", "gym:CartPole-v1", "--action-repeat", 1, "--out", tmp_path)
    assert call("collect", "debug", *options) != 0
    assert "driver 'mixed' knows CarRacing-v3 alone: give --driver" in capfd.readouterr().err
    drivers = ("--driver", "random", "--held-out-driver", "correlated_random")
    assert call("collect", "debug", *options, *drivers) == 0
    data = Dataset.open(tmp_path / "train")
    assert data.meta.environment == "gym:CartPole-v1" and data.meta.action_space["categorical"] == [["action", 2]]
    clip = data.read_window(0, 0, data.samples[0].length)
    assert clip.actions[1:].unique().tolist() == [0, 1] and clip.rewards[1:].eq(1).all()


def test_episodes_of_two_tasks_come_in_turn_with_rewards_of_their_own(tmp_path: Path) -> None:
    settings = replace(config(tmp_path / "two"), tasks=("drive", "cruise"), driver="cruising")
    collect(settings)
    two = Dataset.open(tmp_path / "two/train")
    assert two.meta.tasks == ("drive", "cruise") and [sample.task for sample in two.samples] == [0, 1, 0, 1]
    collect(replace(settings, tasks=("cruise", "drive"), out=tmp_path / "other"))
    other = Dataset.open(tmp_path / "other/train")
    for one, turned in zip(two.samples, other.samples, strict=True):
        assert one.key == turned.key and one.reward_sum != turned.reward_sum
    assert two.meta.extra["seeds"] == other.meta.extra["seeds"]


def test_a_folder_from_before_there_were_tasks_is_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collect(config(tmp_path))
    path = tmp_path / "collect.json"
    settings = json.loads(path.read_text())
    assert settings.pop("tasks") == []
    path.write_text(json.dumps(settings))
    capsys.readouterr()
    collect(config(tmp_path))
    assert "already done" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"was collected with tasks=\[\]"):
        collect(replace(config(tmp_path), tasks=("cruise",)))


def test_episodes_of_two_tasks_are_the_same_bytes_wherever_a_shard_begins(tmp_path: Path) -> None:
    settings = replace(config(tmp_path), tasks=("drive", "cruise"), episodes=3, episodes_per_shard=1)
    collect(settings)
    found = Dataset.open(tmp_path / "train")
    assert [sample.task for sample in found.samples] == [0, 1, 0], "a shard goes on in the turn of the one before"
    before = digests(tmp_path)
    (tmp_path / "train/shard-000001.tar").unlink()
    collect(settings)
    assert digests(tmp_path) == before


def test_a_task_that_the_environment_has_not_is_named_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown task 'fly', CarRacing-v3 has \['drive', 'cruise'\]"):
        collect(replace(config(tmp_path), tasks=("fly",)))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="names one twice"):
        replace(config(tmp_path), tasks=("drive", "drive"))


def test_a_driver_of_one_game_drives_in_no_other(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'crafter_graded' knows Crafter alone.*one of scripted, .*, random,"):
        replace(config(tmp_path), driver="crafter_graded")
    with pytest.raises(ValueError, match=r"'mixed' knows CarRacing-v3 alone.*crafter_expert, crafter_graded, random"):
        replace(PRESETS["crafter_debug"], driver="mixed")


def test_crafters_drives_serve_every_task_of_the_ladder_in_clips_that_share_a_frame(tmp_path: Path) -> None:
    pytest.importorskip("crafter")
    collect(replace(PRESETS["crafter_debug"], out=tmp_path))
    data = Dataset.open(tmp_path / "train")
    assert data.meta.tasks == CRAFTER_LADDER.tasks and data.meta.fps == 5
    starts = [sample.start for sample in data.samples if sample.key.startswith(data.samples[0].key[:16])]
    assert starts == [0, 15, 30], "41 frames in clips of 16"
    first, second = (data.read_window(number, 0, data.samples[number].length) for number in (0, 1))
    assert (first.frames[-1] == second.frames[0]).all() and first.labeled[-1] and not second.labeled[0]
    assert not data.read_rewards(1)[0].any()
    each = data.each_task()
    assert len(each) == 10 * len(data) and {view.reward_sum for view in each.samples} >= {0.0, 1.0}


def test_clips_hold_what_the_episode_does(tmp_path: Path) -> None:
    whole, cut = (
        replace(config(tmp_path / name), episodes=1, clip_frames=size) for name, size in [("a", None), ("b", 5)]
    )
    collect(whole)
    collect(cut)
    one, parts = Dataset.open(whole.out / "train"), Dataset.open(cut.out / "train")
    assert [sample.length for sample in parts.samples] == [5, 5, 5] and len(one) == 1
    np.testing.assert_array_equal(
        one.read_rewards(0)[1:], np.concatenate([parts.read_rewards(number)[1:] for number in range(3)])
    )
    with pytest.raises(ValueError, match="clip_frames=1"):
        replace(whole, clip_frames=1)
