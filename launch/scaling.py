"""How much faster several processes train than one, the batch of all together being the same (strong scaling).

Each figure is that of a real training, started by accelerate with a config of launch/configs, as its log says.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from launch.distributed import cores
from launch.models import default_device, device_name
from launch.reading import write_moving_pictures
from launch.train_tokenizer import PRESETS

CONFIGS = Path(__file__).parent / "configs"
FIRST = "ddp"
"""What one process, with which all are compared, is started by."""


def default_processes() -> tuple[int, ...]:
    """1, 2, 4, ... of this machine's GPUs; without any, of its cores."""
    there = torch.cuda.device_count() or cores()
    return tuple(1 << power for power in range(there.bit_length()) if 1 << power <= there)


@dataclass(frozen=True, kw_only=True)
class BenchScaling:
    preset: Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress]
    processes: tuple[int, ...] = default_processes()
    """Numbers of processes, one a GPU or core."""
    configs: tuple[str, ...] = ("ddp",)
    """Files of launch/configs, without their ending."""
    batch: int = 8
    """Clips of a step, of all processes together."""
    steps: int = 30
    repeats: int = 2
    """Trainings of each kind; the median counts."""
    compile: bool = True
    json: Path | None = None
    """Also write the numbers here."""

    def __post_init__(self) -> None:
        for count in self.processes:
            if count < 1 or self.batch % count:
                raise ValueError(f"batch={self.batch} clips do not share out among {count} processes")
        for config in self.configs:
            choices = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
            if config not in choices:
                raise ValueError(f"configs has {config!r}, have: {', '.join(choices)}")
        if self.steps < 6 or self.repeats < 1:
            raise ValueError(f"steps={self.steps} must be at least 6, and repeats={self.repeats} at least 1")


def bench_scaling(config: BenchScaling) -> dict[str, Any]:
    """Frames a second by number of processes, as JSON."""
    with TemporaryDirectory() as folder:
        rows = measure_scaling(
            config.preset,
            Path(folder),
            configs=config.configs,
            processes=config.processes,
            batch=config.batch,
            steps=config.steps,
            repeats=config.repeats,
            options=["--compile" if config.compile else "--no-compile"],
        )
    device = device_name(default_device())
    return {"device": device, "preset": config.preset, "compiled": config.compile, "rows": rows}


def show_scaling(numbers: dict[str, Any]) -> None:
    table = Table("config", "processes", "frames/s", "speed-up", "efficiency", title=f"Training on {numbers['device']}")
    for row in numbers["rows"]:
        table.add_row(
            row["config"],
            str(row["processes"]),
            f"{row['frames_per_s']:.3g}",
            f"{row['speedup']:.2f}",
            f"{row['efficiency']:.0%}",
        )
    Console().print(table)


def measure_scaling(
    preset: str,
    folder: Path,
    *,
    configs: Sequence[str],
    processes: Sequence[int],
    batch: int,
    steps: int,
    repeats: int,
    options: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Frames a second that the tokenizer of a training preset learns from, by turns; `folder` is for data and runs.

    Without GPUs each process has one core, also where it is the only one.
    """
    frame_size = PRESETS[preset].model.frame_size
    for part in ("train", "held_out"):
        if not (folder / part).exists():
            write_moving_pictures(folder / part, frame_size, clips=32, frames=64, shards=4)
    starts = [(FIRST, 1), *((config, count) for config in configs for count in processes if count > 1)]
    rates: dict[tuple[str, int], list[float]] = {start: [] for start in starts}
    for turn in range(repeats):
        for config, count in starts:
            run = folder / f"{config}-{count}-{turn}"
            print(f"{config}, {count} processes x {batch // count} clips", flush=True)
            _train(preset, folder, run, config=config, processes=count, batch=batch, steps=steps, options=options)
            rates[config, count].append(_frames_per_second(run))
    alone = median(rates[FIRST, 1])
    return [
        {
            "config": config,
            "processes": count,
            "batch": batch,
            "frames_per_s": median(found),
            "speedup": median(found) / alone,
            "efficiency": median(found) / alone / count,
        }
        for (config, count), found in rates.items()
    ]


def _train(
    preset: str,
    folder: Path,
    run: Path,
    *,
    config: str,
    processes: int,
    batch: int,
    steps: int,
    options: Sequence[str],
) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    start = ("--config_file", CONFIGS / f"{config}.yaml", "--num_processes", processes, "--main_process_port", port)
    data = ("--data", folder / "train", "--held-out", folder / "held_out", "--held-out-clips", 1, "--run", run)
    length = ("--steps", steps, "--log-every", max(1, steps // 3), "--batch-size", batch // processes)
    command = (sys.executable, "-m", "accelerate.commands.launch", *start, "-m", "launch.train_tokenizer", preset)
    with _cores_of(processes):
        done = subprocess.run(
            [*map(str, (*command, *data, *length, "--optimizer", "adamw", *options))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    if done.returncode:
        raise ValueError(f"the training under {config} with {processes} processes failed:\n{done.stdout[-2000:]}")


@contextmanager
def _cores_of(processes: int) -> Iterator[None]:
    """What is started inside has one core a process, where there is no GPU."""
    if torch.cuda.is_available() or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:processes])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _frames_per_second(run: Path) -> float:
    """Without the first part of the run, in which layers are compiled."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates: list[float] = [line["frames_per_second"] for line in lines if "frames_per_second" in line]
    return median(rates[1:])
