"""How long a training step and a generated frame take, and how long their matrix products alone would.

Axes: b worlds, t frames, a the flat action row.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from dynamics.simulator import Simulator
from dynamics.world_model import DynamicsConfig, WorldModel
from launch.compiling import checkpoint_activations, compile_model, is_compiled
from launch.distributed import FloatFormat
from launch.flops import Counts, MatmulShape, count_matmuls, floor_seconds, synchronise, total_flops
from launch.memory import fits
from launch.models import for_inference
from launch.on_meta import on_meta, step_products, uncapped_dynamics
from launch.presets import Clips
from launch.random_clips import random_actions, random_clips, random_latents
from launch.report import memory_gb
from tokenizer.autoencoder import Tokenizer, TokenizerConfig
from tokenizer.draws import Rows
from tokenizer.records import LatentClip

WARM_STEPS = 2
COUNTED_FRAMES = 4
"""Generated frames whose products are counted: the first and the last pass of a dream belong to it as a whole."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What is the same for all measurements of a run."""

    accelerator: Accelerator
    precision: FloatFormat
    compile: bool
    repeats: int
    """Of each measurement; the median counts."""
    rates: Callable[[MatmulShape], float] | None
    """Best FLOP/s of a matrix product, for the floors; with None there are none."""
    recompute: bool = False
    """Whether backward passes compute each layer again."""

    @property
    def device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device


def measure_training(config: TokenizerConfig | DynamicsConfig, clips: Clips, conditions: Conditions) -> dict[str, Any]:
    """Forward and backward pass on noise, as the training loop runs them; no optimizer."""
    with fits(f"a step of {clips.batch} clips x {clips.frames} frames", "choose a smaller preset, or other --parts"):
        return _measure_training(config, clips, conditions)


def _measure_training(config: TokenizerConfig | DynamicsConfig, clips: Clips, conditions: Conditions) -> dict[str, Any]:
    _forget_peak(conditions.device)
    with conditions.device:
        model = Tokenizer(config) if isinstance(config, TokenizerConfig) else WorldModel(config)
    wake(model)
    step = training_step(model, random_clips(config, clips, conditions.device), conditions.accelerator)
    counts = _products(config, clips, step, conditions.device)  # before compiling, which hides them
    if conditions.recompute:
        checkpoint_activations(model)
    if conditions.compile:
        print(compile_model(model), flush=True)
    for _ in range(WARM_STEPS):
        step()
    times = [seconds(step, conditions.device) for _ in range(conditions.repeats)]
    conditions.accelerator.free_memory()
    flops, frames, middle = total_flops(counts), clips.batch * clips.frames, median(times)
    return {
        "step_s": middle,
        "best_step_s": min(times),
        "floor_s": None if conditions.rates is None else floor_seconds(counts, conditions.rates),
        "compiled": is_compiled(model),
        "batch": clips.batch,
        "frames": clips.frames,
        "flops": flops,
        "flops_per_s": flops / middle,
        "frames_per_s": frames / middle,
        "tokens_per_s": frames * _slots(config) / middle,
        "parameters": sum(p.numel() for p in model.parameters()),
        "peak_memory_bytes": round(memory_gb(conditions.device) * 1e9),
    }


def _products(
    config: TokenizerConfig | DynamicsConfig, clips: Clips, step: Callable[[], None], device: torch.device
) -> Counts:
    """Those of a training step: of itself on a CPU, elsewhere of its twin, since soft-capping's kernel hides them."""
    if device.type == "cpu":
        return count_matmuls(step)
    return step_products(on_meta(config), clips)


def training_step(model: nn.Module, batch: Any, accelerator: Accelerator) -> Callable[[], None]:
    wrapped = accelerator.prepare(model)
    numbers = count()

    def step() -> None:
        loss, _ = wrapped(batch, Rows(0, next(numbers), 0, len(batch.task), accelerator.device))
        accelerator.backward(loss)
        model.zero_grad()

    return step


@torch.no_grad()
def wake(model: nn.Module) -> None:
    """Redraws the matrices that start at zero: a trained model has none."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    began = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - began


def _slots(config: TokenizerConfig | DynamicsConfig) -> int:
    """Tokens of a frame inside the model."""
    if isinstance(config, TokenizerConfig):
        return config.num_patches + config.num_latents
    return config.world_slots


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


class Generation:
    """A world model that generates frames, with one agent token as in play."""

    def __init__(self, config: DynamicsConfig, conditions: Conditions) -> None:
        self.config = config
        self.conditions = conditions
        self.world = self._world(config)
        if conditions.compile:
            print(compile_model(self.world), flush=True)

    def measure(self, context: Clips, *, frames: int, acting: bool) -> dict[str, Any]:
        """So many frames after a context; acting, each action waits for the agent output of the frame before it."""
        return measure_in_turns([(self, context)], frames=frames, acting=acting)[0]

    def run(self, clip: LatentClip, actions: Tensor, acting: bool) -> tuple[float, float, float]:
        """Seconds of taking in the context, of the first frame after it, and of the frames after that."""
        simulator, device = self._simulator(self.world, len(actions)), self.conditions.device
        prefill = seconds(lambda: simulator.reset(clip), device)
        first = seconds(lambda: generate(simulator, actions[:, :1], acting), device)
        return prefill, first, seconds(lambda: generate(simulator, actions, acting), device)

    def floor(self, clip: LatentClip, actions: Tensor, acting: bool) -> float | None:
        """Of one frame of all worlds, by a model whose window is no longer than what there is to see."""
        if self.conditions.rates is None:
            return None
        transformer = self.config.transformer
        window = min(transformer.window, clip.num_frames + actions.shape[1])
        world = self._world(uncapped_dynamics(replace(self.config, transformer=replace(transformer, window=window))))
        simulator = self._simulator(world, len(actions))
        simulator.reset(clip)
        counts = count_matmuls(lambda: generate(simulator, actions, acting))
        return floor_seconds(counts, self.conditions.rates) / actions.shape[1]

    def _world(self, config: DynamicsConfig) -> WorldModel:
        with self.conditions.device:
            world = WorldModel(config)
        wake(world)
        return for_inference(world, self.conditions.device, compile=False, half=self.conditions.precision == "bf16")

    def _simulator(self, world: WorldModel, batch: int) -> Simulator:
        generator = torch.Generator(self.conditions.device).manual_seed(0)
        token = 0.02 * torch.randn(batch, 1, self.config.transformer.dim, device=self.conditions.device)
        return Simulator(world, agent_tokens=token, generator=generator)


def measure_in_turns(cases: Sequence[tuple[Generation, Clips]], *, frames: int, acting: bool) -> list[dict[str, Any]]:
    """A row for each model and context, which run by turns: so that a slow spell of the machine falls on all."""
    conditions = cases[0][0].conditions
    device = conditions.device
    _forget_peak(device)
    with fits(
        " or ".join(f"{c.batch} worlds x {c.frames} frames" for _, c in cases), "give smaller --batches or --contexts"
    ):
        config, contexts = cases[0][0].config, dict.fromkeys(context for _, context in cases)
        clips = {context: random_latents(config, context, device) for context in contexts}
        actions = {c: random_actions(config.actions, Clips(c.batch, frames), device) for c in contexts}
        rounds = [
            [model.run(clips[context], actions[context], acting) for model, context in cases]
            for _ in range(conditions.repeats + 1)
        ]
    peak = round(memory_gb(device) * 1e9)
    rows = []
    for (model, context), runs in zip(cases, zip(*rounds[1:], strict=True), strict=True):  # the first round warms up
        prefill, first, rest = (list(times) for times in zip(*runs, strict=True))
        rows.append(
            {
                "batch": context.batch,
                "context": context.frames,
                "window": model.config.transformer.window,
                "frames_per_s": context.batch * frames / median(rest),
                "first_frame_s": median(first),
                "floor_s": model.floor(clips[context], actions[context][:, :COUNTED_FRAMES], acting),
                "acting": acting,
                "compiled": is_compiled(model.world),
                "frame_s": median(rest) / frames,
                "best_frame_s": min(rest) / frames,
                "prefill_s": median(prefill),
                "peak_memory_bytes": peak,
            }
        )
    return rows


def generate(simulator: Simulator, actions: Float[Tensor, "b t a"], acting: bool) -> None:
    """The frames of these actions at once, or one by one under actions that only the frame before decides."""
    if not acting:
        simulator.dream(actions)
        return
    action = actions[:, 0]
    for t in range(actions.shape[1]):
        output = simulator.step(action).agent_output
        action = torch.where(output.float().mean((1, 2)).gt(0).unsqueeze(-1), actions[:, t], actions[:, t - 1])
