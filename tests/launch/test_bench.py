"""The bench measures what it says, writes it down, and fails in sentences."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from dynamics.simulator import Moment, Simulator
from dynamics.world_model import WorldModel
from launch import bench, bench_vmc, distributed, measuring, rolling_out
from launch.distributed import calculated_in
from launch.flops import count_matmuls, total_flops
from launch.measuring import Conditions, Generation, generate, measure_training, wake
from launch.on_meta import loss_on_meta
from launch.plan import build, generated_frame_flops
from launch.presets import MODELS, Clips
from launch.reading import plain_windows, write_moving_pictures
from tokenizer.records import EpisodeClip
from tokenizer.stream import ClipStream, StreamConfig

Call = Callable[..., int]
DEBUG = MODELS["debug"]
QUICK = replace(
    bench.PRESETS["model"]["debug"], repeats=1, batches=(1,), contexts=(2, 16), frames=2, rate_seconds=0.0005
)


def one_flop_a_second() -> Conditions:
    """Under which a floor in seconds is a number of FLOPs."""
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    return Conditions(accelerator=accelerator, precision="fp32", compile=False, repeats=1, rates=lambda shape: 1.0)


@pytest.fixture(scope="module")
def numbers() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "peak_rate", lambda device, dtype: 1e15)
        return bench.bench_model(QUICK)


def test_the_numbers_have_their_documented_shape(numbers: dict[str, Any]) -> None:
    numbers = json.loads(json.dumps(numbers))
    assert {"device", "dtype", "compiled", "matmul_flops", "tokenizer", "dynamics", "generation"} <= numbers.keys()
    assert (numbers["preset"], numbers["dtype"], numbers["compiled"]) == ("debug", calculated_in("auto"), False)
    for name in ("tokenizer", "dynamics"):
        step = numbers[name]
        assert 0 < step["best_step_s"] <= step["step_s"]
        assert step["floor_s"] > 0 and step["peak_memory_bytes"] > 0
        assert step["frames_per_s"] == pytest.approx(step["batch"] * step["frames"] / step["step_s"])
    window = DEBUG.dynamics.transformer.window  # longer contexts are cut to it
    places = [(row["context"], row["acting"]) for row in numbers["generation"]]
    assert places == [(2, True), (2, False), (window, True), (window, False)]
    assert {row["window"] for row in numbers["generation"]} == {window}
    short = [(row["context"], row["window"], row["acting"]) for row in numbers["short_window"]]
    assert short == [(2, 2, True), (2, 2, False)]
    for row in numbers["generation"] + numbers["short_window"]:
        assert row["batch"] == 1
        assert min(row[name] for name in ("frames_per_s", "first_frame_s", "floor_s", "prefill_s")) > 0


def test_the_command_prints_a_table_writes_json_and_publishes_a_row(
    tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "peak_rate", lambda device, dtype: 1e15)
    monkeypatch.setattr(bench, "THROUGHPUT", tmp_path / "THROUGHPUT.md")
    path = tmp_path / "bench.json"
    options = ("--parts", "dynamics", "--repeats", 1, "--rate-seconds", 0.0005, "--dtype", "fp32")
    assert call("bench", "model", "debug", *options, "--json", path, "--publish") == 0
    said, numbers = capsys.readouterr().out, json.loads(path.read_text())
    assert "Training steps" in said and "x floor" in said and "1,000,000 GFLOP/s" in said
    assert numbers["dtype"] == "fp32" and "tokenizer" not in numbers
    last = (tmp_path / "THROUGHPUT.md").read_text().splitlines()[-1]
    assert "| debug | fp32 | no | 1e+03 |" in last and f"{numbers['dynamics']['step_s']:.3g}" in last


def test_publishing_appends_one_row_and_keeps_the_old_ones(tmp_path: Path, numbers: dict[str, Any]) -> None:
    path = tmp_path / "THROUGHPUT.md"
    bench.append_row(path, numbers)
    once = path.read_text()
    bench.append_row(path, {**numbers, "commit": "abc"})
    assert path.read_text().startswith(once)
    rows = path.read_text().removeprefix(bench.HEADER).splitlines()
    assert len(rows) == 2 and "| abc |" in rows[1]
    columns = bench.HEADER.splitlines()[-1].count("|")
    assert all(row.count("|") == columns for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a subject first, have: model"),
        (("speed",), "unknown subject 'speed', have: model, data"),
        (("model",), "name a preset first, have: debug"),
        (("model", "huge"), "unknown preset 'huge', have: debug"),
        (("model", "debug", "--dtype", "fp16"), "'bf16', 'fp32'"),
        (("model", "debug", "--frames", 0), "frames=0 must be above 0"),
        (("model", "debug", "--batches", 0), "batches=(0,)"),
    ],
)
def test_a_wrong_command_line_names_the_choices(
    arguments: tuple[object, ...], message: str, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("bench", *arguments) == 2
    said = capsys.readouterr()
    assert message in " ".join((said.err + said.out).replace("│", " ").split())


def test_help_without_a_subject_names_the_subjects(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("bench", "--help") == 0
    said = capsys.readouterr().out
    assert "Measure speed" in said and "have: model" in said


def test_a_device_without_bf16_is_named(
    monkeypatch: pytest.MonkeyPatch, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(distributed, "has_bf16", lambda: False)
    assert call("bench", "model", "debug", "--dtype", "bf16") == 1
    assert "error: this processor cannot calculate in bf16: give auto or fp32" in capfd.readouterr().err


def test_what_was_measured_counts_as_compiled_only_where_the_compiler_did_not_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the middle of the measurement, which goes on with the slower path."""

    def fail(*_: object) -> None:
        raise TorchDynamoException("no such kernel\nand so on")

    monkeypatch.setattr(shutil, "which", lambda name: name)
    conditions = replace(one_flop_a_second(), compile=True)
    for compiler, works in ((lambda call, **_: call, True), (lambda call, **_: fail, False)):
        monkeypatch.setattr(torch, "compile", compiler)
        step = measure_training(DEBUG.joined_dynamics, Clips(4, 3), conditions)
        frame = Generation(DEBUG.joined_dynamics, conditions).measure(Clips(1, 2), frames=2, acting=False)
        assert step["compiled"] is frame["compiled"] is works
        said = capsys.readouterr().out
        assert said.count("compiling layer by layer") == 2
        assert said.count("(no such kernel): running uncompiled") == (0 if works else 4)  # two kinds of two models


def test_the_floor_of_a_step_is_of_all_its_products() -> None:
    step = measure_training(DEBUG.joined_dynamics, Clips(4, 3), one_flop_a_second())
    world = build(DEBUG).dynamics
    expected = total_flops(count_matmuls(lambda: loss_on_meta(world, Clips(4, 3)).backward()))
    assert step["floor_s"] == step["flops"] == expected


def test_layers_that_are_computed_again_are_no_part_of_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """And they really are: what the backward pass multiplies grows."""
    seen: list[int] = []

    def multiplied(step: Callable[[], None], device: torch.device) -> float:
        seen.append(total_flops(count_matmuls(step)))
        return 1.0

    monkeypatch.setattr(measuring, "seconds", multiplied)
    conditions = one_flop_a_second()
    plain = measure_training(DEBUG.tokenizer, Clips(2, 3), conditions)
    again = measure_training(DEBUG.tokenizer, Clips(2, 3), replace(conditions, recompute=True))
    assert again["floor_s"] == plain["floor_s"] == seen[0] < seen[1]


def test_a_step_on_a_gpu_is_counted_on_its_twin() -> None:
    """Torch's flex attention, which caps the logits there, runs in no counter."""
    config = replace(DEBUG.joined_dynamics, transformer=replace(DEBUG.dynamics.transformer, soft_cap=50.0))
    twin = measuring._products(config, Clips(4, 3), lambda: pytest.fail("ran"), torch.device("cuda"))
    assert total_flops(twin) == measure_training(config, Clips(4, 3), one_flop_a_second())["flops"]


def test_the_floor_of_a_frame_is_of_one_frame_and_the_past_that_is_there() -> None:
    config = replace(DEBUG.joined_dynamics, transformer=replace(DEBUG.dynamics.transformer, window=40))
    generation = Generation(config, one_flop_a_second())
    floors = {
        (context, acting): generation.measure(Clips(1, context), frames=2, acting=acting)["floor_s"]
        for context in (2, 40)
        for acting in (True, False)
    }
    preset = replace(DEBUG, dynamics=config)
    without_agent_token = generated_frame_flops(build(preset).dynamics)
    assert without_agent_token < floors[40, True] < 1.1 * without_agent_token
    assert floors[2, True] < floors[40, True]
    assert floors[40, False] == pytest.approx(floors[40, True], rel=0.1)


class Recorded(Simulator):
    """Its agent output says yes for the first world and no for the second."""

    def __init__(self) -> None:
        self.actions: list[Tensor] = []

    def step(self, action: Tensor, labeled: Tensor | None = None) -> Moment:
        self.actions.append(action)
        return Moment(torch.zeros(2, 1, 1), torch.tensor([1.0, -1.0])[:, None, None])

    def dream(self, actions: Tensor, labeled: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.actions += actions.unbind(1)
        return actions, actions


def test_acting_waits_for_what_the_agent_says_and_dreaming_does_not() -> None:
    actions = torch.arange(6.0).reshape(2, 3, 1)
    acted, dreamt = Recorded(), Recorded()
    generate(acted, actions, acting=True)
    generate(dreamt, actions, acting=False)
    assert torch.equal(torch.stack(dreamt.actions, 1), actions)
    assert torch.stack(acted.actions, 1).squeeze(-1).tolist() == [[0, 0, 1], [3, 5, 3]]


def test_no_matrix_stays_zero() -> None:
    world = WorldModel(DEBUG.joined_dynamics)
    assert not world.latent_head.weight.any()
    wake(world)
    assert all(parameter.any() for parameter in world.parameters() if parameter.ndim > 1)


def test_the_stream_is_measured_beside_plain_webdataset(tmp_path: Path, call: Call) -> None:
    path = tmp_path / "data.json"
    assert call("bench", "data", "debug", "--json", path, "--workers", 0) == 0
    numbers = json.loads(path.read_text())
    small, large = numbers["reading"]
    assert small["frame_size"] == [64, 64] and large["frame_size"] == [360, 640]
    for row in (small, large):
        for reader in ("stream", "webdataset"):
            assert row[reader]["frames_per_s"] == pytest.approx(16 * row[reader]["windows_per_s"]) and row["ratio"] > 0
    assert 0 < numbers["waiting"]["share"] < 1 and numbers["waiting"]["frames_per_s"] > 0


def test_world_models_are_measured_beside_their_peer_and_their_environments(tmp_path: Path, call: Call) -> None:
    path = tmp_path / "vmc.json"
    assert call("bench", "vmc", "debug", "--processes", 0, "--json", path) == 0
    numbers = json.loads(path.read_text())
    assert all(seconds > 0 for name in ("vae_step_s", "mdn_rnn_step_s") for seconds in numbers[name].values())
    assert min(numbers["evolution_steps_per_s"], numbers["bare_steps_per_s"], numbers["evolution_share"]) > 0


def test_the_bare_environments_play_what_the_evolution_played(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told the same in the same order, they stand where they stood: so they drew the same frames."""
    frames: dict[str, list[int]] = {"play": [], "play_again": []}
    for name in frames:
        inner = getattr(bench_vmc, name)

        def watched(order: Any, tell: Any, name: str = name, inner: Any = inner) -> Any:
            found = inner(order, tell)
            spec = order.world if name == "play" else order[0]
            frames[name] += [int(last.frame.sum()) for last in rolling_out.world_of(spec).envs._local._last]
            return found

        monkeypatch.setattr(bench_vmc, name, watched)
    bench_vmc.bench_vmc(replace(bench_vmc.PRESETS["debug"], processes=0, num_envs=3))
    assert frames["play"] == frames["play_again"] and len(set(frames["play"])) > 3


def test_both_readers_decode_the_same_windows(tmp_path: Path) -> None:
    """A clip of one window has only one to show."""
    dataset = write_moving_pictures(tmp_path, (24, 32), clips=2, frames=16, shards=1)
    mine = next(iter(ClipStream(dataset, StreamConfig(length=16, batch_size=2))))
    other = next(plain_windows(dataset, Clips(2, 16), workers=0))
    assert isinstance(mine, EpisodeClip)
    order = [0, 1] if torch.equal(mine.frames[0], other["frames"][0]) else [1, 0]
    assert torch.equal(mine.frames[order], other["frames"]) and mine.frames.diff(dim=1).any()
    assert torch.equal(mine.rewards[order], other["rewards.npy"])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_scaling_is_what_trainings_with_one_batch_say(tmp_path: Path, call: Call, capfd: Any) -> None:
    out = tmp_path / "scaling.json"
    assert call("bench", "scaling", "debug", "--processes", 1, 2, "--configs", "ddp", "fsdp", "--json", out) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["config"], row["processes"], row["batch"]) for row in rows] == [
        ("ddp", 1, 8),
        ("ddp", 2, 8),
        ("fsdp", 2, 8),
    ]
    for row in rows:
        assert row["frames_per_s"] > 0
        assert row["speedup"] == pytest.approx(row["frames_per_s"] / rows[0]["frames_per_s"])
        assert row["efficiency"] == pytest.approx(row["speedup"] / row["processes"])
    assert "efficiency" in capfd.readouterr().out


def test_scaling_refuses_what_cannot_be_shared_out() -> None:
    with pytest.raises(ValueError, match="batch=8 clips do not share out among 3 processes"):
        bench.BenchScaling(preset="debug", processes=(1, 3))
    with pytest.raises(ValueError, match="configs has 'zero4', have: ddp, fsdp, zero1"):
        bench.BenchScaling(preset="debug", configs=("zero4",))
