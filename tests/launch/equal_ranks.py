"""Trains the dynamics four steps and keeps each step's gradients.

accelerate launch tests/launch/equal_ranks.py OUT DATA ROWS PARTS   (ROWS of each process and part; PARTS accumulate)
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from dynamics.actions import ActionSpace
from dynamics.world_model import DynamicsConfig, WorldModel
from launch import engine, loop
from launch.distributed import accelerated, parallelism
from launch.engines import make_engine, spread_as_made
from launch.loop import LoopConfig, train
from launch.sharding import fill
from launch.zero import complete_config, launcher_config
from tests.builders import SMALL, randomised
from tokenizer.shards import Dataset
from tokenizer.stream import ClipStream, StreamConfig


def gradient(parameter: Tensor) -> Tensor:
    """Of all ranks, whole."""
    if parallelism() == "DeepSpeed":
        from deepspeed.utils import safe_get_full_grad

        found: Tensor = safe_get_full_grad(parameter)
        return found.clone()
    assert parameter.grad is not None
    return parameter.grad.full_tensor() if isinstance(parameter.grad, DTensor) else parameter.grad.clone()


def main(out: Path, data: Path, rows: int, parts: int) -> None:
    dataset = Dataset.open(data)
    tokens, channels = dataset.meta.item_shape
    config = DynamicsConfig(
        latent_shape=(tokens, channels),
        actions=ActionSpace.from_json(dataset.meta.action_space),
        transformer=SMALL,
        bootstrap_share=0.25,
        image_share=0.25,
    )
    gradients: dict[str, Tensor] = {}

    def recording(*arguments: object) -> engine.Engine:
        made = make_engine(*arguments)  # type: ignore[arg-type]
        clip, step = made.clip, 0

        def record(limit: float) -> Tensor:
            nonlocal step
            gradients.update({f"{step}.{name}": gradient(p) for name, p in made.model.named_parameters()})
            step += 1
            return clip(limit)

        made.clip = record  # type: ignore[method-assign]
        return made

    loop.make_engine = recording
    settings = LoopConfig(
        steps=4, accumulate=parts, log_every=1, precision="fp32", learning_rate=1e-2, warmup_steps=0, eps=1e-3
    )
    with accelerated("fp32", out) as accelerator:
        if parallelism() == "DeepSpeed":
            complete_config(
                launcher_config(accelerator),
                ranks=accelerator.num_processes,
                rows=rows,
                accumulate=parts,
                grad_clip=settings.grad_clip,
                half=False,
            )
        torch.manual_seed(0)
        weights = randomised(WorldModel(config), std=0.1).state_dict()
        with spread_as_made(accelerator):
            model = WorldModel(config)
        for name, tensor in model.state_dict(keep_vars=True).items():
            fill(tensor, weights[name])
        stream = ClipStream(
            dataset,
            StreamConfig(length=6, batch_size=rows, seed=2),
            accelerator.process_index,
            accelerator.num_processes,
        )
        train(model, stream, settings, out, accelerator=accelerator)
        if accelerator.is_main_process:
            save_file(gradients, out / "gradients.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
