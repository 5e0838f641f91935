"""Train the tokenizer: a masked autoencoder from video to latents and back.

python -m launch.train_tokenizer laptop
python -m launch.train_tokenizer laptop --run runs/other --loop.steps 5000
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from launch.command import main
from launch.distributed import on_first_process
from launch.loop import LoopConfig
from launch.memory import check_size, fits
from launch.pictures import save_rows
from launch.presets import MODELS
from launch.training import Source, TrainConfig, frame_bytes, open_dataset, run_training
from tokenizer.autoencoder import Tokenizer, TokenizerConfig, to_float
from tokenizer.metrics import psnr
from tokenizer.perceptual import perceptual_available
from tokenizer.records import EpisodeClip
from tokenizer.stream import windows


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer(TrainConfig):
    held_out: Path
    """Folder of shards that no training sees."""
    held_out_clips: int = 16
    """Clips that an evaluation reconstructs."""
    skip_frames: int = 13
    """Frames left out at the start of each held-out episode: CarRacing opens with a zoom."""
    model: TokenizerConfig = TokenizerConfig()


def train_tokenizer(config: TrainTokenizer) -> None:
    held_out = held_out_windows(config)

    def build(source: Source) -> nn.Module:
        if on_first_process():
            print(
                f"perceptual loss: LPIPS-lite0 x {config.model.perceptual_weight:g}"
                if config.model.perceptual_weight
                else f"perceptual loss: off (weights {'installed' if perceptual_available() else 'not installed'}; "
                "--model.perceptual-weight 0.2 turns it on)"
            )
        size, other = source.meta.frame_size, held_out.frames.shape[-2:]
        if size != tuple(other):
            raise ValueError(
                f"{source.dataset.name} has frames of {size[0]}x{size[1]} pixels and {config.held_out} of "
                f"{other[0]}x{other[1]}: give two folders of one size"
            )
        return Tokenizer(replace(config.model, frame_size=size))

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(model, Tokenizer)
        device = next(model.parameters()).device
        with (
            fits(f"{config.held_out_clips} held-out clips x {config.length} frames", "lower --held-out-clips"),
            torch.no_grad(),
            torch.autocast(device.type, torch.bfloat16, enabled=config.loop.precision == "bf16"),
        ):
            video = to_float(held_out.frames.to(device))
            latents = model.encode(video)
            recon = model.decode(latents).float()
        shown = slice(0, 8)
        save_rows(config.run / "reconstructions.png", {"real": video[shown, -1], "reconstructed": recon[shown, -1]})
        return {"held_out_psnr": float(psnr(recon, video).mean()), "held_out_latent_std": float(latents.float().std())}

    run_training(config, build, kind="frames", evaluate=evaluate)


def held_out_windows(config: TrainTokenizer) -> EpisodeClip:
    dataset = open_dataset(config.held_out, "frames")
    check_size(config.held_out_clips, config.length, frame_bytes(dataset), "--held-out-clips or --length")
    batch = windows(dataset, config.length, config.held_out_clips, start=config.skip_frames)
    assert isinstance(batch, EpisodeClip)
    return batch


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

GIVEN = {TokenizerConfig: ["frame_size"]}
"""What the command itself fills in, from the data or from the run that it starts from."""

if __name__ == "__main__":
    main(PRESETS, train_tokenizer, description=__doc__, given=GIVEN)
