"""The study of labels: one training for each share, and numbers placed between no labels and all."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dynamics.world_model import WorldModel
from launch import checkpoint, study_actions
from launch.open_loop import open_loop
from launch.resampling import draw_clips
from launch.study_actions import PRESETS, place_between, plot
from launch.training import open_dataset
from tokenizer.records import LatentClip

Call = Callable[..., int]
Say = pytest.CaptureFixture[str]


def arguments(pipeline: Path, run: Path, *more: object) -> list[object]:
    folders = {
        "held-out": "data/held_out",
        "tokenizer": "tokenizer",
        "training.data": "latents/train",
    }
    given = [text for name, folder in folders.items() for text in (f"--{name}", pipeline / folder)]
    return ["debug", "--run", run, *given, "--training.steps", 2, *more]


def weights(run: Path) -> dict[str, Tensor]:
    path = checkpoint.latest(run)
    assert path is not None
    return checkpoint.read_tensors(path / "model.safetensors")


@pytest.fixture(scope="module")
def studied(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.launch.conftest import call_command

    run = tmp_path_factory.mktemp("studied") / "study"
    assert call_command("study_actions", *arguments(pipeline, run, "--shares", 1, 0, 0.5)) == 0
    return run


def test_each_share_is_a_run_of_its_own_that_knows_its_share(studied: Path) -> None:
    for share, name in ((0.0, "share_0"), (0.5, "share_0.5"), (1.0, "share_1")):
        config = json.loads((studied / name / "config.json").read_text())
        assert config["labeled_share"] == share and config["loop"]["steps"] == 2
        path = checkpoint.latest(studied / name)
        assert path is not None and checkpoint.load_state(path)["stream"]["labeled_share"] == share


def test_without_labels_a_model_learns_nothing_of_actions_and_with_all_it_is_the_usual_one(
    studied: Path, pipeline: Path, tmp_path: Path, call: Call
) -> None:
    straight = ("--run", tmp_path / "run", "--data", pipeline / "latents/train", "--steps", 2)
    assert call("train_dynamics", "debug", *straight) == 0
    usual, every, none = (weights(run) for run in (tmp_path / "run", studied / "share_1", studied / "share_0"))
    assert all(torch.equal(usual[name], every[name]) for name in usual)
    assert any(not torch.equal(none[name], every[name]) for name in usual)


def test_numbers_are_in_the_order_of_the_shares_and_say_how_many_episodes_had_labels(studied: Path) -> None:
    numbers = json.loads((studied / "study_actions.json").read_text())
    assert list(numbers["shares"]) == list(numbers["made_by"]) == ["0", "0.5", "1"]
    labeled = [row["labeled_episodes"] for row in numbers["shares"].values()]
    assert labeled[0] == 0 and labeled[2] == numbers["episodes"] == 4 and 0 <= labeled[1] <= 4
    for row in numbers["shares"].values():
        assert 0 < row["psnr"]["mean"] < 100 and row["ssim"]["ci95"][0] <= row["ssim"]["mean"] <= 1


def test_run_again_nothing_is_trained_or_measured_and_the_plot_is_made_of_the_numbers(
    studied: Path, pipeline: Path, call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_actions, "measure", lambda *_: pytest.fail("measured again"))
    (studied / "study_actions.png").unlink()
    assert call("study_actions", *arguments(pipeline, studied, "--shares", 0, 0.5, 1)) == 0
    assert capfd.readouterr().out.count("already done") == 4
    with Image.open(studied / "study_actions.png") as picture:
        assert min(picture.size) > 64


def test_the_model_without_labels_is_given_no_actions(
    studied: Path, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(PRESETS["debug"], run=studied, held_out=pipeline / "data/held_out")
    config = replace(config, tokenizer=pipeline / "tokenizer")
    seen: list[tuple[bool, bool]] = []

    def watched(world: WorldModel, context: LatentClip, actions: Tensor, *, seed: int, labeled: bool) -> Tensor:
        seen.append((bool(context.labeled.any()), labeled))
        return open_loop(world, context, actions, seed=seed, labeled=labeled)

    monkeypatch.setattr(study_actions, "open_loop", watched)
    held_out = open_dataset(config.held_out, "frames")
    for share in (0.0, 0.5):
        assert study_actions.measure(config, held_out, share).keys() == {"psnr", "ssim"}
    assert seen == [(False, False)] * 2 + [(True, True)] * 2


def test_a_share_is_placed_between_no_labels_and_all() -> None:
    none, every = np.array([10.0, 12.0, 11.0]), np.array([20.0, 22.0, 21.0])
    draws = draw_clips([0, 1, 2])
    placed = place_between(none + 7.5, none, every, draws)
    assert len(placed) > 100 and placed == pytest.approx(0.75)
    assert place_between(every, none, every, draws) == pytest.approx(1.0)
    assert not np.isfinite(place_between(every, none, none, draws)).any()


def test_where_labels_change_nothing_there_is_no_way_to_place_on(tmp_path: Path, capfd: Say) -> None:
    row = {"mean": 20.0, "ci95": [19.0, 21.0], "way": None}
    shares = {name: {"labeled_episodes": 0, "psnr": row, "ssim": row} for name in ("0", "1")}
    numbers = {"clips": 2, "context": 4, "horizon": 16, "episodes": 4, "shares": shares}
    study_actions.show(numbers)
    plot(numbers, tmp_path)
    assert "-" in capfd.readouterr().out and (tmp_path / "study_actions.png").exists()


def test_a_study_needs_both_ends(pipeline: Path, tmp_path: Path, call: Call, capfd: Say) -> None:
    for shares in ((0, 0.1), (0.1, 1), (0, 1, 2)):
        assert call("study_actions", *arguments(pipeline, tmp_path / "run", "--shares", *shares)) == 2
        assert "must hold 0 and 1" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
