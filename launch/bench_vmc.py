"""Speed of World Models: training steps of V and M, and evolution beside the bare environment.

Evolution plays rollouts as `launch.evolve` does, by the same workers, and keeps what its environments were told; then
the same workers play that again on environments alone. So both draw the same frames, and what lies between them are V,
M, C, CMA-ES and the way from process to process.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn

from agent.controller import ControllerConfig
from agent.envs.vector import VectorEnv
from agent.evolution import Evolution, EvolutionConfig, Rollout, Rollouts, roll_out
from agent.worlds import RealWorld
from dynamics.mdn_rnn import MDNRNN, MDNRNNConfig
from launch import checkpoint, rolling_out
from launch.checkpoint import Snapshot, describe
from launch.distributed import FloatFormat, autocast, cores, has_bf16
from launch.engine import whole_copies
from launch.models import default_device, device_name, fingerprint
from launch.optimizers import OptimizerConfig, make_optimizers
from launch.rolling_out import Order, WorldSpec
from launch.workers import Tell, Workers
from tokenizer.draws import Rows
from tokenizer.records import Clip, EpisodeClip, LatentClip
from tokenizer.vae import VAE, VAEConfig

ENVIRONMENT = "CarRacing-v3"
PEERS = {"vae_step_s": 0.090, "mdn_rnn_step_s": 0.013}
"""Seconds of ctallec/world-models for 32 frames and 16 x 32, in fp32, on two threads of a machine with AVX-512."""


@dataclass(frozen=True, kw_only=True)
class BenchVMC:
    preset: Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress]
    processes: int | None = None
    """Workers that play; one for each core where not given."""
    num_envs: int = 16
    """Environments of each."""
    population: int = 32
    """Candidates of a generation."""
    rollouts: int = 2
    """Of each candidate."""
    max_steps: int = 100
    """Of each rollout."""
    generations: int = 3
    """That are measured; the median counts."""
    steps: int = 30
    """Training steps that are measured; the median counts."""
    json: Path | None = None
    """Also write the numbers here."""

    def __post_init__(self) -> None:
        for name in ("num_envs", "rollouts", "max_steps", "generations", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}, needs at least 1")


def bench_vmc(config: BenchVMC) -> dict[str, Any]:
    device = default_device()
    numbers = {
        "device": device_name(device),
        "vae_step_s": _step_seconds(lambda: VAE(VAEConfig()), _frames(), config.steps),
        "mdn_rnn_step_s": _step_seconds(lambda: MDNRNN(MDNRNNConfig()), _latents(), config.steps),
        "peer": PEERS,
    }
    return {**numbers, **_evolution(config)}


def _step_seconds(make: Callable[[], nn.Module], clip: Clip, steps: int) -> dict[str, float]:
    formats: tuple[FloatFormat, ...] = ("bf16", "fp32") if has_bf16() else ("fp32",)
    return {name: training_step_seconds(make(), clip, name, steps) for name in formats}


def training_step_seconds(model: nn.Module, clip: Clip, precision: FloatFormat, steps: int) -> float:
    """Of loss, gradient and update, on a batch that is at hand."""
    device = default_device()
    model, clip = model.to(device), clip.to(device)
    optimizers = make_optimizers(model, OptimizerConfig())
    times = []
    for step in range(steps + 5):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        with autocast(precision, device):
            loss, _ = model(clip, Rows(0, step, 0, len(clip.task), device))
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return median(times[5:])


class Told(NamedTuple):
    """What environments were told in turn: seeds by place, places to stop, or action rows."""

    kind: str
    what: Any


class Played(NamedTuple):
    rollouts: Rollouts
    told: list[Told]


def play(order: Order, tell: Tell) -> Played:
    """As `rolling_out.work`, and remembers what its environments were told."""
    world = rolling_out.world_of(order.world)
    assert isinstance(world, RealWorld)
    told: list[Told] = []
    envs, world.envs = world.envs, _Remembering(world.envs, told)  # type: ignore[assignment]
    try:
        found = roll_out(world, order.controller, order.vectors, order.rollouts, max_steps=order.max_steps)
    finally:
        world.envs = envs
    return Played(found, told)


class _Remembering:
    def __init__(self, envs: VectorEnv, told: list[Told]) -> None:
        self.envs, self.told = envs, told

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        def call(what: Any) -> Any:
            self.told.append(Told(kind, what))
            return getattr(self.envs, kind)(what)

        return call


def play_again(order: tuple[WorldSpec, list[Told]], tell: Tell) -> None:
    """The same, by the environments alone."""
    spec, told = order
    world = rolling_out.world_of(spec)
    assert isinstance(world, RealWorld)
    for kind, what in told:
        getattr(world.envs, kind)(what)


def _evolution(config: BenchVMC) -> dict[str, Any]:
    processes = cores() if config.processes is None else config.processes
    with TemporaryDirectory() as folder, Workers(processes) as workers:
        spec = _untrained(config, Path(folder))
        controller = ControllerConfig(resting=("brake",))
        evolution = Evolution(controller.num_parameters, EvolutionConfig(population=config.population))
        rates: list[tuple[float, float]] = []
        for generation in range(config.generations + 1):
            began = time.perf_counter()
            orders = _orders(config, spec, controller, evolution.candidates, generation, max(1, processes))
            played = workers.carry_out(orders, play, lambda *_: None, stopped=lambda: False)
            fitness = np.zeros(config.population)
            for order, (found, _) in zip(orders, played, strict=True):
                np.add.at(fitness, [rollout.candidate for rollout in order.rollouts], found.returns)
            evolution.tell(fitness)
            evolving = time.perf_counter() - began
            began = time.perf_counter()
            workers.carry_out([(spec, told) for _, told in played], play_again, lambda *_: None, stopped=lambda: False)
            bare = time.perf_counter() - began
            steps = sum(int(found.lengths.sum()) for found, _ in played)
            rates.append((steps / evolving, steps / bare))
        evolved, alone = (median(values) for values in zip(*rates[1:], strict=True))
    return {
        "environment": ENVIRONMENT,
        "processes": processes,
        "num_envs": config.num_envs,
        "evolution_steps_per_s": evolved,
        "bare_steps_per_s": alone,
        "evolution_share": median(ours / theirs for ours, theirs in rates[1:]),
    }


def _orders(
    config: BenchVMC,
    spec: WorldSpec,
    controller: ControllerConfig,
    vectors: NDArray[np.float64],
    generation: int,
    parts: int,
) -> list[Order]:
    seeds = range(config.rollouts * generation, config.rollouts * (generation + 1))
    everything = [Rollout(candidate, seed) for candidate in range(len(vectors)) for seed in seeds]
    return [
        Order(
            world=spec,
            controller=controller,
            vectors=vectors,
            rollouts=tuple(everything[part::parts]),
            max_steps=config.max_steps,
            patience=0,
        )
        for part in range(parts)
    ]


def _untrained(config: BenchVMC, folder: Path) -> WorldSpec:
    """A world with V and M as they were made: what they say costs the same time."""
    models = {"vae": VAE(VAEConfig()), "mdn_rnn": MDNRNN(MDNRNNConfig())}
    marks = {name: fingerprint(model) for name, model in models.items()}
    for name, model in models.items():
        tensors = whole_copies(model.state_dict().items())
        snapshot = Snapshot(model=tensors, ema={}, optimizer={}, config=describe(model))
        checkpoint.save(folder / name, 0, snapshot, {})
    return WorldSpec(
        environment=ENVIRONMENT,
        action_repeat=4,
        num_envs=config.num_envs,
        vae=folder / "vae",
        vae_mark=marks["vae"],
        mdn_rnn=folder / "mdn_rnn",
        mdn_rnn_mark=marks["mdn_rnn"],
    )


def _frames() -> EpisodeClip:
    frames = torch.randint(0, 256, (32, 1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return EpisodeClip(frames=frames, **_rest(32, 1))


def _latents() -> LatentClip:
    latents = torch.randn(16, 33, 2, 32, generator=torch.Generator().manual_seed(0))
    return LatentClip(latents=latents, **_rest(16, 33))


def _rest(batch: int, length: int) -> dict[str, torch.Tensor]:
    false = torch.zeros(batch, length, dtype=torch.bool)
    return {
        "actions": torch.zeros(batch, length, 3),
        "labeled": ~false,
        "rewards": torch.zeros(batch, length),
        "continues": ~false,
        "is_first": false,
        "task": torch.zeros(batch, dtype=torch.int64),
    }


def show_vmc(numbers: dict[str, Any]) -> None:
    table = Table(title=f"World Models on {numbers['device']}")
    for column in ("", "here", "beside", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for name, label in {"vae_step_s": "V step, 32 frames", "mdn_rnn_step_s": "M step, 16 x 32 frames"}.items():
        theirs = numbers["peer"][name]
        for precision, mine in numbers[name].items():
            ratio = f"{theirs / mine:.2f}x"
            table.add_row(
                f"{label}, {precision} (ctallec, fp32)", f"{1e3 * mine:.1f} ms", f"{1e3 * theirs:.1f} ms", ratio
            )
    table.add_row(
        f"steps of {numbers['environment']}, {numbers['processes']} processes (bare)",
        f"{numbers['evolution_steps_per_s']:.0f}/s",
        f"{numbers['bare_steps_per_s']:.0f}/s",
        f"{numbers['evolution_share']:.2f}",
    )
    Console().print(table)


PRESETS = {
    "laptop": BenchVMC(preset="laptop"),
    "debug": BenchVMC(
        preset="debug", processes=1, num_envs=2, population=4, rollouts=1, max_steps=4, generations=1, steps=2
    ),
}
