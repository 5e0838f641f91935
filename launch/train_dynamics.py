"""Train the dynamics: a world model on latents and actions, by shortcut forcing.

python -m launch.train_dynamics laptop
accelerate launch --config_file launch/configs/ddp.yaml --num_processes 2 -m launch.train_dynamics laptop
"""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from dynamics.actions import ActionSpace
from dynamics.world_model import DynamicsConfig, WorldModel
from launch.command import main
from launch.distributed import on_first_process
from launch.loop import LoopConfig
from launch.preset_loops import LOOPS
from launch.presets import MODELS
from launch.training import Source, TrainOnLatents, run_training
from tokenizer.records import LatentClip


@dataclass(frozen=True, kw_only=True)
class TrainDynamics(TrainOnLatents):
    model: DynamicsConfig = DynamicsConfig()
    standardise_from: int = 64
    """Clips from which mean and spread of the latents are measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        window = self.model.transformer.window
        if self.long_length is not None and self.long_length <= window:
            raise ValueError(
                f"long_length={self.long_length} is not above the attention window, model.transformer.window={window}: "
                "every context would have its start frame in sight"
            )


def train_dynamics(config: TrainDynamics) -> None:
    def build(source: Source) -> nn.Module:
        _say_if_never_past_the_window(config)
        tokens, channels = source.meta.item_shape
        model = WorldModel(
            replace(
                config.model,
                latent_shape=(tokens, channels),
                actions=ActionSpace.from_json(source.meta.action_space),
                tokenizer=source.meta.tokenizer,
            )
        )
        sample = source.windows(config.length, config.standardise_from)
        assert isinstance(sample, LatentClip)
        model.fit_standardisation(sample.latents)
        return model

    run_training(config, build, kind="latents", tokenizer=config.tokenizer)


def _say_if_never_past_the_window(config: TrainDynamics) -> None:
    longest, window = config.long_length or config.length, config.model.transformer.window
    if longest <= window and on_first_process():
        print(
            f"no clip is longer than the attention window ({longest} and {window} frames): contexts without a start "
            "frame, as long dreams have them, are never met; --long-length trains on some"
        )


PRESETS = {
    "debug": TrainDynamics(
        run=Path("runs/debug/dynamics"),
        data=("runs/debug/latents/train",),
        batch_size=4,
        length=8,
        standardise_from=4,
        model=MODELS["debug"].dynamics,
        loop=LoopConfig(steps=4, warmup_steps=1, log_every=1, save_every=2, learning_rate=1e-3),
    ),
    "laptop": TrainDynamics(
        run=Path("runs/laptop/dynamics"),
        data=("runs/laptop/latents/train",),
        batch_size=8,
        length=20,
        model=MODELS["laptop"].dynamics,
        loop=LoopConfig(
            steps=1100,
            warmup_steps=50,
            log_every=20,
            save_every=250,
            learning_rate=1.5e-3,
            optimizer="muon",
            ema_decay=0.995,
            compile=True,
        ),
    ),
    "carracing": TrainDynamics(
        run=Path("runs/carracing/dynamics"),
        data=("runs/carracing/latents/train",),
        batch_size=8,
        length=20,
        model=MODELS["carracing"].dynamics,
        loop=LoopConfig(
            steps=4500,
            warmup_steps=100,
            log_every=50,
            save_every=500,
            learning_rate=1.5e-3,
            optimizer="muon",
            ema_decay=0.998,
            compile=True,
        ),
    ),
}
PRESETS["study"] = replace(
    PRESETS["laptop"],
    run=Path("runs/study/dynamics"),
    data=("runs/study/latents/train",),
    length=24,
    model=MODELS["study"].dynamics,
    loop=replace(PRESETS["laptop"].loop, steps=2000, save_every=500, ema_decay=0.997),
)
PRESETS["study_large"] = replace(
    PRESETS["study"],
    run=Path("runs/study_large/dynamics"),
    data=("runs/study_large/latents/train",),
    batch_size=64,
    num_workers=2,
    model=MODELS["study_large"].dynamics,
    loop=replace(PRESETS["study"].loop, warmup_steps=100),
)
PRESETS["crafter"] = replace(
    PRESETS["study"],
    run=Path("runs/crafter/dynamics"),
    data=("runs/crafter/latents/train",),
    model=MODELS["crafter"].dynamics,
)
PRESETS["crafter_debug"] = replace(
    PRESETS["debug"], run=Path("runs/crafter_debug/dynamics"), data=("runs/crafter_debug/latents/train",)
)
PRESETS["base"] = TrainDynamics(
    run=Path("runs/base/dynamics"),
    data=("runs/base/latents/train",),
    batch_size=MODELS["base"].dynamics_clips.batch,
    length=MODELS["base"].dynamics_clips.frames,
    long_length=128,
    num_workers=4,
    model=MODELS["base"].dynamics,
    loop=LOOPS["base"],
)
PRESETS["dreamer4"] = replace(
    PRESETS["base"],
    run=Path("runs/dreamer4/dynamics"),
    data=("runs/dreamer4/latents/train",),
    batch_size=MODELS["dreamer4"].dynamics_clips.batch,
    length=MODELS["dreamer4"].dynamics_clips.frames,
    long_length=256,
    model=MODELS["dreamer4"].dynamics,
    loop=LOOPS["dreamer4"],
)

GIVEN = {DynamicsConfig: ["latent_shape", "actions", "tokenizer"]}
"""What the command itself fills in, from the data or from the run that it starts from."""

if __name__ == "__main__":
    main(PRESETS, train_dynamics, description=__doc__, given=GIVEN)
