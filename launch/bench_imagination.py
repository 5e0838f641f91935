"""Speed of imagination training: dreams and updates of both kinds of actor, beside their matrix products alone.

On random weights of the preset's sizes, under CarRacing's actions, which both actors can choose. A dream takes in its
context once, and each imagined frame takes K denoising passes and the commit. An update is the forward pass (the dream
and the losses of the heads), the backward pass (through the heads, or through the whole dream) and the optimizer's
step, in the precision and with the random numbers that training has.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from agent.agent import Agent
from agent.imagination import Imagination, ImaginationConfig
from launch.compiling import compile_model, is_compiled
from launch.distributed import Precision, autocast, calculated_in
from launch.flops import Counts, MatmulShape, Rates, count_matmuls, floor_seconds, total_flops
from launch.measuring import WARM_STEPS, seconds, wake
from launch.memory import fits
from launch.models import default_device, for_inference
from launch.on_meta import uncapped_dynamics
from launch.optimizers import OptimizerConfig, make_optimizers
from launch.presets import CAR_RACING, MODELS, Clips
from launch.random_clips import random_latents
from tokenizer.draws import Rows

Actor = Literal["pmpo", "dynamics"]
UPDATE = ("forward", "backward", "optimizer")
"""Phases of an update, in order."""


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
    dtype: Precision = "auto"
    """Of the frozen world's weights and of all passes; the heads' weights stay in 32 bits."""
    compile: bool = True
    repeats: int = 5
    """Of each measurement; the median counts."""
    rate_seconds: float = 0.03
    """Spent on the best rate of each matrix product, for the floors."""
    json: Path | None = None
    """Also write the numbers here."""

    def __post_init__(self) -> None:
        for name in ("batch", "context", "horizon", "num_steps", "repeats", "rate_seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value} must be above 0")
        if not self.actors:
            raise ValueError("actors is empty: name pmpo, dynamics, or both")

    @property
    def half(self) -> bool:
        return calculated_in(self.dtype) == "bf16"

    def imagination(self, actor: Actor) -> ImaginationConfig:
        """What is measured: the preset's, with what was given; policy and value learn from the first step."""
        preset = MODELS[self.preset]
        dynamics = replace(preset.joined_dynamics, actions=CAR_RACING)
        given = {name: value for name in ("horizon", "num_steps") if (value := getattr(self, name)) is not None}
        return replace(
            preset.imagination, actor=actor, agent=replace(preset.agent, dynamics=dynamics), value_warmup=0, **given
        )


def bench_imagination(config: BenchImagination) -> dict[str, Any]:
    device = default_device()
    rates = Rates(device, torch.bfloat16 if config.half else torch.float32, seconds=config.rate_seconds)
    rows = {actor: measure_actor(config, actor, device, rates) for actor in config.actors}
    return {"preset": config.preset, "dtype": calculated_in(config.dtype), "actors": rows}


def measure_actor(
    config: BenchImagination, actor: Actor, device: torch.device, rates: Callable[[MatmulShape], float]
) -> dict[str, Any]:
    """Dreams alone, as this actor dreams them, and updates with their phases; `rates` in FLOP/s, for the floors."""
    imagination = config.imagination(actor)
    what = f"{config.batch} dreams of {imagination.horizon} frames after {config.context}"
    print(f"actor {actor}: {what}", flush=True)
    with fits(what, "give a smaller --batch, --horizon or --num-steps"):
        counts = count_phases(config, imagination, device)
        learner = Learner(config, imagination, device)
        if config.compile:
            print(compile_model(learner.model), flush=True)
        rounds = [
            {name: seconds(run, device) for name, run in learner.phases.items()}
            for _ in range(WARM_STEPS + config.repeats)
        ][WARM_STEPS:]
    for times in rounds:
        times["update"] = sum(times[name] for name in UPDATE)
    spent = {name: median(times[name] for times in rounds) for name in rounds[0]}
    row: dict[str, Any] = {name: _speed(spent[name], counts[name], rates) for name in spent if name != "optimizer"}
    for name in ("dream", "update"):
        row[name]["imagined_frames_per_s"] = config.batch * imagination.horizon / spent[name]
    row["update"]["updates_per_s"] = 1 / spent["update"]
    return {
        "dreams": config.batch,
        "context": config.context,
        "horizon": imagination.horizon,
        "num_steps": imagination.num_steps,
        "compiled": is_compiled(learner.model),
        **row,
    }


def _speed(spent: float, counts: Counts, rates: Callable[[MatmulShape], float]) -> dict[str, Any]:
    floor = floor_seconds(counts, rates)
    return {"seconds": spent, "floor_s": floor, "share_of_floor": floor / spent, "flops": total_flops(counts)}


def count_phases(config: BenchImagination, imagination: ImaginationConfig, device: torch.device) -> dict[str, Counts]:
    """Matrix products of each phase, by a world whose window is no longer than what there is to see."""
    dynamics = uncapped_dynamics(imagination.agent.dynamics)  # soft-capping's kernel hides its products on a GPU
    window = min(dynamics.transformer.window, config.context + imagination.horizon)
    dynamics = replace(dynamics, transformer=replace(dynamics.transformer, window=window))
    twin = Learner(config, replace(imagination, agent=replace(imagination.agent, dynamics=dynamics)), device)
    counts = {name: count_matmuls(run) for name, run in twin.phases.items()}
    return counts | {"update": sum((counts[name] for name in UPDATE), Counter())}


class Learner:
    """Imagination training on random weights and contexts, a phase at a time."""

    def __init__(self, config: BenchImagination, imagination: ImaginationConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        dynamics = imagination.agent.dynamics
        with device:
            agent = for_inference(Agent(imagination.agent), device, compile=False, half=config.half)
            self.model = Imagination(imagination, agent)
            self.contexts = random_latents(dynamics, Clips(config.batch, config.context), device)
        wake(self.model)
        self.optimizers = make_optimizers(self.model, OptimizerConfig())
        self._numbers = count()
        self._loss: Tensor | None = None

    @property
    def phases(self) -> dict[str, Callable[[], None]]:
        """In the order in which they must run."""
        runs = self.dream, self.forward, self.backward, self.update_weights
        return dict(zip(("dream", *UPDATE), runs, strict=True))

    def dream(self) -> None:
        """With a graph for the gradient only where the actor learns through it; the graph is dropped."""
        with autocast(self.config.dtype, self.device):
            self.model.dream(self.contexts, self._draws(), differentiable=self.model.config.actor == "dynamics")

    def forward(self) -> None:
        with autocast(self.config.dtype, self.device):
            self._loss, _ = self.model(self.contexts, self._draws())

    def backward(self) -> None:
        assert self._loss is not None
        self._loss.backward()
        self._loss = None

    def update_weights(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def _draws(self) -> Rows:
        return Rows(0, next(self._numbers), 0, self.config.batch, self.device)


def show_imagination(numbers: dict[str, Any]) -> None:
    table = Table(title=f"Imagination, preset {numbers['preset']}")
    for column in ("actor", "", "seconds", "updates/s", "imagined frames/s", "floor s", "of the floor"):
        table.add_column(column, justify="right" if column else "left", no_wrap=not column)
    for actor, row in numbers["actors"].items():
        for name in ("dream", "update", "forward", "backward"):
            part = row[name]
            rates = (part.get(key) for key in ("updates_per_s", "imagined_frames_per_s"))
            table.add_row(
                actor if name == "dream" else "",
                name if name in ("dream", "update") else f"  {name}",
                f"{part['seconds']:.3g}",
                *("" if rate is None else f"{rate:.3g}" for rate in rates),
                f"{part['floor_s']:.2g}",
                f"{part['share_of_floor']:.0%}",
            )
        table.add_section()
    rows = list(numbers["actors"].values())
    Console().print(
        f"{numbers['device']}, {numbers['threads']} threads, torch {numbers['torch']}, {numbers['commit']}: "
        f"{numbers['dtype']}, {'compiled' if all(row['compiled'] for row in rows) else 'not compiled'}. "
        f"{rows[0]['dreams']} dreams of {rows[0]['horizon']} frames after {rows[0]['context']}, "
        f"K = {rows[0]['num_steps']}.",
        markup=False,
        highlight=False,
    )
    Console().print(table)


PRESETS = {name: BenchImagination(preset=name) for name in MODELS} | {
    "debug": BenchImagination(
        preset="debug", batch=2, context=4, compile=False, repeats=1, rate_seconds=0.003, dtype="fp32"
    )
}
