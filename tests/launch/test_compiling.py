"""Compiled layers, and what is said where they cannot be."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dynamics.world_model import WorldModel
from launch.compiling import compile_model
from launch.presets import MODELS

ROOT = Path(__file__).parents[2]
COMPILERS = ("c++", "g++", "clang++")

COMPARE = """
import json, torch
from dataclasses import replace
from dynamics.world_model import WorldModel
from launch.compiling import compile_model
from launch.presets import MODELS

torch.manual_seed(0)
world = WorldModel(MODELS["debug"].dynamics)
torch.nn.init.normal_(world.latent_head.weight)
noisy, actions, labeled = torch.randn(2, 5, 16, 32), torch.rand(2, 5, 1), torch.ones(2, 5, dtype=torch.bool)

def run():
    world.zero_grad()
    out, _ = world.denoise(noisy, world.context_grid((2, 5)), actions, labeled)
    out.square().mean().backward()
    return out.detach(), {name: p.grad.clone() for name, p in world.named_parameters() if p.grad is not None}

eager, eager_grads = run()
said = compile_model(world)
compiled, grads = run()
assert grads.keys() == eager_grads.keys()
print(json.dumps({
    "said": said,
    "frames": torch._dynamo.utils.counters["frames"]["ok"],
    "scale": eager.abs().max().item(),
    "difference": (compiled - eager).abs().max().item(),
    "gradient": max((grads[n] - g).abs().max().item() / (g.abs().max().item() + 1e-6) for n, g in eager_grads.items()),
}))
"""


def test_without_a_compiler_it_says_so_and_runs_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    world = WorldModel(MODELS["debug"].dynamics)
    monkeypatch.setattr(world, "compile_layers", lambda: pytest.fail("compiled"))
    said = compile_model(world)
    assert "no C++ compiler" in said and "install one" in said


def test_a_model_without_layers_to_compile_runs_as_it_is() -> None:
    assert compile_model(nn.Linear(2, 2)) == "Linear has no layers to compile: it runs as it is"


@pytest.mark.slow
@pytest.mark.skipif(
    not torch.cuda.is_available() and not any(map(shutil.which, COMPILERS)), reason="no C++ compiler is installed"
)
def test_compiled_layers_give_the_outputs_and_gradients_of_eager_ones(tmp_path: Path) -> None:
    """In a process of its own: dynamo cannot trace through the checks of shapes that tests switch on."""
    env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "JAXTYPING_DISABLE": "1"}
    command = [sys.executable, "-c", COMPARE]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert "compiling layer by layer" in result["said"]
    assert result["frames"] > 0
    assert result["difference"] < 1e-4 * result["scale"]
    assert result["gradient"] < 1e-3
