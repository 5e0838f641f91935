"""What the trainings of frame models share, the tokenizer's and V's: held-out frames that they reconstruct."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from launch.distributed import autocast
from launch.memory import check_size, fits
from launch.pictures import save_rows
from launch.training import Source, TrainConfig, frame_bytes, open_dataset, run_training
from tokenizer.autoencoder import to_float
from tokenizer.metrics import psnr
from tokenizer.records import EpisodeClip
from tokenizer.stream import windows


@dataclass(frozen=True, kw_only=True)
class TrainOnFrames(TrainConfig):
    held_out: Path
    """Folder of shards that no training sees."""
    held_out_clips: int = 16
    """Clips that an evaluation reconstructs."""
    skip_frames: int = 13
    """Frames left out at the start of each held-out episode: CarRacing opens with a zoom."""


def run_training_on_frames(
    config: TrainOnFrames,
    make: Callable[[tuple[int, int]], nn.Module],
    reconstruct: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor, dict[str, float]]],
) -> None:
    """Trains what `make` makes for frames of a height and width.

    `reconstruct(model, video)` gives the video as the model sees it, what it makes of that, both [b, t, c, h, w] in
    [0, 1], and what else is to be logged.
    """
    held_out = held_out_windows(config)

    def build(source: Source) -> nn.Module:
        size, other = source.meta.frame_size, held_out.frames.shape[-2:]
        if size != tuple(other):
            raise ValueError(
                f"{source.dataset.name} has frames of {size[0]}x{size[1]} pixels and {config.held_out} of "
                f"{other[0]}x{other[1]}: give two folders of one size"
            )
        return make(size)

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        device = next(model.parameters()).device
        with (
            fits(f"{config.held_out_clips} held-out clips x {config.length} frames", "lower --held-out-clips"),
            torch.no_grad(),
            autocast(config.loop.precision, device),
        ):
            video, recon, more = reconstruct(model, to_float(held_out.frames.to(device)))
        shown = slice(0, 8)
        save_rows(config.run / "reconstructions.png", {"real": video[shown, -1], "reconstructed": recon[shown, -1]})
        return {"held_out_psnr": float(psnr(recon, video).mean()), **more}

    run_training(config, build, kind="frames", evaluate=evaluate)


def held_out_windows(config: TrainOnFrames) -> EpisodeClip:
    dataset = open_dataset(config.held_out, "frames")
    check_size(config.held_out_clips, config.length, frame_bytes(dataset), "--held-out-clips or --length")
    batch = windows(dataset, config.length, config.held_out_clips, start=config.skip_frames)
    assert isinstance(batch, EpisodeClip)
    return batch
