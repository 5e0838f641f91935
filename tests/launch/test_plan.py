"""What a preset takes, against hand-made sums and against the real thing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynamics.simulator import Simulator
from dynamics.world_model import WorldModel
from launch.activations import kept_by_autograd
from launch.flops import count_matmuls, total_flops
from launch.on_meta import loss_on_meta
from launch.plan import (
    PRESETS,
    build,
    count_parameters,
    decoded_frame_flops,
    estimate,
    generated_frame_flops,
    kv_cache_bytes,
    state_bytes,
)
from launch.presets import MODELS, Clips
from launch.random_clips import random_actions, random_latents
from tests.builders import seeded

Call = Callable[..., int]
CPU = torch.device("cpu")


def test_the_papers_preset_has_the_papers_sizes() -> None:
    counts = count_parameters(build(MODELS["dreamer4"]))
    assert counts["tokenizer"] == pytest.approx(400e6, rel=0.03)
    assert counts["dynamics"] == pytest.approx(1.6e9, rel=0.03)
    assert MODELS["dreamer4"].tokenizer.latent_shape == MODELS["dreamer4"].dynamics.latent_shape == (256, 32)
    assert MODELS["dreamer4"].dynamics.actions.size == 24


def test_the_base_preset_is_for_one_good_gpu() -> None:
    counts = count_parameters(build(MODELS["base"]))
    assert 30e6 < counts["tokenizer"] < 50e6
    assert 100e6 < counts["dynamics"] < 200e6


def test_parameters_are_counted_as_they_are() -> None:
    preset = MODELS["debug"]
    world = WorldModel(preset.joined_dynamics)
    counts = count_parameters(build(preset))
    assert counts["dynamics"] == sum(p.numel() for p in world.parameters())
    assert counts["agent"] > 0


def test_zero_shares_more_with_every_stage() -> None:
    """A hundred parameters on four GPUs: 200 bytes of weights, 200 of gradients, 1200 of optimizer, 400 of average."""
    assert state_bytes(100, 4) == {
        "ddp": 200 + 200 + 1200 + 400,
        "zero1": 200 + 200 + 300 + 400,
        "zero2": 200 + 50 + 300 + 400,
        "zero3": 50 + 50 + 300 + 100,
    }
    assert set(state_bytes(100, 1).values()) == {2000}


class OneAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12, bias=False, device="meta")

    def forward(self, x: Tensor) -> Tensor:
        out = F.scaled_dot_product_attention(*self.qkv(x).chunk(3, dim=-1))
        return F.rms_norm(out, (4,)).sum()


def test_fused_attention_keeps_no_weights() -> None:
    model, x = OneAttention(), torch.empty(1, 1, 5, 4, device="meta")
    inputs, qkv, out, a_query, a_row = 5 * 4 * 4, 5 * 12 * 4, 5 * 4 * 4, 5 * 4, 5 * 4
    assert kept_by_autograd(model, lambda: model(x)).whole == inputs + qkv + out + a_query + a_row


def test_a_storage_is_kept_once_and_parameters_are_no_activations() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).to("meta")
    x = torch.empty(3, 4, device="meta")
    # The input, and what the ReLU gave, which both it and the last layer save.
    assert kept_by_autograd(model, lambda: model(x).sum()).whole == 3 * 4 * 4 + 3 * 8 * 4


def test_checkpointing_keeps_the_inputs_of_layers_and_one_whole_layer() -> None:
    def kept(depth: int) -> tuple[int, int]:
        preset = MODELS["debug"]
        stack = replace(preset.tokenizer.encoder, depth=depth)
        tokenizer = build(replace(preset, tokenizer=replace(preset.tokenizer, encoder=stack))).tokenizer
        return kept_by_autograd(tokenizer, lambda: loss_on_meta(tokenizer, Clips(1, 4)))

    (whole_2, few_2), (whole_4, few_4) = kept(2), kept(4)
    slots, width = MODELS["debug"].tokenizer.num_patches + MODELS["debug"].tokenizer.num_latents, 32
    assert few_4 - few_2 == 2 * (4 * slots * width * 4)
    assert whole_4 - whole_2 > 5 * (few_4 - few_2)


def test_a_generated_frame_costs_what_the_simulator_computes() -> None:
    config = MODELS["debug"].joined_dynamics
    simulator = Simulator(WorldModel(config), generator=seeded())
    simulator.reset(random_latents(config, Clips(1, config.transformer.window), CPU))
    action = random_actions(config.actions, Clips(1, 1), CPU)[:, 0]
    ran = total_flops(count_matmuls(lambda: simulator.step(action)))
    assert generated_frame_flops(build(MODELS["debug"]).dynamics) == pytest.approx(ran, rel=0.02)


def test_decoding_a_frame_costs_less_than_learning_from_one() -> None:
    tokenizer = build(MODELS["S"]).tokenizer
    step = total_flops(count_matmuls(lambda: loss_on_meta(tokenizer, Clips(1, 2)).backward())) / 2
    assert decoded_frame_flops(tokenizer) == pytest.approx(step / 6, rel=0.2)


def test_the_cache_holds_a_window_of_keys_and_values() -> None:
    slots, window, head, time_layers, agent_tokens = 2 + 16 + 4, 256, 64, 2, 1
    expected = 2 * 2 * time_layers * (slots + agent_tokens) * window * head
    assert kv_cache_bytes(build(MODELS["S"]).agent) == expected


def test_days_follow_from_frames_flops_and_gpus() -> None:
    plan = replace(PRESETS["debug"], gpus=10, frames=10**9, utilisation=0.5, peak_tflops=2.0)
    numbers = estimate(plan)
    for name in ("tokenizer", "dynamics"):
        training, per_frame = numbers["training"][name], numbers["flops"][name]["frame"]
        assert training["days"] == pytest.approx(10**9 * per_frame / (10 * 2e12 * 0.5) / 86400)
        assert training["steps"] * training["step_seconds"] == pytest.approx(training["days"] * 86400)


@pytest.mark.parametrize("name", MODELS)
def test_every_preset_can_be_planned(name: str, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    assert call("plan", name, "--gpus", 8, "--json", path) == 0
    numbers, said = json.loads(path.read_text()), capsys.readouterr().out
    assert f"{numbers['parameters']['dynamics']:,}" in said
    assert "ZeRO-3" in said and "moving average 4" in said
    for model in ("tokenizer", "dynamics"):
        states, kept = numbers["state_bytes"][model], numbers["activation_bytes"][model]
        assert states["ddp"] > states["zero1"] > states["zero2"] > states["zero3"] > 0
        assert kept["whole"] > kept["checkpointed"] > 0
        clips = numbers["batch"][model]
        # Forward and backward of matrix products are at the least six FLOPs a parameter and frame.
        assert numbers["flops"][model]["step"] > 3 * numbers["parameters"][model] * clips["batch"] * clips["frames"]
    assert numbers["flops"]["generated_frame"] > 0 and numbers["kv_cache_bytes"] > 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--gpus", 0), "gpus=0, needs at least 1"),
        (("--frames", -1), "frames=-1, needs at least 1"),
        (("--utilisation", 1.5), "utilisation=1.5 is not in (0, 1]"),
        (("--utilisation", 0), "utilisation=0.0 is not in (0, 1]"),
        (("--peak-tflops", 0), "peak_tflops=0.0 must be above 0"),
        (("--model.dynamics.transformer.num-kv-heads", 7), "not a multiple of num_kv_heads=7"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(
    option: tuple[str, object], message: str, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("plan", "debug", *option) == 2
    assert message in capsys.readouterr().err
