"""Train the tokenizer: a masked autoencoder from video to latents and back.

python -m launch.train_tokenizer laptop
python -m launch.train_tokenizer laptop --run runs/other --loop.steps 5000
"""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from launch.command import main
from launch.distributed import on_first_process
from launch.frame_training import TrainOnFrames, run_training_on_frames
from launch.loop import LoopConfig
from launch.preset_loops import LOOPS
from launch.presets import MODELS
from tokenizer.autoencoder import Tokenizer, TokenizerConfig
from tokenizer.perceptual import perceptual_available


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer(TrainOnFrames):
    model: TokenizerConfig = TokenizerConfig()


def train_tokenizer(config: TrainTokenizer) -> None:
    def make(size: tuple[int, int]) -> nn.Module:
        if on_first_process():
            print(
                f"perceptual loss: LPIPS-lite0 x {config.model.perceptual_weight:g}"
                if config.model.perceptual_weight
                else f"perceptual loss: off (weights {'installed' if perceptual_available() else 'not installed'}; "
                "--model.perceptual-weight 0.2 turns it on)"
            )
        return Tokenizer(replace(config.model, frame_size=size))

    run_training_on_frames(config, make, reconstruct)


def reconstruct(model: nn.Module, video: Tensor) -> tuple[Tensor, Tensor, dict[str, float]]:
    """The video, what comes out of it again, and the spread of its latents."""
    assert isinstance(model, Tokenizer)
    latents = model.encode(video)
    return video, model.decode(latents).float(), {"held_out_latent_std": float(latents.float().std())}


PRESETS = {
    "debug": TrainTokenizer(
        run=Path("runs/debug/tokenizer"),
        data=("runs/debug/data/train",),
        held_out=Path("runs/debug/data/held_out"),
        held_out_clips=2,
        skip_frames=0,
        batch_size=2,
        length=4,
        model=MODELS["debug"].tokenizer,
        loop=LoopConfig(steps=4, warmup_steps=1, log_every=1, save_every=2, learning_rate=1e-3),
    ),
    "laptop": TrainTokenizer(
        run=Path("runs/laptop/tokenizer"),
        data=("runs/laptop/data/train",),
        held_out=Path("runs/laptop/data/held_out"),
        batch_size=8,
        length=8,
        evaluate_every=200,
        model=MODELS["laptop"].tokenizer,
        loop=LoopConfig(
            steps=700,
            warmup_steps=50,
            log_every=20,
            save_every=200,
            learning_rate=2e-3,
            optimizer="muon",
            ema_decay=0.99,
            compile=True,
        ),
    ),
    "carracing": TrainTokenizer(
        run=Path("runs/carracing/tokenizer"),
        data=("runs/carracing/data/train",),
        held_out=Path("runs/carracing/data/held_out"),
        batch_size=8,
        length=8,
        evaluate_every=500,
        model=MODELS["carracing"].tokenizer,
        loop=LoopConfig(
            steps=2500,
            warmup_steps=100,
            log_every=50,
            save_every=500,
            learning_rate=2e-3,
            optimizer="muon",
            ema_decay=0.995,
            compile=True,
        ),
    ),
}
PRESETS["study"] = replace(
    PRESETS["laptop"],
    run=Path("runs/study/tokenizer"),
    data=("runs/study/data/train",),
    held_out=Path("runs/study/data/held_out"),
    evaluate_every=400,
    loop=replace(PRESETS["laptop"].loop, steps=1600, save_every=400),
)
PRESETS["study_large"] = replace(
    PRESETS["study"],
    run=Path("runs/study_large/tokenizer"),
    data=("runs/study_large/data/train",),
    held_out=Path("runs/study_large/data/held_out"),
    batch_size=64,
    num_workers=6,
    evaluate_every=500,
    model=MODELS["study_large"].tokenizer,
    loop=replace(PRESETS["study"].loop, steps=1500, save_every=500, ema_decay=0.997),
)
PRESETS["crafter"] = replace(
    PRESETS["study"],
    run=Path("runs/crafter/tokenizer"),
    data=("runs/crafter/data/train",),
    held_out=Path("runs/crafter/data/held_out"),
    skip_frames=0,
    batch_size=32,
    length=2,  # eight frames of one clip are nearly one frame: of longer clips it learns the ground, and no tree
    model=MODELS["crafter"].tokenizer,
)
PRESETS["crafter_debug"] = replace(
    PRESETS["debug"],
    run=Path("runs/crafter_debug/tokenizer"),
    data=("runs/crafter_debug/data/train",),
    held_out=Path("runs/crafter_debug/data/held_out"),
    model=replace(PRESETS["debug"].model, patch=24),
)
PRESETS["minecraft"] = replace(
    PRESETS["laptop"],
    run=Path("runs/minecraft/tokenizer"),
    data=("runs/minecraft/data/train",),
    held_out=Path("runs/minecraft/data/held_out"),
    held_out_clips=8,
    skip_frames=0,
    batch_size=4,
    length=2,
    model=MODELS["minecraft"].tokenizer,
    loop=replace(PRESETS["laptop"].loop, steps=1000),
)
PRESETS["base"] = TrainTokenizer(
    run=Path("runs/base/tokenizer"),
    data=("runs/base/data/train",),
    held_out=Path("runs/base/data/held_out"),
    skip_frames=0,
    batch_size=MODELS["base"].tokenizer_clips.batch,
    length=MODELS["base"].tokenizer_clips.frames,
    num_workers=8,
    evaluate_every=2000,
    model=MODELS["base"].tokenizer,
    loop=LOOPS["base"],
)
PRESETS["dreamer4"] = replace(
    PRESETS["base"],
    run=Path("runs/dreamer4/tokenizer"),
    data=("runs/dreamer4/data/train",),
    held_out=Path("runs/dreamer4/data/held_out"),
    batch_size=MODELS["dreamer4"].tokenizer_clips.batch,
    length=MODELS["dreamer4"].tokenizer_clips.frames,
    long_length=256,
    model=MODELS["dreamer4"].tokenizer,
    loop=LOOPS["dreamer4"],
)

GIVEN = {TokenizerConfig: ["frame_size"]}
"""What the command itself fills in, from the data or from the run that it starts from."""

if __name__ == "__main__":
    main(PRESETS, train_tokenizer, description=__doc__, given=GIVEN)
