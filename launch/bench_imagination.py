"""Speed of imagination training: dreams and updates of both kinds of actor, beside their matrix products alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from agent.agent import Agent
from agent.imagination import Imagination, ImaginationConfig
from launch.compiling import compile_model
from launch.distributed import Precision
from launch.flops import Rates, count_matmuls, floor_seconds, total_flops
from launch.measuring import seconds, wake
from launch.models import default_device, device_name, for_inference
from launch.optimizers import OptimizerConfig, make_optimizers
from launch.presets import CAR_RACING, MODELS, Clips
from launch.random_clips import random_latents
from tokenizer.records import LatentClip

Actor = Literal["pmpo", "dynamics"]
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class BenchImagination:
    preset: Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress]
    actors: tuple[Actor, ...] = ("pmpo", "dynamics")
    batch: int = 32
    """Dreams of an update."""
    context: int = 16
    """Frames before each."""
    horizon: int | None = None
    """Imagined frames of each; the preset's where not given."""
    num_steps: int | None = None
    """K; the preset's where not given."""
    dtype: Precision = "bf16"
    compile: bool = True
    repeats: int = 5
    """Of each measurement; the median counts."""
    rate_seconds: float = 0.03
    """Spent on the best rate of each matrix product, for the floors."""
    json: Path | None = None
    """Also write the numbers here."""

    def __post_init__(self) -> None:
        for name in ("batch", "context", "repeats", "rate_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if not self.actors:
            raise ValueError("actors is empty: name pmpo, dynamics, or both")


def bench_imagination(config: BenchImagination) -> dict[str, Any]:
    device = default_device()
    rates = Rates(device, TYPES[config.dtype], seconds=config.rate_seconds)
    rows = {actor: measure_actor(config, actor, device, rates) for actor in config.actors}
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "preset": config.preset,
        "dtype": config.dtype,
        "actors": rows,
    }


def measure_actor(config: BenchImagination, actor: Actor, device: torch.device, rates: Rates) -> dict[str, Any]:
    """Dreams alone, without a gradient, and whole updates of the heads."""
    print(f"actor {actor}: {config.batch} dreams", flush=True)
    model, contexts = _make(config, actor, device)
    optimizers = make_optimizers(model, OptimizerConfig())

    def dream() -> None:
        with _autocast(config, device), torch.no_grad():
            model.dream(contexts, torch.Generator(device).manual_seed(0))

    def update() -> None:
        with _autocast(config, device):
            loss, _ = model(contexts, torch.Generator(device).manual_seed(0))
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    counts = {"dream": count_matmuls(dream), "update": count_matmuls(update)}  # before compiling, which hides them
    if config.compile:
        print(compile_model(model), flush=True)
    horizon = model.config.horizon
    row: dict[str, Any] = {"dreams": config.batch, "horizon": horizon, "num_steps": model.config.num_steps}
    for name, run in {"dream": dream, "update": update}.items():
        spent, floor = _median(run, config.repeats, device), floor_seconds(counts[name], rates)
        row[name] = {
            "seconds": spent,
            "floor_s": floor,
            "share_of_floor": floor / spent,
            "flops": total_flops(counts[name]),
            "imagined_frames_per_s": config.batch * horizon / spent,
        }
    return row


def _make(config: BenchImagination, actor: Actor, device: torch.device) -> tuple[Imagination, LatentClip]:
    preset = MODELS[config.preset]
    dynamics = replace(preset.joined_dynamics, actions=CAR_RACING)
    given = {name: value for name in ("horizon", "num_steps") if (value := getattr(config, name)) is not None}
    imagination: ImaginationConfig = replace(preset.imagination, actor=actor, value_warmup=0, **given)
    with device:
        agent = Agent(replace(preset.agent, dynamics=dynamics))
        wake(agent)
        agent = for_inference(agent, device, compile=False, half=config.dtype == "bf16")
        return Imagination(imagination, agent), random_latents(dynamics, Clips(config.batch, config.context), device)


def _median(run: Callable[[], None], repeats: int, device: torch.device) -> float:
    run()
    run()
    return median(seconds(run, device) for _ in range(repeats))


def _autocast(config: BenchImagination, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bf16")


def show_imagination(numbers: dict[str, Any]) -> None:
    table = Table(
        title=f"Imagination, preset {numbers['preset']}, {numbers['dtype']}, on {numbers['device']}, "
        f"{numbers['threads']} threads"
    )
    for column in ("actor", "dreams x frames", "K", "", "seconds", "imagined frames/s", "floor s", "of the floor"):
        table.add_column(column, justify="right")
    for actor, row in numbers["actors"].items():
        for name in ("dream", "update"):
            part = row[name]
            table.add_row(
                actor,
                f"{row['dreams']} x {row['horizon']}",
                str(row["num_steps"]),
                name,
                f"{part['seconds']:.3g}",
                f"{part['imagined_frames_per_s']:.3g}",
                f"{part['floor_s']:.3g}",
                f"{part['share_of_floor']:.0%}",
            )
    Console().print(table)


PRESETS = {name: BenchImagination(preset=name) for name in MODELS} | {
    "debug": BenchImagination(
        preset="debug", batch=2, context=4, compile=False, repeats=1, rate_seconds=0.003, dtype="fp32"
    )
}
