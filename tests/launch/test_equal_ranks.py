"""A step is the same on one process and on several: its noise, its kinds of rows, its gradient, what it learns."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launch import checkpoint
from tests.launching import accelerate, no_rank

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def launch(out: Path, data: Path, *, processes: int, rows: int, parts: int) -> Path:
    command = accelerate(processes) if processes > 1 else [sys.executable]
    done = subprocess.run(
        [*command, str(Path(__file__).with_name("equal_ranks.py")), str(out), str(data), str(rows), str(parts)],
        cwd=ROOT,
        env={**no_rank(), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout
    return out


@pytest.fixture(scope="module")
def alone(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    return launch(out, pipeline / "latents/train", processes=1, rows=8, parts=1)


@pytest.mark.parametrize(("processes", "rows", "parts"), [(2, 4, 1), (1, 4, 2), (2, 2, 2)])
def test_processes_and_parts_with_fewer_rows_each_learn_the_same(
    pipeline: Path, tmp_path: Path, alone: Path, processes: int, rows: int, parts: int
) -> None:
    run = launch(tmp_path / "run", pipeline / "latents/train", processes=processes, rows=rows, parts=parts)
    one, other = (load_file(folder / "gradients.safetensors") for folder in (alone, run))
    assert one.keys() == other.keys() and len(one) >= 4 * 20
    for name in one:
        scale = float(one[name].abs().max())
        torch.testing.assert_close(other[name], one[name], rtol=1e-5, atol=1e-5 * max(scale, 1e-6))
    assert sum(float(gradient.abs().sum()) > 0 for gradient in one.values()) > 0.9 * len(one)
    weights = [load_file(checkpoint.latest(folder) / "model.safetensors") for folder in (alone, run)]  # type: ignore[operator]
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], rtol=1e-5, atol=1e-6)
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (alone, run)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and len(losses[0]) == 4
