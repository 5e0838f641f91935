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
from dynamics.simulator import Simulator
from dynamics.world_model import WorldModel
from launch.compiling import compile_model
from launch.presets import MODELS
from tokenizer.records import LatentClip

torch.manual_seed(0)
world = WorldModel(MODELS["debug"].dynamics)
torch.nn.init.normal_(world.latent_head.weight)
noisy, actions, labeled = torch.randn(2, 5, 16, 32), torch.rand(2, 5, 1), torch.ones(2, 5, dtype=torch.bool)

def run():
    world.zero_grad()
    out, _ = world.denoise(noisy, world.context_grid((2, 5)), actions, labeled)
    out.square().mean().backward()
    return out.detach(), {name: p.grad.clone() for name, p in world.named_parameters() if p.grad is not None}

def dreamt():
    simulator = Simulator(world, agent_tokens=torch.ones(2, 1, 32), generator=torch.Generator().manual_seed(0))
    t = labeled.shape[1]
    simulator.reset(LatentClip(
        latents=noisy.tanh(), actions=actions, labeled=labeled, rewards=torch.zeros(2, t), continues=labeled,
        is_first=~labeled, task=torch.zeros(2, dtype=torch.int64),
    ))
    step = simulator.step(actions[:, 0]).latents
    return torch.cat([step.unsqueeze(1), simulator.dream(actions[:, :3])[0]], dim=1)

eager, eager_grads = run()
eager_dream = dreamt()
said = compile_model(world)
compiled, grads = run()
dream = dreamt()
assert (eager_dream[:, 1:] - eager_dream[:, :-1]).abs().max() > 0.01
assert grads.keys() == eager_grads.keys()
print(json.dumps({
    "said": said,
    "frames": torch._dynamo.utils.counters["frames"]["ok"],
    "scale": eager.abs().max().item(),
    "difference": (compiled - eager).abs().max().item(),
    "dream": (dream - eager_dream).abs().max().item(),
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
    assert result["dream"] < 1e-3  # latents are in (-1, 1)
