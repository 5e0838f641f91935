"""Scores of several tasks: which one counts, and that no table mixes them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("Box2D")

from launch.collect import PRESETS, collect
from launch.evaluate import PRESETS as EVALUATIONS
from tokenizer.shard_format import DatasetMeta
from tokenizer.shard_writer import ShardWriter, finish_dataset
from tokenizer.shards import Dataset

Call = Callable[..., int]
Say = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of driving and two of cruising."""
    out = tmp_path_factory.mktemp("two")
    collect(replace(PRESETS["debug"], tasks=("drive", "cruise"), driver="cruising", max_steps=12, out=out))
    return out / "train"


def of_tasks(folder: Path, *tasks: str) -> Path:
    """Video of CarRacing that calls what is done by other names; all of it is of the first."""
    space = {"continuous": ["steering", "gas", "brake"], "categorical": [], "binary": []}
    meta = DatasetMeta(environment="CarRacing-v3", frame_size=(64, 64), fps=12.5, action_space=space, tasks=tasks)
    with ShardWriter(folder, 0, meta) as shard:
        shard.write("clip", frames=np.zeros((2, 3, 64, 64), np.uint8))
    finish_dataset(folder, meta)
    return folder


def scores(path: Path, agent: str) -> list[float]:
    found: list[float] = json.loads(path.read_text())[agent]["scores"]
    return found


def test_each_task_has_a_table_and_scores_of_its_own(data: Path, tmp_path: Path, call: Call, capfd: Say) -> None:
    options = ("debug", "--run", tmp_path, "--data", data, "--agents", "random", "dataset")
    for task in ((), ("--task", "cruise")):
        assert call("evaluate", *options, *task) == 0
    assert "of the task 'cruise'" in " ".join(capfd.readouterr().out.split())
    samples = Dataset.open(data).samples
    for number, name in enumerate(("results.json", "results_cruise.json")):
        assert scores(tmp_path / name, "dataset") == [s.reward_sum for s in samples if s.task == number]
    assert scores(tmp_path / "results.json", "random") != scores(tmp_path / "results_cruise.json", "random")
    assert (tmp_path / "scores/random.json").exists() and (tmp_path / "scores_cruise/random.json").exists()
    assert call("evaluate", *options, "--task", "drive") == 0
    assert "random: already done" in capfd.readouterr().out, "the first task has one table, named or not"
    assert not list(tmp_path.glob("*drive*"))


def test_a_task_that_nobody_knows_is_named_with_those_there_are(
    data: Path, tmp_path: Path, call: Call, capfd: Say
) -> None:
    folders = ("debug", "--run", tmp_path / "run", "--agents", "random")
    assert call("evaluate", *folders, "--data", data, "--task", "fly") == 1
    assert f"task 'fly' is none of the tasks of {data}: drive, cruise" in " ".join(capfd.readouterr().err.split())
    other = of_tasks(tmp_path / "other", "drive", "fly")
    assert call("evaluate", *folders, "--data", other, "--task", "fly") == 1
    assert "'fly' is none of the tasks of CarRacing-v3: drive, cruise" in " ".join(capfd.readouterr().err.split())


def test_a_task_without_an_episode_is_told_before_anything_is_played(tmp_path: Path, call: Call, capfd: Say) -> None:
    other = of_tasks(tmp_path / "other", "drive", "cruise")
    options = ("--run", tmp_path / "run", "--data", other, "--agents", "random", "dataset")
    assert call("evaluate", "debug", *options, "--task", "cruise") == 1
    assert "other holds no episode of task 'cruise'" in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_data_that_calls_its_task_otherwise_is_scored_by_the_games_own(tmp_path: Path, call: Call) -> None:
    """Imported video says "video", a robot's a whole sentence."""
    other, game = of_tasks(tmp_path / "other", "video"), of_tasks(tmp_path / "game", "drive")
    for folder in (other, game):
        options = ("--run", tmp_path / f"scores of {folder.name}", "--data", folder, "--agents", "random")
        assert call("evaluate", "debug", *options) == 0
    found = [scores(tmp_path / f"scores of {folder.name}/results.json", "random") for folder in (other, game)]
    assert found[0] == found[1]


def test_a_task_that_is_a_sentence_names_files_in_the_runs_folder() -> None:
    config = replace(EVALUATIONS["debug"], task="push / pull it.", told="a.b")
    path = config.file("results").with_suffix(".json")
    assert path == config.run / "results_push---pull-it-_told_a-b.json"
