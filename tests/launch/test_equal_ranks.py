"""A step is the same on one process and on several: its noise, its kinds of rows, its gradient, what it learns."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from launch import checkpoint
from tests.launching import accelerate, no_rank, run_command

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def launch(out: Path, data: Path, *, config: str | None, rows: int, parts: int) -> Path:
    """Without a config on one process, else on two."""
    command = [sys.executable] if config is None else accelerate(config=config)
    script = Path(__file__).with_name("equal_ranks.py")
    run_command([*command, script, out, data, rows, parts], env={**no_rank(), "PYTHONPATH": str(ROOT)})
    return out


@pytest.fixture(scope="module")
def alone(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    return launch(out, pipeline / "latents/train", config=None, rows=8, parts=1)


@pytest.mark.parametrize(
    ("config", "rows", "parts"),
    [
        (None, 4, 2),
        ("ddp", 4, 1),
        ("ddp", 2, 2),
        ("fsdp", 4, 1),
        ("fsdp", 2, 2),
        ("zero1", 4, 1),
        ("zero1_offload", 4, 1),
        ("zero2", 4, 1),
        ("zero2", 2, 2),
        ("zero2_offload", 2, 2),
        ("zero3", 4, 1),
        ("zero3", 2, 2),
        ("zero3_offload", 4, 1),
    ],
)
def test_processes_and_parts_with_fewer_rows_each_learn_the_same(
    pipeline: Path, tmp_path: Path, alone: Path, config: str | None, rows: int, parts: int
) -> None:
    if config is not None and config.startswith("zero"):
        pytest.importorskip("deepspeed")
    made = launch(tmp_path / "run", pipeline / "latents/train", config=config, rows=rows, parts=parts)
    one, other = (load_file(folder / "gradients.safetensors") for folder in (alone, made))
    assert one.keys() == other.keys() and len(one) >= 4 * 20
    assert_close(other, one, rtol=1e-5)
    assert sum(float(gradient.abs().sum()) > 0 for gradient in one.values()) > 0.9 * len(one)
    for name in ("model", "ema", "optimizer"):
        before, after = (
            load_file(checkpoint.latest(folder) / f"{name}.safetensors")  # type: ignore[operator]
            for folder in (alone, made)
        )
        assert_close(after, before, rtol=1e-5)
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (alone, made)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and len(losses[0]) == 4


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], *, rtol: float) -> None:
    """Each tensor relative to its largest element."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        scale = float(tensor.abs().max()) if tensor.numel() else 0.0
        torch.testing.assert_close(found[name], tensor, rtol=rtol, atol=rtol * max(scale, 1e-6))
