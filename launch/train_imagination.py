"""Train the policy in imagination: PMPO on dreams of the frozen world model, with a value head.

    python -m launch.train_imagination laptop
    python -m launch.train_imagination laptop --model.actor dynamics --run runs/laptop/dreamer_v1

The second is Dreamer V1's actor: the gradient of the returns runs through the dynamics. With --held-out alarms tell
when dreams pay more than the game, and the checkpoint whose measures have left their ranges least is used, of equals
the newest.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from agent.imagination import Imagination, ImaginationConfig
from agent.relevance import relevant_clips
from launch.command import main
from launch.distributed import calculated_in, parallelism
from launch.loop import LoopConfig
from launch.models import check_can_dream, check_fits, for_inference, load_agent
from launch.presets import MODELS
from launch.training import Source, run_training
from launch.watching import CLIPS_OF_MANY_TASKS, TrainAndWatch, Watch


@dataclass(frozen=True, kw_only=True)
class TrainImagination(TrainAndWatch):
    """Clips of `length` frames are the contexts: one dream starts from each."""

    agent: Path
    """Run folder of the cloned agent to start from."""
    model: ImaginationConfig = ImaginationConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.real_value and self.length < 2:
            raise ValueError(f"length={self.length}: the value head learns from rewards between a context's frames")


def train_imagination(config: TrainImagination) -> None:
    if parallelism() == "DeepSpeed":
        raise ValueError(
            "imagination trains small heads on a frozen world in 16 bits, of which ZeRO has nothing to spread: "
            "start it with --config_file launch/configs/ddp.yaml"
        )

    watch = None
    if config.watched is not None:
        # The newest: what dreams pay differs less between checkpoints than between the dreams of one.
        watch = Watch(config, score=lambda measures: 0.0, relevant=relevant_clips)

    def build(source: Source) -> nn.Module:
        agent = load_agent(config.agent)
        world, tasks = agent.world.config, agent.config.tasks
        check_fits(world, source.meta, model=config.agent, other=config.encoder, tasks=tasks)
        check_can_dream(agent, config.agent)
        _check_rewards(source)
        if watch is not None:
            watch.begin(agent.world, tasks=tasks, model=config.agent)
        # Frozen weights are cast once here; autocast would cast them anew in every pass of every dream.
        half = calculated_in(config.loop.precision) == "bf16"
        return Imagination(config.model, for_inference(agent, torch.device("cpu"), compile=False, half=half))

    run_training(config, build, kind="latents", tokenizer=config.tokenizer, evaluate=watch)


def _check_rewards(source: Source) -> None:
    if all(sample.reward_sum == 0 for sample in source.dataset.samples):
        raise ValueError(
            f"{source.dataset.name} holds no reward, and imagination has nothing to strive for: cloning works without"
        )


PRESETS = {
    "debug": TrainImagination(
        run=Path("runs/debug/imagination"),
        data=("runs/debug/latents/train",),
        held_out_clips=2,
        agent=Path("runs/debug/agent"),
        batch_size=2,
        length=4,
        model=MODELS["debug"].imagination,
        loop=LoopConfig(steps=3, warmup_steps=1, log_every=1, save_every=2, learning_rate=1e-3, ema_decay=0.0),
    ),
    "laptop": TrainImagination(
        run=Path("runs/laptop/imagination"),
        data=("runs/laptop/latents/train",),
        evaluate_every=30,
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
PRESETS["study"] = replace(
    PRESETS["laptop"],
    run=Path("runs/study/imagination"),
    data=("runs/study/latents/train",),
    agent=Path("runs/study/agent"),
    evaluate_every=60,
    model=MODELS["study"].imagination,
    loop=replace(PRESETS["laptop"].loop, steps=120, save_every=60, learning_rate=2e-4, updates=16),
)
PRESETS["debug_v1"] = replace(
    PRESETS["debug"],
    run=Path("runs/debug/dreamer_v1"),
    model=replace(PRESETS["debug"].model, actor="dynamics"),
)
PRESETS["study_v1"] = replace(
    PRESETS["study"],
    run=Path("runs/study/dreamer_v1"),
    batch_size=16,
    model=replace(PRESETS["study"].model, actor="dynamics", horizon=10, discount=0.95, decay=0.8, value_warmup=20),
    loop=replace(PRESETS["study"].loop, steps=200, learning_rate=3e-4),
)
PRESETS["study_large"] = replace(
    PRESETS["study"],
    run=Path("runs/study_large/imagination"),
    data=("runs/study_large/latents/train",),
    agent=Path("runs/study_large/agent"),
    batch_size=128,
    model=MODELS["study_large"].imagination,
)
PRESETS["study_large_v1"] = replace(
    PRESETS["study_v1"],
    run=Path("runs/study_large/dreamer_v1"),
    data=("runs/study_large/latents/train",),
    agent=Path("runs/study_large/agent"),
    batch_size=64,
)
PRESETS["crafter"] = replace(
    PRESETS["study"],
    run=Path("runs/crafter/imagination"),
    data=("runs/crafter/latents/train",),
    agent=Path("runs/crafter/agent"),
    held_out_clips=CLIPS_OF_MANY_TASKS,
    model=MODELS["crafter"].imagination,
)
PRESETS["crafter_debug"] = replace(
    PRESETS["debug"],
    run=Path("runs/crafter_debug/imagination"),
    data=("runs/crafter_debug/latents/train",),
    agent=Path("runs/crafter_debug/agent"),
)
PRESETS["base"] = replace(
    PRESETS["study"],
    run=Path("runs/base/imagination"),
    data=("runs/base/latents/train",),
    agent=Path("runs/base/agent"),
    length=32,
    batch_size=64,
    held_out_clips=CLIPS_OF_MANY_TASKS,
    num_workers=4,
    model=MODELS["base"].imagination,
    loop=replace(PRESETS["study"].loop, steps=1000, save_every=100),
)
PRESETS["dreamer4"] = replace(
    PRESETS["base"],
    run=Path("runs/dreamer4/imagination"),
    data=("runs/dreamer4/latents/train",),
    agent=Path("runs/dreamer4/agent"),
    length=64,
    batch_size=8,
    model=MODELS["dreamer4"].imagination,
)

GIVEN = {ImaginationConfig: ["agent"]}
"""What the command itself fills in, from the data or from the run that it starts from."""

if __name__ == "__main__":
    main(PRESETS, train_imagination, description=__doc__, given=GIVEN)
