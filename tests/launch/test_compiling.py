"""Compiled layers, and what is said where they cannot be."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_compiler
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.fx import GraphModule

from dynamics.world_model import WorldModel
from launch import checkpoint
from launch.compiling import SLOWER, compile_model, compiler, is_compiled
from launch.distributed import say_once
from launch.presets import MODELS

ROOT = Path(__file__).parents[2]
COMPILERS = ("c++", "g++", "clang++")
Call = Callable[..., int]
Say = pytest.CaptureFixture[str]

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


class Layer(nn.Linear):
    pass


class Other(nn.Linear):
    pass


class Stack(nn.Module):
    """Two kinds of layers, none of which carries the shape checks of the packages, which dynamo cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(Layer(3, 3), Other(3, 3), Layer(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out

    def compile_layers(self) -> None:
        for layer in self.layers:
            layer.compile(dynamic=False)


def compile_with(monkeypatch: pytest.MonkeyPatch, backend: Callable[..., Any]) -> Stack:
    """A stack that is compiled by dynamo and this backend."""
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    model = Stack()
    assert "compiling layer by layer" in compile_model(model)
    return model


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(model(x).square().sum(), list(model.parameters())))


def test_layers_that_the_compiler_fails_on_run_as_they_are_which_is_said_once_for_each_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled = []

    def backend(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        compiled.append(len(inputs))
        raise RuntimeError("no such kernel\nand so on")

    model, x = compile_with(monkeypatch, backend), torch.randn(2, 3)
    plain = Stack()
    plain.load_state_dict(model.state_dict())
    assert is_compiled(model)
    for _ in range(2):
        assert all(torch.equal(*pair) for pair in zip(gradients(model, x), gradients(plain, x), strict=True))
    said = capsys.readouterr().out
    assert said.count("failed (no such kernel): running uncompiled") == 2
    assert "compiling Layer failed" in said and "compiling Other failed" in said
    assert len(compiled) == 2 and not is_compiled(model)


def test_a_backward_pass_that_the_compiler_fails_on_is_found_out_in_the_forward_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        raise RuntimeError("no such kernel")

    backend = aot_autograd(fw_compiler=make_boxed_compiler(lambda graph, _: graph.forward), bw_compiler=fail)
    model, x = compile_with(monkeypatch, backend), torch.randn(2, 3)
    with torch.no_grad():
        model(x)
    assert is_compiled(model)
    assert all(gradient.abs().sum() > 0 for gradient in gradients(model, x))
    assert capsys.readouterr().out.count("failed (no such kernel)") == 2 and not is_compiled(model)


def test_only_the_kind_that_cannot_be_compiled_is_left_uncompiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def pretend(call: Callable[..., Any], **_: object) -> Callable[..., Any]:
        layer = call.__self__  # type: ignore[attr-defined]

        def run(x: Tensor) -> Tensor:
            ran.append(type(layer).__name__)
            if isinstance(layer, Other):
                raise RuntimeError("dynamo lost its way")
            out: Tensor = call(x)
            return out

        return run

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(torch, "compile", pretend)
    model = Stack()
    compile_model(model)
    for _ in range(2):
        model(torch.zeros(1, 3))
    assert ran == ["Layer", "Other", "Layer", "Layer", "Layer"]
    assert capsys.readouterr().out == f"compiling Other failed (dynamo lost its way): {SLOWER}\n"


def test_an_error_that_is_no_fault_of_the_compiler_is_raised_as_without_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    model = Stack()
    compile_model(model)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        model(torch.zeros(1, 4))
    assert is_compiled(model)
    monkeypatch.setattr(Layer, "forward", raising(torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(torch.OutOfMemoryError):
        model(torch.zeros(1, 3))
    assert is_compiled(model) and capsys.readouterr().out == ""


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


def test_where_torch_cannot_compile_at_all_it_says_so_and_runs_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(torch, "compile", raising(RuntimeError("Python 3.99+ not yet supported")))
    model = Stack()
    assert compile_model(model) == f"compiling failed (Python 3.99+ not yet supported): {SLOWER}"
    assert not is_compiled(model) and model(torch.zeros(1, 3)).shape == (1, 3)


@pytest.mark.parametrize("when", ["at once", "when it first runs"])
def test_a_training_whose_compiler_fails_goes_on_without_it_to_the_same_bits(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """It is run again, and then with --no-compile: all may take turns in one folder."""
    broken = raising(RuntimeError("no such kernel"))
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(torch, "compile", broken if when == "at once" else lambda *_, **__: broken)
    say_once.cache_clear()
    options = ("debug", "--data", pipeline / "data/train", "--tokenizer", pipeline / "tokenizer")
    for step, compiles in ((2, "--compile"), (3, "--compile"), (4, "--no-compile")):
        run = ("--run", tmp_path / "run", "--steps", step, "--schedule", "constant")
        assert call("train_dynamics", *options, *run, compiles) == 0
    said = capfd.readouterr().out
    if when == "at once":
        assert said.count(f"compiling failed (no such kernel): {SLOWER}") == 1  # by two commands in one process
    else:
        assert said.count("Layer failed (no such kernel)") == 2 * 2 * 2  # commands, models, kinds of layers
    straight = ("--run", tmp_path / "straight", "--steps", 4, "--schedule", "constant")
    assert call("train_dynamics", *options, *straight) == 0
    found, expected = (read_weights(tmp_path / run) for run in ("run", "straight"))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_an_evaluation_whose_compiler_fails_goes_on_without_it(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: raising(RuntimeError("no such kernel")))
    folders = {"held-out": "data/held_out", "tokenizer": "tokenizer", "dynamics": "dynamics"}
    given = [text for name, folder in folders.items() for text in (f"--{name}", pipeline / folder)]
    assert call("dream", "debug", "--run", tmp_path / "dream", *given, "--compile") == 0
    assert capfd.readouterr().out.count("Layer failed (no such kernel)") == 2
    found, expected = (json.loads((run / "dream.json").read_text()) for run in (tmp_path / "dream", pipeline / "dream"))
    assert found == expected


def read_weights(run: Path) -> dict[str, Tensor]:
    path = checkpoint.latest(run)
    assert path is not None
    return checkpoint.read_tensors(path / "model.safetensors")


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


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_compiled_layers_may_be_computed_again(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Computing again ends by an exception once all is there, which is no failure of the compiler."""
    monkeypatch.setenv("JAXTYPING_DISABLE", "1")
    options = ("debug", "--data", pipeline / "latents/train", "--precision", "fp32")
    for name, more in (("both", ("--compile", "--activation-checkpointing")), ("none", ())):
        command = [sys.executable, "-m", "launch.train_dynamics", *options, *more, "--run", tmp_path / name]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=250)
        assert done.returncode == 0 and "failed" not in done.stdout, done.stdout + done.stderr
    both, none = read_weights(tmp_path / "both"), read_weights(tmp_path / "none")
    for key in none:
        torch.testing.assert_close(both[key], none[key], rtol=1e-3, atol=1e-4)
