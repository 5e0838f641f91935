"""The whole path, at debug size: what it promises is there, it goes on where it was cut, and does nothing twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launch import checkpoint
from launch.curves import read_metrics
from launch.demo import PRESETS as DEMOS
from tokenizer.shard_format import INDEX
from tokenizer.shards import Dataset
from tokenizer.video import decode_video

ROOT = Path(__file__).parents[2]
TRAINED = ("tokenizer", "dynamics", "agent", "imagination")
Call = Callable[..., int]


def digests(folder: Path, pattern: str = "*") -> dict[str, str]:
    files = [path for path in folder.rglob(pattern) if path.is_file()]
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}


def weights(run: Path) -> dict[str, str]:
    """Of the newest checkpoint: what was learned, bit for bit."""
    path = checkpoint.latest(run)
    assert path is not None
    return digests(path, "*.safetensors")


def dynamics(pipeline: Path, run: Path, *changes: object) -> list[object]:
    """Arguments that train a small world model into `run`."""
    return ["debug", "--run", run, "--data", pipeline / "latents/train", "--schedule", "constant", *changes]


def test_every_agent_has_its_scores_in_the_one_shape(pipeline: Path) -> None:
    results = json.loads((pipeline / "results.json").read_text())
    assert list(results) == ["random", "dataset", "cloned", "imagined"]
    assert results == json.loads((pipeline / "evaluation/results.json").read_text())
    for row in results.values():
        assert row.keys() == {"mean", "std", "ci95", "tracks", "scores"}
        assert row["tracks"] == len(row["scores"]) > 0
        assert row["mean"] == pytest.approx(np.mean(row["scores"]))
        assert row["ci95"][0] <= row["mean"] <= row["ci95"][1]


def test_dreams_have_a_curve_over_the_horizon_and_say_what_made_them(pipeline: Path) -> None:
    numbers = json.loads((pipeline / "dream/dream.json").read_text())
    assert {"dream", "shuffled", "repeat_recon", "repeat_real", "reconstruction"} == numbers["psnr"].keys()
    assert all(len(curve) == 8 and np.isfinite(curve).all() for curve in numbers["psnr"].values())
    assert numbers["reconstruction_psnr"] == pytest.approx(np.mean(numbers["psnr"]["reconstruction"]))
    assert numbers["made_by"]["dynamics"].startswith("step_00000004-")


@pytest.mark.parametrize("path", ["dream/dream.mp4", *(f"evaluation/videos/{a}.mp4" for a in ("random", "imagined"))])
def test_videos_play(pipeline: Path, path: str) -> None:
    frames = decode_video((pipeline / path).read_bytes(), 0, 8)
    assert frames.shape[:2] == (8, 3)
    assert frames.std() > 0


@pytest.mark.parametrize(
    "path", ["curves.png", "dream/dream_psnr.png", "dream/dream_strip.png", "tokenizer/reconstructions.png"]
)
def test_pictures_open(pipeline: Path, path: str) -> None:
    with Image.open(pipeline / path) as picture:
        assert min(picture.convert("RGB").size) > 64


def test_datasets_read_back_and_share_their_episodes(pipeline: Path) -> None:
    for part in ("train", "held_out"):
        video, latents = Dataset.open(pipeline / "data" / part), Dataset.open(pipeline / "latents" / part)
        assert [(s.key, s.length) for s in video.samples] == [(s.key, s.length) for s in latents.samples]
        assert latents.meta.kind == "latents" and len(latents.meta.tokenizer) == 16
        shown, hidden = video.read_window(0, 0, 10), latents.read_window(0, 0, 10)
        assert shown.actions.equal(hidden.actions) and shown.rewards.equal(hidden.rewards)


@pytest.mark.parametrize("name", TRAINED)
def test_a_trained_run_has_its_checkpoint_config_metrics_and_curves(pipeline: Path, name: str) -> None:
    run = pipeline / name
    steps = json.loads((run / "config.json").read_text())["loop"]["steps"]
    path = checkpoint.latest(run)
    assert path is not None and path.name == f"step_{steps:08d}"
    lines = read_metrics(run)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, steps + 1))
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)
    assert list((run / "logs").rglob("events*"))


def test_every_stage_has_its_time(pipeline: Path) -> None:
    assert list(json.loads((pipeline / "timings.json").read_text())) == list(DEMOS["debug"].stages)


@pytest.mark.usefixtures("stages_in_process")
def test_run_again_every_stage_is_done_already_and_nothing_changes(
    pipeline: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "moved"
    shutil.copytree(pipeline, run)
    before = digests(run)
    assert call("demo", "debug", "--run", run) == 0
    said = capfd.readouterr().out.split("python -m launch.")[1:]
    assert len(said) == len(DEMOS["debug"].stages)
    assert [text.split()[0] for text in said if "already done" not in text] == []
    changed = {name for name, digest in digests(run).items() if before.get(name) != digest}
    assert {Path(name).name for name in changed} <= {"timings.json", "lock", "config.json", "curves.png"}


@pytest.mark.slow
@pytest.mark.usefixtures("stages_in_process")
def test_what_is_lost_is_made_again_to_the_same_bits(pipeline: Path, tmp_path: Path, call: Call) -> None:
    run = tmp_path / "run"
    shutil.copytree(pipeline, run, ignore=lambda folder, _: ["agent", "imagination", "evaluation", "results.json"])
    (run / "latents/train/shard-000001.tar").unlink()
    (run / "latents/train/index.json").unlink()
    shutil.rmtree(run / "dynamics/checkpoints/step_00000004")
    assert call("demo", "debug", "--run", run) == 0
    assert digests(run / "latents", "*.tar") == digests(pipeline / "latents", "*.tar")
    for name in TRAINED:
        assert weights(run / name) == weights(pipeline / name), name
    mine, other = (json.loads((folder / "results.json").read_text()) for folder in (run, pipeline))
    assert mine == other


def test_a_run_that_is_cut_and_raised_to_more_steps_equals_a_straight_one(
    pipeline: Path, tmp_path: Path, call: Call
) -> None:
    assert call("train_dynamics", *dynamics(pipeline, tmp_path / "straight")) == 0
    assert call("train_dynamics", *dynamics(pipeline, tmp_path / "cut", "--steps", 2)) == 0
    assert call("train_dynamics", *dynamics(pipeline, tmp_path / "cut", "--steps", 4)) == 0
    assert weights(tmp_path / "cut") == weights(tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_training_process_that_is_ended_at_any_point_goes_on_to_the_same_bits(
    pipeline: Path, tmp_path: Path, call: Call, number: signal.Signals
) -> None:
    """Ctrl-C reaches every process of the terminal, so the data workers get it too."""
    options = ("--steps", 60, "--save-every", 10, "--num-workers", 2)
    arguments = dynamics(pipeline, tmp_path / "ended", *options)
    command = [sys.executable, "-m", "launch.train_dynamics", *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and checkpoint.latest(tmp_path / "ended") is None:
            time.sleep(0.005)
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130)
    assert "Traceback" not in said
    path = checkpoint.latest(tmp_path / "ended")
    assert path is not None and path.name != "step_00000060"
    assert call("train_dynamics", *arguments) == 0
    assert call("train_dynamics", *dynamics(pipeline, tmp_path / "straight", *options, "--num-workers", 0)) == 0
    assert weights(tmp_path / "ended") == weights(tmp_path / "straight")


def test_an_agent_is_told_one_task_and_scored_by_another(
    pipeline: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    """What it is told must be a task of its data; what it is scored by, one of the environment's."""
    folders = {"data": "data/train", "tokenizer": "tokenizer", "cloned": "agent", "imagined": "imagination"}
    options = ["debug", "--run", tmp_path, *(t for n, to in folders.items() for t in (f"--{n}", pipeline / to))]
    assert call("evaluate", *options, "--agents", "cloned", "--task", "cruise", "--told", "drive") == 0
    results = json.loads((tmp_path / "results_cruise_told_drive.json").read_text())
    assert results["cloned"]["mean"] >= 0  # by driving, standing still costs
    capfd.readouterr()
    assert call("evaluate", *options, "--agents", "cloned", "--told", "cruise") == 1
    assert "task 'cruise' is none of the tasks of" in " ".join(capfd.readouterr().err.split())

    shutil.copytree(pipeline / "data/train", other := tmp_path / "other")
    index = json.loads((other / INDEX).read_text())
    (other / INDEX).write_text(json.dumps({**index, "tasks": ["cruise", "drive"]}))
    for told, number in {"cruise": 0, "drive": 1}.items():
        assert call("evaluate", *options, "--agents", "cloned", "--told", told, "--data", other) == 1
        complaint = " ".join(capfd.readouterr().err.split())
        assert f"'{told}' is task {number} of {other}, and the agent in" in complaint
        assert "was trained for the tasks drive: give the data" in complaint
