"""Every command under `accelerate launch` with two processes on this machine, joined by gloo where there is no GPU."""

import json
import re
from hashlib import sha256
from pathlib import Path

import pytest

from launch import checkpoint
from tests.launching import accelerate, run_command
from tokenizer.shards import Dataset

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def launch(*arguments: object, code: int = 0) -> str:
    """What two processes of a command say, on stdout and stderr together."""
    return run_command([*accelerate(), "-m", *arguments], code=code)


def weights(run: Path) -> dict[str, str]:
    path = checkpoint.latest(run)
    assert path is not None
    return {file.name: sha256(file.read_bytes()).hexdigest() for file in path.glob("*.safetensors")}


SCRATCH = "agent --from-scratch --model.learns policy"


@pytest.mark.parametrize("stage", ["tokenizer", "dynamics", "agent", SCRATCH, "imagination"])
def test_a_model_trains_on_two_ranks_with_one_log_and_one_checkpoint_and_resumes_exactly(
    pipeline: Path, tmp_path: Path, stage: str
) -> None:
    stage, *options = stage.split()
    inputs = {
        "tokenizer": {"data": "data/train", "held-out": "data/held_out"},
        "dynamics": {"data": "latents/train"},
        "agent": {"data": "latents/train", "dynamics": "dynamics"},
        "imagination": {"data": "latents/train", "agent": "agent"},
    }[stage]
    folders = [text for name, folder in inputs.items() for text in (f"--{name}", str(pipeline / folder))]
    command = (f"launch.train_{stage}", "debug", *folders, *options, "--schedule", "constant")
    straight = launch(*command, "--run", tmp_path / "straight", "--steps", 4)
    assert straight.count("starting at step 1 of 4") == 1
    assert straight.count("step 4/4") == 1
    assert straight.count("perceptual loss:") <= 1
    launch(*command, "--run", tmp_path / "cut", "--steps", 2)
    resumed = launch(*command, "--run", tmp_path / "cut", "--steps", 4)
    assert resumed.count("resuming at step 3 of 4") == 1
    assert "warning" not in resumed.replace("To avoid this warning", "")

    for run in (tmp_path / "straight", tmp_path / "cut"):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
        path = checkpoint.latest(run)
        assert path is not None and path.name == "step_00000004"
        stream = checkpoint.load_state(path)["stream"]
        assert all(part["world_size"] == 2 for part in (stream.values() if stage == "agent" else [stream]))
    assert weights(tmp_path / "cut") == weights(tmp_path / "straight")


@pytest.mark.parametrize("stage", ["collect", "dream", "evaluate"])
def test_a_stage_that_one_process_does_is_done_once(pipeline: Path, tmp_path: Path, stage: str) -> None:
    tokenizer, out = ("--tokenizer", pipeline / "tokenizer"), tmp_path / "out"
    arguments: dict[str, tuple[object, ...]] = {
        "collect": ("--out", out),
        "dream": (*tokenizer, "--held-out", pipeline / "data/held_out", "--run", out)
        + ("--dynamics", pipeline / "dynamics"),
        "evaluate": (*tokenizer, "--data", pipeline / "data/train", "--agents", "random", "cloned", "--run", out)
        + ("--cloned", pipeline / "agent"),
    }
    said = launch(f"launch.{stage}", "debug", *arguments[stage])
    last = {
        "collect": "held_out: 2 episodes",
        "dream": "videos, pictures and numbers in",
        "evaluate": "results in",
    }[stage]
    assert said.count(last) == 1
    if stage == "collect":
        assert len(Dataset.open(out / "train")) == 4


def test_ranks_encode_together_what_one_process_would_with_one_log(pipeline: Path, tmp_path: Path) -> None:
    folders = ("--tokenizer", pipeline / "tokenizer", "--data", pipeline / "data", "--out", tmp_path)
    said = launch("launch.encode_latents", "debug", *folders)
    # A rank that starts late finds shards that the other has finished: it counts what was missing when it came.
    place = re.escape(str(tmp_path))
    assert len(re.findall(rf"{place}: [123] shards, \d+ frames in |already done: {place}", said)) == 1
    for part in ("train", "held_out"):
        made, expected = tmp_path / part, pipeline / "latents" / part
        assert sorted(path.name for path in made.iterdir()) == sorted(path.name for path in expected.iterdir())
        for path in expected.glob("*.*"):
            assert (made / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("stage", ["dynamics", "agent"])
def test_ranks_train_on_video_with_long_clips_and_resume_exactly(pipeline: Path, tmp_path: Path, stage: str) -> None:
    video = ("--data", pipeline / "data/train", "--tokenizer", pipeline / "tokenizer", "--schedule", "constant")
    start = () if stage == "dynamics" else ("--dynamics", pipeline / "dynamics")
    command = (f"launch.train_{stage}", "debug", *video, *start, "--long-length", 20, "--long-share", 0.5)
    launch(*command, "--run", tmp_path / "straight", "--steps", 3)
    launch(*command, "--run", tmp_path / "cut", "--steps", 2)
    launch(*command, "--run", tmp_path / "cut", "--steps", 3)
    assert weights(tmp_path / "cut") == weights(tmp_path / "straight")


def test_an_error_that_all_processes_meet_is_said_once(tmp_path: Path) -> None:
    said = launch("launch.train_dynamics", "debug", "--data", tmp_path, "--run", tmp_path / "run", code=1)
    assert said.count("error: ") == 1 and f"{tmp_path} is no dataset" in said


def test_the_demo_starts_its_own_processes_and_refuses_a_launcher(tmp_path: Path) -> None:
    said = launch("launch.demo", "debug", "--run", tmp_path / "run", code=1)
    assert "starts processes of its own: run it with `python -m launch.demo`" in said
    assert not (tmp_path / "run").exists()
