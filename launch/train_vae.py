"""Train V of World Models: a variational autoencoder of single frames.

python -m launch.train_vae laptop
python -m launch.train_vae take_cover
"""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from launch.command import main
from launch.frame_training import TrainOnFrames, run_training_on_frames
from launch.loop import LoopConfig
from tokenizer.vae import VAE, VAEConfig


@dataclass(frozen=True, kw_only=True)
class TrainVAE(TrainOnFrames):
    """Clips are short, for V knows frames alone, and those of a clip are alike."""

    model: VAEConfig = VAEConfig()


def train_vae(config: TrainVAE) -> None:
    def make(size: tuple[int, int]) -> nn.Module:
        if size != config.model.frame_size:
            raise ValueError(
                f"V is made for frames of 64x64 pixels, these have {size[0]}x{size[1]}: collect or import others"
            )
        return VAE(config.model)

    run_training_on_frames(config, make, reconstruct)


def reconstruct(model: nn.Module, video: Tensor) -> tuple[Tensor, Tensor, dict[str, float]]:
    """The rows that V sees, and what comes out again from the means of their latents; PSNR is of these rows."""
    assert isinstance(model, VAE)
    return model.visible(video), model.visible(model.decode(model.encode(video)[..., 0, :])), {}


_LAPTOP = TrainVAE(
    run=Path("runs/laptop/vmc/vae"),
    data=("runs/laptop/vmc/data/train",),
    held_out=Path("runs/laptop/vmc/data/held_out"),
    batch_size=64,
    length=1,
    evaluate_every=1000,
    model=VAEConfig(hidden_rows=8),
    loop=LoopConfig(
        steps=4500,
        warmup_steps=100,
        log_every=50,
        save_every=1000,
        learning_rate=5e-4,
        weight_decay=0.0,
        betas=(0.9, 0.999),
        ema_decay=0.998,
        grad_clip=1000.0,
    ),
)
PRESETS = {
    "debug": TrainVAE(
        run=Path("runs/debug/vmc/vae"),
        data=("runs/debug/vmc/data/train",),
        held_out=Path("runs/debug/vmc/data/held_out"),
        held_out_clips=2,
        skip_frames=0,
        batch_size=4,
        length=1,
        loop=LoopConfig(steps=3, warmup_steps=1, log_every=1, save_every=2, learning_rate=1e-4),
    ),
    "laptop": _LAPTOP,
    "take_cover": replace(
        _LAPTOP,
        run=Path("runs/take_cover/vmc/vae"),
        data=("runs/take_cover/vmc/data/train",),
        held_out=Path("runs/take_cover/vmc/data/held_out"),
        skip_frames=0,
        model=VAEConfig(latent_dim=64),
    ),
    # Ten times 10,000 episodes of 250 frames in batches of 100, at the authors' learning rate.
    "paper": replace(
        _LAPTOP,
        run=Path("runs/paper/vmc/vae"),
        data=("runs/paper/vmc/data/train",),
        held_out=Path("runs/paper/vmc/data/held_out"),
        batch_size=100,
        evaluate_every=10_000,
        num_workers=4,
        loop=replace(
            _LAPTOP.loop, steps=250_000, learning_rate=1e-4, schedule="constant", ema_decay=0.0, save_every=5000
        ),
    ),
}

if __name__ == "__main__":
    main(PRESETS, train_vae, description=__doc__)
