import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from launch import checkpoint
from launch.distributed import make_accelerator
from launch.ema import Ema
from launch.loop import LoopConfig, train
from launch.optimizers import learning_rate, make_optimizers
from tests.launching import accelerate
from tokenizer.draws import Rows, repeats

HERE = Path(__file__).parent


def load_tiny() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny", HERE / "tiny.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = load_tiny()
CONFIG: dict[str, Any] = {"steps": 10, "warmup_steps": 3, "log_every": 1, "save_every": 3, "ema_decay": 0.9}


def fit(
    run: Path, model: nn.Module | None = None, *, die_after: int = 10**9, evaluate: Any = None, **changes: Any
) -> nn.Module:
    torch.manual_seed(0)
    model = model or tiny.TinyModel()
    config = LoopConfig(**(CONFIG | changes))
    accelerator = make_accelerator(config.precision, run)
    stream = tiny.TinyStream(die_after=die_after)
    train(model, stream, config, run, accelerator=accelerator, evaluate=evaluate, evaluate_every=4 if evaluate else 0)
    return model


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("updates", [1, 3])
@pytest.mark.usefixtures("bf16_anywhere")
def test_a_killed_run_resumes_to_the_same_bits(
    tmp_path: Path, optimizer: Literal["adamw", "muon"], precision: Literal["fp32", "bf16"], updates: int
) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    same: dict[str, Any] = {"optimizer": optimizer, "precision": precision, "updates": updates}
    fit(straight, **same)
    with pytest.raises(RuntimeError, match="killed"):
        fit(killed, **same, die_after=8)
    assert [path.name for path in (killed / "checkpoints").iterdir() if "6" in path.name] == ["step_00000006"]
    assert metrics(killed)[-1]["step"] == 8
    fit(killed, **same)

    for name in ("model", "ema", "optimizer"):
        files = [load_file(run / "checkpoints" / "step_00000010" / f"{name}.safetensors") for run in (straight, killed)]
        assert files[0].keys() == files[1].keys()
        assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])
    assert [(m["step"], m["loss"], m["grad_norm"]) for m in metrics(straight)] == [
        (m["step"], m["loss"], m["grad_norm"]) for m in metrics(killed)
    ]


class Listening(nn.Module):
    """Notes of each call which batch it was, and what the rows say of it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.heard: list[tuple[int, bool, bool]] = []

    def forward(self, batch: Any, generator: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        first = int(batch.frames.sum())
        self.heard.append((first, generator.begins_step, repeats(generator)))
        return self.weight.square().sum(), {"calls": torch.tensor(len(self.heard))}


def test_several_updates_are_made_from_each_batch_and_the_first_is_logged(tmp_path: Path) -> None:
    model = Listening()
    fit(tmp_path, model, steps=2, updates=3)
    one, two = (int(tiny.clip(index, 4).frames.sum()) for index in (1, 2))
    step = [(True, False), (False, True), (False, True)]
    assert model.heard == [(batch, *kind) for batch in (one, two) for kind in step]
    assert [line["calls"] for line in metrics(tmp_path)] == [1, 4]
    with pytest.raises(ValueError, match="accumulate=2 and updates=3"):
        LoopConfig(accumulate=2, updates=3)


def test_training_lowers_the_loss_and_says_how_fast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, tiny.TinyModel(noise=0), steps=60, learning_rate=1e-2)
    first, *_, last = metrics(tmp_path)
    assert last["error"] < first["error"] / 2
    assert last["frames_per_second"] == pytest.approx(12 * last["steps_per_second"])
    assert last["seconds"] > first["seconds"] > 0
    said = capsys.readouterr().out
    assert "step 60/60" in said and "frames/s" in said
    assert list((tmp_path / "logs").rglob("events*"))


def test_a_finished_run_says_that_it_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, steps=3)
    before = (tmp_path / "metrics.jsonl").read_text()
    fit(tmp_path, steps=3)
    assert "already done" in capsys.readouterr().out
    assert (tmp_path / "metrics.jsonl").read_text() == before
    fit(tmp_path, steps=4)
    assert metrics(tmp_path)[-1]["step"] == 4


def test_a_frozen_parameter_stays_and_is_not_optimised_but_is_saved(tmp_path: Path) -> None:
    assert torch.equal(fit(tmp_path, steps=3, weight_decay=0.5).frozen, torch.ones(3))
    path = checkpoint.latest(tmp_path)
    assert path is not None
    assert "frozen" in load_file(path / "model.safetensors")
    assert not [key for key in load_file(path / "optimizer.safetensors") if key.startswith("frozen")]
    assert load_file(path / "model.safetensors")["scale"] != 1


class Breaking(nn.Module):
    """Its loss, or only its gradient, stops being finite at the fifth call."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))
        self.where, self.calls = where, 0

    def forward(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls += 1
        loss = self.weight.square().mean()
        if self.calls == 5:
            loss = loss * math.nan if self.where == "loss" else loss + (self.weight * 0).abs().sqrt().sum()
        return loss, {"size": self.weight.detach().norm()}


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tmp_path: Path, where: str) -> None:
    model, same = Breaking(where), Breaking(where)
    with pytest.raises(ValueError, match=r"not finite at step 5 \(loss=.*size=.*step_00000003"):
        fit(tmp_path, model)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "other", same, die_after=4)
    assert torch.equal(model.weight, same.weight)
    assert metrics(tmp_path)[-1]["step"] == 4


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_run_finishes_its_step_saves_and_exits(tmp_path: Path, number: int, code: int) -> None:
    model = tiny.TinyModel()
    model.register_forward_hook(lambda *_: os.kill(os.getpid(), number) if model.calls == 5 else None)
    model.register_forward_pre_hook(lambda *_: setattr(model, "calls", getattr(model, "calls", 0) + 1))
    with pytest.raises(SystemExit) as caught:
        fit(tmp_path, model)
    assert caught.value.code == code
    path = checkpoint.latest(tmp_path)
    assert path is not None and path.name == "step_00000005"
    fit(tmp_path)
    fit(tmp_path / "straight")
    ends = [load_file(run / "checkpoints/step_00000010/model.safetensors") for run in (tmp_path, tmp_path / "straight")]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_evaluation_sees_the_averaged_weights_and_leaves_the_others(tmp_path: Path) -> None:
    seen: dict[int, Tensor] = {}

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        assert not model.training
        seen[step] = model.body.weight.detach().clone()  # type: ignore[union-attr, operator]
        return {"score": float(step)}

    model = fit(tmp_path, evaluate=evaluate)
    assert list(seen) == [4, 8, 10]
    assert model.training
    assert torch.equal(seen[10], load_file(tmp_path / "checkpoints/step_00000010/ema.safetensors")["body.weight"])
    assert not torch.equal(seen[10], model.body.weight)  # type: ignore[arg-type]
    assert [m["score"] for m in metrics(tmp_path) if "score" in m] == [4, 8, 10]


def test_the_average_follows_the_weights_at_its_decay() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = Ema(model, decay=0.75)
    nn.init.ones_(model.weight)
    ema.update(model, step=1000)
    assert ema.weights["weight"].item() == 0.25
    ema.update(model, step=1000)
    assert ema.weights["weight"].item() == 1 - 0.75**2


def test_without_a_decay_there_is_no_average(tmp_path: Path) -> None:
    fit(tmp_path, steps=3, ema_decay=0.0)
    assert not (tmp_path / "checkpoints/step_00000003/ema.safetensors").exists()


def test_the_learning_rate_rises_to_its_peak_and_falls_to_a_tenth() -> None:
    config = LoopConfig(steps=110, warmup_steps=10, learning_rate=1.0)
    assert [learning_rate(step, config) for step in (1, 5, 10)] == [0.1, 0.5, 1.0]
    assert learning_rate(60, config) == pytest.approx(0.55)
    assert learning_rate(110, config) == pytest.approx(0.1)
    assert learning_rate(90, LoopConfig(schedule="constant", learning_rate=1.0, warmup_steps=0)) == 1.0


def test_only_matrices_decay_and_muon_takes_the_hidden_ones() -> None:
    model = tiny.TinyModel()
    (adamw,) = make_optimizers(model, LoopConfig(weight_decay=0.1))
    decayed, rest = adamw.param_groups
    assert [p.ndim for p in decayed["params"]] == [2, 2] and decayed["weight_decay"] == 0.1
    assert [p.ndim for p in rest["params"]] == [1, 1] and rest["weight_decay"] == 0
    muon, adamw = make_optimizers(model, LoopConfig(optimizer="muon"))
    assert [id(p) for g in muon.param_groups for p in g["params"]] == [id(model.body.weight)]
    others = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert others == {id(model.head.weight), id(model.head.bias), id(model.body.bias)}


@pytest.mark.slow
def test_two_processes_equal_one_with_the_double_batch(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    for name, start in (("two", accelerate()), ("one", [sys.executable])):
        command = [*start, str(HERE / "two_ranks.py"), str(tmp_path / name)]
        subprocess.run(command, env=env, check=True, timeout=200)
    for name in ("model", "ema"):
        one, two = (load_file(tmp_path / n / f"checkpoints/step_00000005/{name}.safetensors") for n in ("one", "two"))
        one.pop("scale", None)  # a running statistic is the first rank's own
        for key in one:
            torch.testing.assert_close(two[key], one[key], rtol=1e-4, atol=1e-5)
    one, two = (metrics(tmp_path / name) for name in ("one", "two"))
    assert [m["step"] for m in two] == [1, 2, 3, 4, 5]
    assert [m["error"] for m in two] == pytest.approx([m["error"] for m in one], rel=1e-4)


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_others_within_a_minute_by_name_and_the_run_goes_on(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [*accelerate(), str(HERE / "two_ranks.py"), str(tmp_path / "run")]
    died = subprocess.run([*command, "4"], env=env, capture_output=True, text=True, timeout=60)
    assert died.returncode == 1
    assert "rank      : 1" in died.stderr.partition("Root Cause")[2] and "SIGKILL" in died.stderr
    assert checkpoint.latest(tmp_path / "run") == tmp_path / "run/checkpoints/step_00000002"
    resumed = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200, check=True)
    assert "resuming at step 3 of 5" in resumed.stdout
    assert [m["step"] for m in metrics(tmp_path / "run")] == [1, 2, 3, 4, 5]
