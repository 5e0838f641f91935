"""Speed of imagination: what is counted is what runs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from launch import bench_imagination
from launch.bench_imagination import PRESETS, UPDATE, Actor, BenchImagination, Learner, count_phases, measure_actor
from launch.flops import total_flops
from launch.presets import MODELS
from tests.launch.conftest import Call

CPU = torch.device("cpu")
DEBUG = PRESETS["debug"]


def counted(config: BenchImagination, actor: Actor = "pmpo") -> dict[str, int]:
    counts = count_phases(config, config.imagination(actor), CPU)
    return {name: total_flops(count) for name, count in counts.items()}


def test_dreams_and_updates_are_measured_for_both_actors(
    tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "numbers.json"
    assert call("bench", "imagination", "debug", "--rate-seconds", 0.0005, "--json", path) == 0
    said, numbers = " ".join(capsys.readouterr().out.split()), json.loads(path.read_text())
    assert "Imagination, preset debug" in said and "2 dreams of 3 frames after 4, K = 2" in said
    assert {"device", "threads", "torch", "commit"} <= numbers.keys()
    assert set(numbers["actors"]) == {"pmpo", "dynamics"}
    for row in numbers["actors"].values():
        assert not row["compiled"]
        for name in ("dream", "forward", "backward", "update"):
            part = row[name]
            assert part["flops"] > 0 and part["seconds"] > 0
            assert part["share_of_floor"] == pytest.approx(part["floor_s"] / part["seconds"])
        for name in ("dream", "update"):
            assert row[name]["imagined_frames_per_s"] * row[name]["seconds"] == pytest.approx(2 * 3)
        update = row["update"]
        assert update["updates_per_s"] * update["seconds"] == pytest.approx(1)
        assert update["seconds"] > row["forward"]["seconds"] + row["backward"]["seconds"]
        assert update["flops"] == row["forward"]["flops"] + row["backward"]["flops"]  # AdamW multiplies no matrices


def test_times_are_medians_and_an_update_is_the_sum_of_its_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer's step is part of it too; the first rounds warm up and count for nothing."""
    rounds = [(90.0, 90.0, 90.0, 90.0)] * 2 + [(6.0, 1.0, 2.0, 0.5), (8.0, 3.0, 2.0, 0.5), (7.0, 2.0, 9.0, 0.5)]
    times = iter([time for each in rounds for time in each])
    monkeypatch.setattr(bench_imagination, "seconds", lambda run, device: (run(), next(times))[1])
    row = measure_actor(replace(DEBUG, repeats=3), "pmpo", CPU, lambda shape: 1.0)
    measured = [row[name]["seconds"] for name in ("dream", "forward", "backward", "update")]
    assert measured == [7.0, 2.0, 2.0, 5.5] and next(times, None) is None
    assert row["update"]["floor_s"] == row["update"]["flops"]  # at one FLOP a second


@pytest.mark.parametrize("actor", ["pmpo", "dynamics"])
def test_each_phase_is_counted_as_torch_counts_it(actor: Actor) -> None:
    expected, learner = {}, Learner(DEBUG, DEBUG.imagination(actor), CPU)
    for name, run in learner.phases.items():
        with FlopCounterMode(display=False) as counter:
            run()
        expected[name] = counter.get_total_flops()
    expected["update"] = sum(expected[name] for name in UPDATE)
    assert counted(DEBUG, actor) == expected


@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_a_dream_is_its_context_and_for_each_frame_k_passes_and_the_commit(num_steps: int) -> None:
    """By hand: of two layers, the first over space and the second over time, where all passes see the whole cache."""
    config = replace(DEBUG, num_steps=num_steps)
    imagination = config.imagination("pmpo")
    dynamics, heads = imagination.agent.dynamics, imagination.agent.heads
    c = dynamics.transformer
    assert (c.depth, c.time_every, imagination.agent.num_tokens) == (2, 2, 1)
    (tokens, channels), horizon = dynamics.latent_shape, imagination.horizon
    cached = min(c.window, config.context + horizon) - 1

    def passed(frames: int, past: int, agent: int) -> int:
        slots = 1 + 1 + tokens + dynamics.num_registers + agent
        layer = slots * c.dim * ((c.dim + 2 * c.num_kv_heads * c.head_dim) + c.dim + 3 * c.mlp_hidden)
        space, time = 2 * slots * slots * c.dim, 2 * slots * (past + frames) * c.dim
        return frames * (3 * c.dim + tokens * channels * c.dim + 2 * layer + space + time)

    to_latents = tokens * c.dim * channels
    prefill = passed(config.context, 0, 1)
    frame = num_steps * (passed(1, cached, 0) + to_latents) + passed(1, cached, 1) + to_latents
    trunk = (c.dim + heads.hidden) * heads.hidden
    policy = trunk + 3 * heads.hidden * heads.action_bins + 2 * heads.action_bins * heads.hidden
    judged = 2 * trunk + heads.hidden * heads.distances * (heads.value_bins + 1)  # reward and end
    multiplied = config.batch * (prefill + horizon * (frame + policy + judged))
    assert counted(config)["dream"] == 2 * multiplied


def test_the_gradient_of_dynamics_passes_the_dream_again_and_that_of_pmpo_the_heads_alone() -> None:
    longer = replace(DEBUG, num_steps=4)
    more = {actor: counted(longer, actor)["backward"] - counted(DEBUG, actor)["backward"] for actor in DEBUG.actors}
    assert more["pmpo"] == 0 and more["dynamics"] > 0


def test_the_floor_sees_no_empty_places_of_a_long_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """A young cache is looked at in few sizes, the least of 32 frames; of a dream of 7 the products need 7."""
    for window in (7, 256):
        dynamics = replace(
            MODELS["debug"].dynamics, transformer=replace(MODELS["debug"].dynamics.transformer, window=window)
        )
        monkeypatch.setitem(MODELS, str(window), replace(MODELS["debug"], dynamics=dynamics))
    assert counted(replace(DEBUG, preset="256")) == counted(replace(DEBUG, preset="7"))


@pytest.mark.usefixtures("bf16_anywhere")
def test_the_world_is_cast_as_in_training_and_the_heads_learn() -> None:
    config = replace(DEBUG, dtype="bf16")
    learner = Learner(config, config.imagination("dynamics"), CPU)
    agent = learner.model.agent
    assert {p.dtype for p in agent.world.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in learner.model.policy.parameters()} == {torch.float32}
    before = {name: p.clone() for name, p in learner.model.named_parameters()}
    for run in learner.phases.values():
        run()
    changed = {name for name, p in learner.model.named_parameters() if not torch.equal(p, before[name])}
    heads = {f"agent.policy.{name}" for name, _ in agent.policy.named_parameters()}
    heads |= {f"value.{name}" for name, _ in learner.model.value.named_parameters()}
    assert {name for name in changed if not name.startswith("slow_value.")} == heads  # that one follows the value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon=0 must be above 0"),
        ({"num_steps": -1}, "num_steps=-1 must be above 0"),
        ({"batch": 0}, "batch=0 must be above 0"),
        ({"actors": ()}, "actors is empty: name pmpo, dynamics, or both"),
    ],
)
def test_bad_sizes_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(DEBUG, **options)
