"""Trainings on data from elsewhere and on several datasets, by their commands."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serving import serving
from tokenizer.shards import Dataset

Call = Callable[..., int]
Say = pytest.CaptureFixture[str]


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_training_on_shards_behind_http_learns_what_one_on_local_shards_learns(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say
) -> None:
    with serving(pipeline / "latents") as server:
        server.faults = {"index.json": ["503"], "shard-000000.tar": ["half"]}
        remote = ("--data", f"{server.url}/train", "--cache", tmp_path / "cache")
        for run, data in (("local", ("--data", pipeline / "latents/train")), ("remote", remote)):
            assert call("train_dynamics", "debug", "--run", tmp_path / run, *data, "--mix-shards", 1) == 0
        assert losses(tmp_path / "local") == losses(tmp_path / "remote")
        asked = dict(server.asked)
        # Killed and run again, it goes on, and fetches nothing that it has.
        assert (
            call("train_dynamics", "debug", "--run", tmp_path / "remote", *remote, "--mix-shards", 1, "--steps", 6) == 0
        )
        assert len(losses(tmp_path / "remote")) == 6
        assert {name: count for name, count in server.asked.items() if name.endswith(".tar")} == {
            name: count for name, count in asked.items() if name.endswith(".tar")
        }
        small = ("--cache-gb", 1e-6)
        assert call("train_dynamics", "debug", "--run", tmp_path / "small", *remote, *small) == 1
        assert "shards of up to" in (said := capfd.readouterr().err) and "give --cache-gb" in said


def test_several_datasets_are_learned_from_with_their_weights(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say
) -> None:
    data = ("--data", pipeline / "latents/train", pipeline / "latents/held_out")
    run = ("--run", tmp_path / "run")
    assert call("train_dynamics", "debug", *run, *data, "--weights", 1, 3, "--steps", 2) == 0
    assert call("train_dynamics", "debug", *run, *data, "--weights", 1, 3) == 0  # and goes on
    assert len(losses(tmp_path / "run")) == 4
    assert call("train_dynamics", "debug", *run, *data, "--weights", 3, 1) == 1
    assert "was made with weights=[1.0, 3.0], this command has weights=[3.0, 1.0]" in capfd.readouterr().err
    assert call("train_dynamics", "debug", "--run", tmp_path / "b", *data, "--weights", 1) == 1
    assert "1 weights for 2 datasets" in capfd.readouterr().err


def test_data_that_do_not_fit_together_end_before_anything_is_built(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say
) -> None:
    mixed = ("--data", pipeline / "latents/train", pipeline / "data/train")
    assert call("train_dynamics", "debug", "--run", tmp_path / "a", *mixed) == 1
    assert "do not go together: kind is 'latents' in the one and 'frames' in the other" in capfd.readouterr().err
    none = ("--data", f"{pipeline}/latents/train/shard-{{000007..000009}}.tar")
    assert call("train_dynamics", "debug", "--run", tmp_path / "b", *none) == 1
    assert "has no shard-000007.tar and 2 others" in capfd.readouterr().err


def test_a_run_of_an_older_version_with_one_folder_of_data_goes_on(pipeline: Path, tmp_path: Path, call: Call) -> None:
    shutil.copytree(pipeline / "dynamics", tmp_path / "run")
    path = tmp_path / "run/config.json"
    config = json.loads(path.read_text())
    (config["data"],) = config["data"]
    for name in ("weights", "mix_shards", "cache", "cache_gb", "init_from"):
        del config[name]
    path.write_text(json.dumps(config))
    options = ("--run", tmp_path / "run", "--data", pipeline / "latents/train", "--steps", 5)
    assert call("train_dynamics", "debug", *options) == 0
    assert len(losses(tmp_path / "run")) == 5


def test_the_debug_pipeline_has_more_than_one_shard(pipeline: Path) -> None:
    assert len({sample.shard for sample in Dataset.open(pipeline / "latents/train").samples}) > 1
