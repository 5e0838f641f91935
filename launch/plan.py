"""Say what a preset takes before it is run: parameters, memory on each GPU, FLOPs, days of training.

    python -m launch.plan dreamer4 --gpus 256
    python -m launch.plan dreamer4 --model.dynamics.transformer.depth 40 --json plan.json

Nothing is allocated: models and batches are on the meta device. What is assumed is printed with the numbers, and kept
here as `ASSUMPTIONS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from agent.agent import Agent, AgentConfig
from dynamics.world_model import DynamicsConfig, WorldModel
from launch.activations import kept_by_autograd
from launch.command import main
from launch.flops import count_matmuls, total_flops
from launch.on_meta import META, agent_on_meta, loss_on_meta, step_products, tokenizer_on_meta, world_on_meta
from launch.presets import MODELS, Clips, ModelPreset
from launch.random_clips import random_latents
from launch.run_folder import write_json
from tokenizer.autoencoder import Tokenizer

PAPER_FRAMES = 2541 * 3600 * 20
"""Of the paper's Minecraft videos: 2541 hours at 20 frames a second."""
ASSUMPTIONS = (
    "States, bytes a parameter: bf16 weights 2 and gradients 2, fp32 master weights 4, two AdamW moments 8, moving "
    "average 4. ZeRO-1 shares master weights and moments among the GPUs, ZeRO-2 also gradients, ZeRO-3 also weights "
    "and the moving average. Buckets, fragmentation and the CUDA context come on top.",
    "Activations: the tensors that autograd keeps of one step in bf16, uncompiled (compiled code keeps less), with a "
    "GPU's fused kernels: attention keeps its inputs, its output and 4 bytes a query, a norm its input and 4 bytes a "
    "row. Checkpointed: the layers' inputs, and all of the largest layer, which is computed again.",
    "FLOPs: matrix products only, the teacher's passes of bootstrap rows included. The perceptual loss's network is "
    "left out, in FLOPs and in memory.",
    "A generated frame: K denoising passes and a commit pass over one frame, all with a full window behind them; "
    "decoding it to pixels is counted by itself.",
    "Days: every frame is seen once by each model, at the stated share of the GPUs' peak, nothing lost between steps.",
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    model: ModelPreset
    gpus: int = 1
    frames: int = PAPER_FRAMES
    """Frames that each model trains on, repeats counted."""
    utilisation: float = 0.4
    """Share of the peak that training reaches."""
    peak_tflops: float = 989.0
    """Of one GPU; 989 is an H100's in bf16, dense."""
    json: Path | None = None
    """Also write the numbers here."""

    def __post_init__(self) -> None:
        for name in ("gpus", "frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}, needs at least 1")
        if not 0 < self.utilisation <= 1:
            raise ValueError(f"utilisation={self.utilisation} is not in (0, 1]")
        if self.peak_tflops <= 0:
            raise ValueError(f"peak_tflops={self.peak_tflops} must be above 0")


class Models(NamedTuple):
    """A preset's models on the meta device."""

    tokenizer: Tokenizer
    dynamics: WorldModel
    agent: Agent
    """Its world model is `dynamics`."""


def plan(config: Plan) -> None:
    numbers = estimate(config)
    show(config, numbers)
    if config.json is not None:
        write_json(config.json, numbers)
        print(f"numbers in {config.json}")


def estimate(config: Plan) -> dict[str, Any]:
    """All that the command says, as JSON."""
    models = build(config.model)
    parameters = count_parameters(models)
    clips = {"tokenizer": config.model.tokenizer_clips, "dynamics": config.model.dynamics_clips}
    flops = {name: _training_flops(getattr(models, name), clips[name]) for name in clips}
    return {
        "gpus": config.gpus,
        "parameters": parameters,
        "batch": {name: clips[name]._asdict() for name in clips},
        "state_bytes": {name: state_bytes(parameters[name], config.gpus) for name in clips},
        "activation_bytes": {name: _activation_bytes(getattr(models, name), clips[name]) for name in clips},
        "flops": {
            **flops,
            "generated_frame": generated_frame_flops(models.dynamics),
            "decoded_frame": decoded_frame_flops(models.tokenizer),
        },
        "kv_cache_bytes": kv_cache_bytes(models.agent),
        "training": {name: _training(config, clips[name], flops[name]["frame"]) for name in clips},
        "frames": config.frames,
        "utilisation": config.utilisation,
        "peak_tflops": config.peak_tflops,
        "assumptions": list(ASSUMPTIONS),
    }


def build(preset: ModelPreset) -> Models:
    world = world_on_meta(preset.joined_dynamics)
    return Models(tokenizer_on_meta(preset.tokenizer), world, agent_on_meta(preset.agent, world))


def count_parameters(models: Models) -> dict[str, int]:
    """Of the agent: its tokens and heads, without the world model inside."""
    tokenizer, dynamics, agent = (sum(p.numel() for p in model.parameters()) for model in models)
    return {"tokenizer": tokenizer, "dynamics": dynamics, "agent": agent - dynamics}


def state_bytes(parameters: int, gpus: int) -> dict[str, int]:
    """On each GPU, by what is shared among the GPUs (see `ASSUMPTIONS`)."""
    weights, gradients, optimizer, average = (size * parameters for size in (2, 2, 4 + 8, 4))
    return {
        "ddp": weights + gradients + optimizer + average,
        "zero1": weights + gradients + average + -(-optimizer // gpus),
        "zero2": weights + average + -(-(gradients + optimizer) // gpus),
        "zero3": -(-(weights + gradients + optimizer + average) // gpus),
    }


def _training_flops(model: Tokenizer | WorldModel, clips: Clips) -> dict[str, float]:
    step = total_flops(step_products(model, clips))
    return {"step": step, "frame": step / (clips.batch * clips.frames)}


def generated_frame_flops(world: WorldModel) -> int:
    def denoise(frames: int) -> object:
        clip = random_latents(world.config, Clips(1, frames), META)
        return world.denoise(clip.latents, world.context_grid((1, frames)), clip.actions, clip.labeled)

    passes = world.config.num_steps + 1
    return passes * _after_a_window(denoise, world.config.transformer.window)


def decoded_frame_flops(tokenizer: Tokenizer) -> int:
    def decode(frames: int) -> object:
        return tokenizer.decode(torch.rand(1, frames, *tokenizer.config.latent_shape, device=META))

    return _after_a_window(decode, tokenizer.config.decoder.window)


@torch.no_grad()
def _after_a_window(run: Callable[[int], object], window: int) -> int:
    """FLOPs of one frame whose past fills the window.

    A pass over t frames takes x t + y t^2: what frames cost by themselves, and attention of each to each.
    """
    one, two = (total_flops(count_matmuls(partial(run, frames))) for frames in (1, 2))
    each_pair = (two - 2 * one) // 2
    return one + each_pair * (window - 1)


def kv_cache_bytes(agent: Agent) -> int:
    """Keys and values of a whole window in bf16, of one world with agent tokens."""
    transformer = agent.config.dynamics.transformer
    slots = agent.config.dynamics.world_slots + agent.config.num_tokens
    channels = transformer.num_kv_heads * transformer.head_dim
    return 2 * 2 * transformer.time_layers * slots * channels * transformer.window


def _activation_bytes(model: Tokenizer | WorldModel, clips: Clips) -> dict[str, int]:
    """Of one clip, times the batch: the teacher's passes keep nothing."""
    model.to(torch.bfloat16)
    kept = kept_by_autograd(model, lambda: loss_on_meta(model, Clips(1, clips.frames)))
    model.float()
    return {name: clips.batch * size for name, size in kept._asdict().items()}


def _training(config: Plan, clips: Clips, flops_per_frame: float) -> dict[str, float]:
    seconds = config.frames * flops_per_frame / (config.gpus * config.peak_tflops * 1e12 * config.utilisation)
    steps = config.frames / (config.gpus * clips.batch * clips.frames)
    return {"steps": steps, "step_seconds": seconds / steps, "days": seconds / 86400}


def show(config: Plan, numbers: dict[str, Any]) -> None:
    console = Console()
    console.print(_sizes(numbers))
    console.print(_memory(config, numbers))
    for text in (
        f"One generated frame: {numbers['flops']['generated_frame'] / 1e9:,.4g} GFLOP, and "
        f"{numbers['flops']['decoded_frame'] / 1e9:,.4g} GFLOP to decode it. KV cache of one world: "
        f"{numbers['kv_cache_bytes'] / 1e6:,.4g} MB.",
        f"Training: {config.frames:,} frames on {config.gpus} GPUs at {config.utilisation:.0%} of "
        f"{config.peak_tflops:g} TFLOP/s.",
        *ASSUMPTIONS,
    ):
        console.print(text, markup=False, highlight=False)


def _sizes(numbers: dict[str, Any]) -> Table:
    table = Table(title="Sizes and training")
    table.add_column("")
    for name in numbers["parameters"]:
        table.add_column(f"{name} heads" if name == "agent" else name, justify="right")
    table.add_row("parameters", *(f"{count:,}" for count in numbers["parameters"].values()))
    for label, key, name, scale in (
        ("clips a step and GPU", "batch", "batch", 1),
        ("frames a clip", "batch", "frames", 1),
        ("TFLOP a step and GPU", "flops", "step", 1e12),
        ("GFLOP a frame", "flops", "frame", 1e9),
        ("seconds a step", "training", "step_seconds", 1),
        ("steps", "training", "steps", 1),
        ("days", "training", "days", 1),
    ):
        table.add_row(label, *(f"{numbers[key][model][name] / scale:,.4g}" for model in numbers["training"]))
    return table


def _memory(config: Plan, numbers: dict[str, Any]) -> Table:
    table = Table(title=f"GB on each of {config.gpus} GPUs")
    for column in ("", "DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3"):
        table.add_column(column, justify="right" if column else "left")
    for name, states in numbers["state_bytes"].items():
        table.add_row(f"{name}: states", *(f"{size / 1e9:.3g}" for size in states.values()))
        for label, size in numbers["activation_bytes"][name].items():
            with_activations = (f"{(state + size) / 1e9:.3g}" for state in states.values())
            table.add_row(f"{name}: with activations {label}", *with_activations)
    return table


PRESETS = {name: Plan(model=model) for name, model in MODELS.items()}

GIVEN = {ModelPreset: ["imagination"], AgentConfig: ["dynamics"], DynamicsConfig: ["latent_shape", "tokenizer"]}
"""What follows from the rest, or says nothing here."""

if __name__ == "__main__":
    main(PRESETS, plan, description=__doc__, processes="first", given=GIVEN)
