"""What a training computes is counted as it runs, and set beside what its device can do."""

import json
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
    meter = Utilisation(DYNAMICS, CPU, "fp32")
    for _ in range(2):
        for _ in range(3):
            meter.saw(CLIPS)
        found = meter.read(0.5)
        assert found["tflops_per_second"] == pytest.approx(6 * of_one / 1e12)
        assert found["flop_utilisation"] == pytest.approx(6 * of_one / 1e9)
    assert Utilisation("another", CPU, "fp32").read(1.0) == {}


def test_the_peak_is_measured_once() -> None:
    first = peak_flops(CPU, "fp32")
    assert first > 1e8 and peak_flops(CPU, "fp32") == first


def test_every_design_is_counted() -> None:
    """Where the latents' shape is known, as it is in a training."""
    for step in climb(ABLATIONS["debug"].training, tuple(RUNGS)):
        training = step.training
        model = replace(training.model, latent_shape=(16, 32))
        assert step_flops(model, Clips(training.batch_size, training.length)) > 0, step.rung.name


def test_the_stages_say_it(pipeline: Path) -> None:
    for run, counted in {"tokenizer": True, "dynamics": True, "agent": True, "imagination": False}.items():
        lines = [json.loads(line) for line in (pipeline / run / "metrics.jsonl").read_text().splitlines()]
        told = [line["flop_utilisation"] for line in lines if "flop_utilisation" in line]
        assert bool(told) == counted and all(0 < share < 2 for share in told)
