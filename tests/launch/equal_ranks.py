"""Trains the dynamics four steps and keeps each step's gradients.

accelerate launch tests/launch/equal_ranks.py OUT DATA ROWS PARTS   (ROWS of each process and part; PARTS accumulate)
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from dynamics.actions import ActionSpace
from dynamics.world_model import DynamicsConfig, WorldModel
from launch.distributed import accelerated
from launch.loop import LoopConfig, train
from tests.builders import SMALL, randomised
from tokenizer.shards import Dataset
from tokenizer.stream import ClipStream, StreamConfig


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
    torch.manual_seed(0)
    gradients: dict[str, Tensor] = {}
    with accelerated("fp32", out) as accelerator:
        model = randomised(WorldModel(config), std=0.1)
        clip = accelerator.clip_grad_norm_

        def record(parameters: list[Tensor], limit: float) -> Tensor:
            step = len(gradients) // len(parameters)
            for number, parameter in enumerate(parameters):
                assert parameter.grad is not None
                gradients[f"{step}.{number}"] = parameter.grad.clone()
            return clip(parameters, limit)

        accelerator.clip_grad_norm_ = record  # type: ignore[method-assign, assignment]
        stream = ClipStream(
            dataset,
            StreamConfig(length=6, batch_size=rows, seed=2),
            accelerator.process_index,
            accelerator.num_processes,
        )
        loop = LoopConfig(
            steps=4, accumulate=parts, log_every=1, precision="fp32", learning_rate=1e-2, warmup_steps=0, eps=1e-3
        )
        train(model, stream, loop, out, accelerator=accelerator)
        if accelerator.is_main_process:
            save_file(gradients, out / "gradients.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
