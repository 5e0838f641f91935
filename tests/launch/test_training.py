"""What the training commands share: latents that are stored or made as they are read, short and long clips."""

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from launch import checkpoint
from launch.train_agent import PRESETS as AGENTS
from launch.train_dynamics import PRESETS as DYNAMICS

Call = Callable[..., int]
Say = pytest.CaptureFixture[str]


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def newest(run: Path) -> Path:
    path = checkpoint.latest(run)
    assert path is not None
    return path


def weights(run: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in newest(run).glob("*.safetensors")}


def video(pipeline: Path) -> tuple[object, ...]:
    """Options: train from video."""
    return "--data", pipeline / "data/train", "--tokenizer", pipeline / "tokenizer"


def test_training_from_video_equals_training_from_latents_of_the_same_windows(
    pipeline: Path, tmp_path: Path, call: Call
) -> None:
    """Whole episodes, so that latents on the disk have no more past than those that are made here."""
    options = ("debug", "--length", 41, "--batch-size", 2)
    latents = ("--data", pipeline / "latents/train")
    assert call("train_dynamics", *options, *video(pipeline), "--run", tmp_path / "video") == 0
    assert call("train_dynamics", *options, *latents, "--run", tmp_path / "latents") == 0
    for one, other in zip(metrics(tmp_path / "video"), metrics(tmp_path / "latents"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=2e-3)
    described = [json.loads((newest(tmp_path / run) / "config.json").read_text()) for run in ("video", "latents")]
    assert described[0]["config"] == described[1]["config"]  # the tokenizer's fingerprint and the latents' shape, too


@pytest.mark.parametrize("stage", ["dynamics", "agent", "imagination"])
def test_a_run_on_video_with_short_and_long_clips_resumes_to_the_same_bits(
    pipeline: Path, tmp_path: Path, call: Call, stage: str
) -> None:
    start = {"dynamics": (), "agent": ("--dynamics", pipeline / "dynamics"), "imagination": ("--agent",)}[stage]
    start = (*start, pipeline / "agent") if stage == "imagination" else start
    lengths = ("--long-length", 20, "--long-share", 0.5, "--schedule", "constant")
    for run, steps in (("straight", 3), ("cut", 2), ("cut", 3)):
        options = ("debug", *video(pipeline), *start, *lengths, "--run", tmp_path / run, "--steps", steps)
        assert call(f"train_{stage}", *options) == 0
    assert weights(tmp_path / "cut") == weights(tmp_path / "straight")
    state = checkpoint.load_state(newest(tmp_path / "cut"))["stream"]["video"]
    assert state["batches"] == 3
    parts = [state[name]["first"] if stage == "agent" else state[name] for name in ("short", "long")]
    assert sum(part["batches"] for part in parts) == 3 and min(part["batches"] for part in parts) > 0


def test_a_long_step_has_about_the_frames_of_a_short_one(pipeline: Path, tmp_path: Path, call: Call) -> None:
    latents = ("--data", pipeline / "latents/train", "--long-share", 1, "--steps", 1)
    rows = {"dynamics": [], "agent": ["--dynamics", pipeline / "dynamics"]}
    expected = {"dynamics": 3, "agent": 1}  # 4 x 8 = 3 x 10 + 2 frames, and 4 x 10 = (1 + 1) x 20
    for stage, options in rows.items():
        length = 10 if stage == "dynamics" else 20
        run = ("--run", tmp_path / stage, "--long-length", length)
        assert call(f"train_{stage}", "debug", *latents, *options, *run) == 0
        state = checkpoint.load_state(newest(tmp_path / stage))["stream"]["long"]
        state = state["first"] if stage == "agent" else state
        assert (state["batch_size"], state["length"], state["batches"]) == (expected[stage], length, 1)


def test_clips_too_short_for_either_length_are_counted(pipeline: Path, tmp_path: Path, call: Call, capfd: Say) -> None:
    options = ("debug", "--data", pipeline / "latents/train", "--run", tmp_path, "--long-length", 42)
    assert call("train_dynamics", *options) == 1
    assert "has 42 frames: the longest of 4 has 41" in capfd.readouterr().err


def test_lengths_that_make_no_sense_are_refused_with_both_numbers() -> None:
    preset = DYNAMICS["debug"]
    with pytest.raises(ValueError, match="long_length=8 is not above length=8"):
        replace(preset, long_length=8)
    with pytest.raises(ValueError, match=r"long_length=6 is not above .* model.transformer.window=6"):
        replace(preset, length=4, long_length=6)
    with pytest.raises(ValueError, match=r"long_share=1.5 is not in \[0, 1\]"):
        replace(preset, long_share=1.5)
    with pytest.raises(ValueError, match="long_batch_size=0 must be at least 1"):
        replace(preset, long_batch_size=0)
    with pytest.raises(ValueError, match="long_batch_size=3 is odd"):
        replace(AGENTS["debug"], long_batch_size=3)


def test_a_window_that_no_clip_reaches_beyond_is_said_once(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say
) -> None:
    options = ("debug", "--data", pipeline / "latents/train", "--steps", 1, "--length", 6)
    assert call("train_dynamics", *options, "--run", tmp_path / "short") == 0
    assert capfd.readouterr().out.count("no clip is longer than the attention window (6 and 6 frames)") == 1
    assert call("train_dynamics", *options, "--run", tmp_path / "long", "--long-length", 7) == 0
    assert "attention window" not in capfd.readouterr().out
