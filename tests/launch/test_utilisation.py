"""What a training computes is counted as it runs, and set beside what its device can do."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agent.agent import Agent
from dynamics.world_model import WorldModel
from launch import utilisation
from launch.ablate import PRESETS as ABLATIONS
from launch.ablate import RUNGS
from launch.ablation_rungs import climb
from launch.flops import count_matmuls, total_flops
from launch.presets import Clips
from launch.random_clips import random_clips
from launch.utilisation import Utilisation, peak_flops, step_flops
from tests.agent.test_agent import CONFIG as AGENT
from tests.builders import DYNAMICS, TOKENIZER, seeded
from tokenizer.autoencoder import Tokenizer

CPU = torch.device("cpu")
CLIPS = Clips(8, 5)


@pytest.mark.parametrize("name", ["tokenizer", "dynamics", "agent"])
def test_a_step_is_counted_as_it_runs(name: str) -> None:
    made: dict[str, Any] = {"tokenizer": Tokenizer(TOKENIZER), "dynamics": WorldModel(DYNAMICS), "agent": Agent(AGENT)}
    model = made[name].eval()
    batch = random_clips(getattr(model.config, "dynamics", model.config), CLIPS, CPU)
    ran = total_flops(count_matmuls(lambda: model(batch, seeded())[0].backward()))
    assert step_flops(model.config, CLIPS) == ran > 0


def test_it_is_set_beside_the_peak_and_begins_anew_when_it_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utilisation, "peak_flops", lambda device, dtype: 1e9)
    of_one = step_flops(DYNAMICS, CLIPS)
    meter = Utilisation(DYNAMICS, CPU, "fp32", steps=20)
    for _ in range(2):
        for _ in range(3):
            meter.saw(CLIPS)
        found = meter.read(0.5)
        assert found["tflops_per_second"] == pytest.approx(6 * of_one / 1e12)
        assert found["flop_utilisation"] == pytest.approx(6 * of_one / 1e9)
    for config, steps in (("another", 20), (DYNAMICS, 19)):
        assert Utilisation(config, CPU, "fp32", steps=steps).read(1.0) == {}


def test_the_peak_is_measured_once() -> None:
    first = peak_flops(CPU, "fp32")
    assert first > 1e8 and peak_flops(CPU, "fp32") == first


def test_every_design_is_counted() -> None:
    """Where the latents' shape is known, as it is in a training."""
    for step in climb(ABLATIONS["debug"].training, tuple(RUNGS)):
        training = step.training
        model = replace(training.model, latent_shape=(16, 32))
        assert step_flops(model, Clips(training.batch_size, training.length)) > 0, step.rung.name


def test_a_training_says_it(
    pipeline: Path, tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--run", tmp_path, "--data", pipeline / "latents/train", "--steps", 20, "--log-every", 20)
    assert call("train_dynamics", "debug", *options) == 0
    *_, last = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert last["tflops_per_second"] > 0 and 0 < last["flop_utilisation"] < 2
    assert "TFLOP/s (" in capsys.readouterr().out
