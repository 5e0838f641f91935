"""Measure speed: training steps and generated frames, beside the time that their matrix products alone would take.

    python -m launch.bench data laptop
    python -m launch.bench model S --dtype bf16
    python -m launch.bench model S --dtype fp32 --no-compile --json bench.json
    python -m launch.bench model base --publish
    python -m launch.bench model dreamer4 --parts tokenizer --activation-checkpointing
    python -m launch.bench scaling laptop --configs ddp zero2
    python -m launch.bench vmc laptop
    python -m launch.bench imagination laptop

A step is a forward and a backward pass on noise, without the optimizer. The floor sums, over the matrix products of a
step or frame, their FLOPs at the best rate that this run measured for that very shape and type. Times are medians; run
it on a quiet machine. `--publish` appends a row to launch/THROUGHPUT.md.

`data` measures what feeds them: windows of small frames and of 640x360 h264 from shards that it writes, beside plain
webdataset that decodes the same, and the share of a training step that is spent waiting for the next batch.

`scaling` trains the tokenizer of a training preset on one process and on several that share its batch.

`vmc` measures training steps of World Models' V and M, and its evolution beside the bare environment.

`imagination` measures dreams and updates of agents that learn in them, by PMPO and through the dynamics.
"""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from dynamics.world_model import DynamicsConfig
from launch.bench_imagination import PRESETS as IMAGINATION_PRESETS
from launch.bench_imagination import BenchImagination, bench_imagination, show_imagination
from launch.bench_vmc import PRESETS as VMC_PRESETS
from launch.bench_vmc import BenchVMC, bench_vmc, show_vmc
from launch.command import main
from launch.distributed import Precision, accelerated, calculated_in
from launch.flops import Rates, peak_rate
from launch.measuring import Conditions, Generation, measure_in_turns, measure_training
from launch.models import default_device, device_name
from launch.presets import MODELS, Clips, ModelPreset
from launch.reading import measure_reading, measure_waiting, write_moving_pictures
from launch.run_folder import write_json
from launch.scaling import BenchScaling, bench_scaling, show_scaling
from launch.train_tokenizer import PRESETS as TRAINED
from tokenizer.autoencoder import Tokenizer, TokenizerConfig
from tokenizer.files import write_atomically
from tokenizer.stream import ClipStream, StreamConfig

THROUGHPUT = Path(__file__).parent / "THROUGHPUT.md"
HEADER = """# Throughput

What `python -m launch.bench model PRESET --publish` measured, one row a run, newest last. Steps: seconds of a forward
and a backward pass, and in brackets those of its matrix products alone at the best rate of that run. Frames: generated
frames a second, summed over the worlds, as `worlds x context: acting / dreaming`; acting, each action waits for the
frame before it.

| device | torch | commit | preset | dtype | compiled | matmul TFLOP/s | tokenizer step s | dynamics step s | frames/s |
|---|---|---|---|---|---|---|---|---|---|
"""
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
Part = Literal["tokenizer", "dynamics", "generation"]


@dataclass(frozen=True, kw_only=True)
class BenchModel:
    preset: Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress]
    dtype: Precision = "auto"
    """Of training's forward pass (weights stay in 32 bits), and of the weights that generate."""
    compile: bool = True
    parts: tuple[Part, ...] = ("tokenizer", "dynamics", "generation")
    activation_checkpointing: bool = False
    """Whether training's backward pass computes each layer again: less memory, and not what the floor counts."""
    perceptual: bool = True
    """Whether the tokenizer's step has the perceptual loss that its preset asks for."""
    repeats: int = 7
    """Of each measurement; the median counts."""
    batches: tuple[int, ...] = (1, 16)
    """Worlds that generate side by side."""
    contexts: tuple[int, ...] = (16, 64, 256)
    """Frames before the generated ones; longer ones than the model's window are cut to it."""
    frames: int = 16
    """Generated frames of a measurement."""
    rate_seconds: float = 0.03
    """Spent on the best rate of each matrix product, for the floors."""
    json: Path | None = None
    """Also write the numbers here."""
    publish: bool = False
    """Append a row to launch/THROUGHPUT.md."""

    def __post_init__(self) -> None:
        for name in ("repeats", "frames", "rate_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        for name in ("parts", "batches", "contexts"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: name at least one")
        if min(*self.batches, *self.contexts) < 1:
            raise ValueError(f"batches={self.batches} and contexts={self.contexts} need at least 1 each")


@dataclass(frozen=True, kw_only=True)
class BenchData:
    preset: Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress]
    workers: int = 1
    """Processes that read."""
    seconds: float = 3.0
    """Of each measurement."""
    repeats: int = 3
    """Of each measurement; the median counts."""
    clips: int = 64
    """Clips in the shards of small frames, and an eighth of that in those of large ones."""
    clip_frames: int = 256
    steps: int = 30
    """Training steps whose waiting is measured."""
    dtype: Precision = "auto"
    compile: bool = True
    json: Path | None = None
    """Also write the numbers here."""

    def __post_init__(self) -> None:
        for name in ("seconds", "repeats", "steps", "clip_frames"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if self.workers < 0 or self.clips < 8:
            raise ValueError(f"workers={self.workers} must not be negative, and clips={self.clips} at least 8")


Bench = BenchModel | BenchData | BenchScaling | BenchVMC | BenchImagination


def bench(config: Bench) -> None:
    if isinstance(config, BenchData):
        numbers = bench_data(config)
        show_data(numbers)
    elif isinstance(config, BenchScaling):
        numbers = bench_scaling(config)
        show_scaling(numbers)
    elif isinstance(config, BenchVMC):
        numbers = bench_vmc(config)
        show_vmc(numbers)
    elif isinstance(config, BenchImagination):
        numbers = {**surroundings(default_device()), **bench_imagination(config)}
        show_imagination(numbers)
    else:
        numbers = bench_model(config)
        show(numbers)
    if config.json is not None:
        write_json(config.json, numbers)
        print(f"numbers in {config.json}")
    if isinstance(config, BenchModel) and config.publish:
        append_row(THROUGHPUT, numbers)
        print(f"appended a row to {THROUGHPUT}")


def bench_model(config: BenchModel) -> dict[str, Any]:
    """All that is measured of a preset, as JSON."""
    precision = calculated_in(config.dtype)
    with accelerated(precision, Path("runs/bench")) as accelerator:
        device, dtype = accelerator.device, TYPES[precision]
        conditions = Conditions(
            accelerator=accelerator,
            precision=precision,
            compile=config.compile,
            repeats=config.repeats,
            rates=Rates(device, dtype, seconds=config.rate_seconds),
            recompute=config.activation_checkpointing,
        )
        say(f"{device_name(device)}, {precision}: the best rate of a large matrix product")
        numbers = {
            **surroundings(device),
            "preset": config.preset,
            "dtype": precision,
            "activation_checkpointing": config.activation_checkpointing,
            "perceptual": config.perceptual,
        }
        numbers["matmul_flops"] = peak_rate(device, dtype)
        return numbers | _measured(config, MODELS[config.preset], conditions)


def bench_data(config: BenchData) -> dict[str, Any]:
    """All that is measured of the stream, as JSON."""
    preset = MODELS[config.preset]
    clips, size = preset.tokenizer_clips, preset.tokenizer.frame_size
    with TemporaryDirectory() as folder, accelerated(config.dtype, Path("runs/bench")) as accelerator:
        say("writing shards")
        places = {"small": (size, config.clips), "large": ((360, 640), config.clips // 8)}
        datasets = {
            name: write_moving_pictures(
                Path(folder) / name, frame, clips=count, frames=config.clip_frames, shards=min(8, count)
            )
            for name, (frame, count) in places.items()
        }
        reading = []
        for dataset in datasets.values():
            say(f"reading windows of 16 x {dataset.meta.frame_size[0]}x{dataset.meta.frame_size[1]}")
            reading.append(
                measure_reading(
                    dataset, Clips(8, 16), workers=config.workers, seconds=config.seconds, repeats=config.repeats
                )
            )
        say(f"{config.steps} training steps of the tokenizer on the stream")
        stream = StreamConfig(length=clips.frames, batch_size=clips.batch, num_workers=config.workers)
        precision = calculated_in(config.dtype)
        conditions = Conditions(
            accelerator=accelerator, precision=precision, compile=config.compile, repeats=1, rates=None
        )
        batches = iter(ClipStream(datasets["small"], stream))
        with accelerator.device:
            model = Tokenizer(replace(preset.tokenizer, perceptual_weight=0.0))
        waiting = measure_waiting(model, batches, conditions, steps=config.steps)
        return {**surroundings(accelerator.device), "preset": config.preset, "reading": reading, "waiting": waiting}


def _measured(config: BenchModel, preset: ModelPreset, conditions: Conditions) -> dict[str, Any]:
    steps: dict[str, dict[str, Any]] = {}
    weight = preset.tokenizer.perceptual_weight if config.perceptual else 0.0
    models: dict[Part, tuple[TokenizerConfig | DynamicsConfig, Clips]] = {
        "tokenizer": (replace(preset.tokenizer, perceptual_weight=weight), preset.tokenizer_clips),
        "dynamics": (preset.joined_dynamics, preset.dynamics_clips),
    }
    for name, (model, clips) in models.items():
        if name in config.parts:
            say(f"{name}: training steps of {clips.batch} x {clips.frames} frames")
            steps[name] = measure_training(model, clips, conditions)
    rows = _generated(config, preset.joined_dynamics, conditions) if "generation" in config.parts else []
    everything = [*steps.values(), *rows]
    window = preset.dynamics.transformer.window
    return {
        "compiled": all(part["compiled"] for part in everything),
        "peak_memory_bytes": max(part["peak_memory_bytes"] for part in everything),
        **steps,
        "generation": [row for row in rows if row["window"] == window],
        "short_window": [row for row in rows if row["window"] != window],
    }


def _generated(config: BenchModel, dynamics: DynamicsConfig, conditions: Conditions) -> list[dict[str, Any]]:
    """Of every context; of the least also by a model whose window is no longer: what its own window costs a model."""
    window = dynamics.transformer.window
    contexts = sorted({min(context, window) for context in config.contexts})
    models = {size: Generation(_with_window(dynamics, size), conditions) for size in sorted({window, contexts[0]})}
    rows = []
    for batch, acting in product(config.batches, (True, False)):
        say(f"generation: {batch} worlds, {'acting' if acting else 'dreaming'}")
        cases = [
            (model, Clips(batch, context)) for context in contexts for size, model in models.items() if context <= size
        ]
        rows += measure_in_turns(cases, frames=config.frames, acting=acting)
    return sorted(rows, key=lambda row: (row["context"], row["batch"], not row["acting"]))


def _with_window(dynamics: DynamicsConfig, window: int) -> DynamicsConfig:
    return replace(dynamics, transformer=replace(dynamics.transformer, window=window))


def surroundings(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on, beside the code."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit(),
    }


def commit(folder: Path = Path(__file__).parent) -> str:
    """The checkout's commit, with a + where files differ from it."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def say(text: str) -> None:
    print(text, flush=True)


def show(numbers: dict[str, Any]) -> None:
    console = Console()
    console.print(
        f"{numbers['device']}, {numbers['threads']} threads, torch {numbers['torch']}, {numbers['commit']}: preset "
        f"{numbers['preset']}, {numbers['dtype']}, {'compiled' if numbers['compiled'] else 'not compiled'}. Large "
        f"matrix products: {numbers['matmul_flops'] / 1e9:,.0f} GFLOP/s. Memory: at most "
        f"{numbers['peak_memory_bytes'] / 1e9:.2f} GB.",
        markup=False,
        highlight=False,
    )
    steps: dict[str, Any] = {name: numbers[name] for name in ("tokenizer", "dynamics") if name in numbers}
    if steps:
        console.print(_steps_table(steps, numbers["matmul_flops"]))
    if numbers["generation"]:
        console.print(_generation_table(numbers["generation"] + numbers["short_window"]))


def show_data(numbers: dict[str, Any]) -> None:
    table = _table(
        "Windows of 16 frames", ("frames", "stream: windows/s", "frames/s", "webdataset: windows/s", "ratio")
    )
    for row in numbers["reading"]:
        rates = row["stream"], row["webdataset"]
        table.add_row(
            "x".join(map(str, row["frame_size"])),
            *(f"{rates[0][key]:.4g}" for key in ("windows_per_s", "frames_per_s")),
            f"{rates[1]['windows_per_s']:.4g}",
            f"{row['ratio']:.2f}",
        )
    Console().print(table)
    waiting, alone = numbers["waiting"], numbers["reading"][0]["stream"]["frames_per_s"]
    say(
        f"A training of the {numbers['preset']} tokenizer takes {waiting['frames_per_s']:.4g} frames/s and spends "
        f"{waiting['share']:.2%} of its time waiting for them; the stream alone delivers "
        f"{alone / waiting['frames_per_s']:.1f} times as many. {numbers['device']}, {numbers['threads']} threads."
    )


def _steps_table(steps: dict[str, dict[str, Any]], peak: float) -> Table:
    table = _table("Training steps", ("", "seconds", "best", "floor", "x floor", "of peak", "frames/s"))
    for name, row in steps.items():
        table.add_row(
            name,
            *(f"{row[key]:.3g}" for key in ("step_s", "best_step_s", "floor_s")),
            f"{row['step_s'] / row['floor_s']:.2f}",
            f"{row['flops_per_s'] / peak:.0%}",
            f"{row['frames_per_s']:.3g}",
        )
    return table


def _generation_table(rows: Sequence[dict[str, Any]]) -> Table:
    columns = ("", "worlds", "context", "window", "frames/s", "ms a frame", "floor", "first", "prefill")
    table = _table("Generation", columns)
    for row in rows:
        table.add_row(
            "acting" if row["acting"] else "dreaming",
            str(row["batch"]),
            str(row["context"]),
            str(row["window"]),
            f"{row['frames_per_s']:.3g}",
            *(f"{1e3 * row[key]:.3g}" for key in ("frame_s", "floor_s", "first_frame_s", "prefill_s")),
        )
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    return table


def append_row(path: Path, numbers: dict[str, Any]) -> None:
    """Adds a run to the table, which is begun where there is none."""
    before = path.read_text() if path.exists() else HEADER
    write_atomically(path, f"{before.rstrip()}\n{_row(numbers)}\n".encode())


def _row(numbers: dict[str, Any]) -> str:
    device = numbers["device"] if torch.cuda.is_available() else f"{numbers['device']}, {numbers['threads']} threads"
    cells = [device, *(numbers[key] for key in ("torch", "commit", "preset", "dtype"))]
    cells += ["yes" if numbers["compiled"] else "no", f"{numbers['matmul_flops'] / 1e12:.3g}"]
    for name in ("tokenizer", "dynamics"):
        cells.append(f"{numbers[name]['step_s']:.3g} ({numbers[name]['floor_s']:.3g})" if name in numbers else "")
    return f"| {' | '.join([*cells, _frames_cell(numbers['generation'])])} |"


def _frames_cell(rows: Sequence[dict[str, Any]]) -> str:
    rates = {(row["batch"], row["context"], row["acting"]): f"{row['frames_per_s']:.3g}" for row in rows}
    places = dict.fromkeys((batch, context) for batch, context, _ in rates)
    return "; ".join(f"{b} x {c}: {rates[b, c, True]} / {rates[b, c, False]}" for b, c in places)


BASE = BenchModel(preset="base")
PRESETS: dict[str, Mapping[str, Bench]] = {
    "model": {name: replace(BASE, preset=name) for name in MODELS}
    | {"debug": replace(BASE, preset="debug", compile=False, repeats=2, batches=(1, 2), frames=4, rate_seconds=0.003)},
    "data": {name: BenchData(preset=name) for name in MODELS}
    | {"debug": BenchData(preset="debug", seconds=0.2, repeats=1, clips=8, clip_frames=24, steps=2, compile=False)},
    "scaling": {name: BenchScaling(preset=name) for name in TRAINED}
    | {"debug": BenchScaling(preset="debug", steps=6, repeats=1, compile=False)},
    "vmc": VMC_PRESETS,
    "imagination": IMAGINATION_PRESETS,
}

if __name__ == "__main__":
    main(PRESETS, bench, description=__doc__, processes="one")
