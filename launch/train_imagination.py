"""Train the policy in imagination: PMPO on dreams of the frozen world model, with a value head.

python -m launch.train_imagination laptop
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from agent.imagination import Imagination, ImaginationConfig
from launch.command import main
from launch.distributed import parallelism
from launch.loop import LoopConfig
from launch.models import check_same_tokenizer, for_inference, load_agent
from launch.presets import MODELS
from launch.training import Source, TrainOnLatents, run_training


@dataclass(frozen=True, kw_only=True)
class TrainImagination(TrainOnLatents):
    """Clips of `length` frames are the contexts: one dream starts from each."""

    agent: Path
    """Run folder of the cloned agent to start from."""
    model: ImaginationConfig = ImaginationConfig()


def train_imagination(config: TrainImagination) -> None:
    if parallelism() == "DeepSpeed":
        raise ValueError(
            "imagination trains small heads on a frozen world in 16 bits, of which ZeRO has nothing to spread: "
            "start it with --config_file launch/configs/ddp.yaml"
        )

    def build(source: Source) -> nn.Module:
        agent = load_agent(config.agent)
        world = agent.world.config
        check_same_tokenizer(world.tokenizer, source.meta.tokenizer, model=config.agent, other=config.encoder)
        # Frozen weights are cast once here; autocast would cast them anew in every pass of every dream.
        half = config.loop.precision == "bf16"
        return Imagination(config.model, for_inference(agent, torch.device("cpu"), compile=False, half=half))

    run_training(config, build, kind="latents", tokenizer=config.tokenizer)


PRESETS = {
    "debug": TrainImagination(
        run=Path("runs/debug/imagination"),
        data=("runs/debug/latents/train",),
        agent=Path("runs/debug/agent"),
        batch_size=2,
        length=4,
        model=MODELS["debug"].imagination,
        loop=LoopConfig(steps=3, warmup_steps=1, log_every=1, save_every=2, learning_rate=1e-3, ema_decay=0.0),
    ),
    "laptop": TrainImagination(
        run=Path("runs/laptop/imagination"),
        data=("runs/laptop/latents/train",),
        agent=Path("runs/laptop/agent"),
        batch_size=32,
        length=16,
        model=MODELS["laptop"].imagination,
        loop=LoopConfig(
            steps=90,
            warmup_steps=10,
            log_every=5,
            save_every=25,
            learning_rate=6e-4,
            schedule="constant",
            ema_decay=0.0,
            compile=True,
        ),
    ),
}

GIVEN = {ImaginationConfig: ["agent"]}
"""What the command itself fills in, from the data or from the run that it starts from."""

if __name__ == "__main__":
    main(PRESETS, train_imagination, description=__doc__, given=GIVEN)
