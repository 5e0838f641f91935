"""Train M of World Models: an LSTM with a mixture of Gaussians over the next latent of V.

python -m launch.train_mdn_rnn laptop
python -m launch.train_mdn_rnn take_cover
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from dynamics.actions import ActionSpace
from dynamics.mdn_rnn import MDNRNN, MDNRNNConfig
from launch.command import main
from launch.loop import LoopConfig
from launch.models import check_same_tokenizer, default_device
from launch.training import Source, TrainOnLatents, open_source, run_training


@dataclass(frozen=True, kw_only=True)
class TrainMDNRNN(TrainOnLatents):
    held_out: Path
    """Folder of latent shards that no training sees; or of video, with --tokenizer."""
    held_out_clips: int = 16
    """Clips whose likelihood an evaluation measures."""
    model: MDNRNNConfig = MDNRNNConfig()

    @property
    def joins_episodes(self) -> bool:
        """Where M learns to tell the end, and so is told where an episode begins."""
        return self.model.end_head

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 2:
            raise ValueError(f"length={self.length} must be at least 2: the next frame is what M learns")


def train_mdn_rnn(config: TrainMDNRNN) -> None:
    unseen = replace(config, data=(str(config.held_out),), weights=())
    source = open_source(unseen, "latents", config.tokenizer, default_device())
    held_out, of_held_out = source.windows(config.length, config.held_out_clips), source.meta

    def build(source: Source) -> nn.Module:
        kinds, channels = source.meta.item_shape
        if kinds != 2:
            raise ValueError(
                f"{source.dataset.name} holds latents of {kinds} tokens x {channels} channels, no means and variances "
                "of a V: encode the video by `python -m launch.encode_latents` with the run of `launch.train_vae`"
            )
        if source.meta.action_space != of_held_out.action_space:
            raise ValueError(
                f"{source.dataset.name} has actions {source.meta.action_space}, and {config.held_out} has "
                f"{of_held_out.action_space}: give held-out shards of the same environment"
            )
        check_same_tokenizer(source.meta.tokenizer, of_held_out.tokenizer, model=config.run, other=config.held_out)
        return MDNRNN(
            replace(
                config.model,
                latent_dim=channels,
                actions=ActionSpace.from_json(source.meta.action_space),
                tokenizer=source.meta.tokenizer,
            )
        )

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        """On the same samples of z each time."""
        device = next(model.parameters()).device
        clips = held_out.to(device)
        with torch.no_grad():
            _, metrics = model(clips, torch.Generator(device).manual_seed(0))
        return {f"held_out_{name}": float(value) for name, value in metrics.items() if name != "loss"}

    run_training(config, build, kind="latents", tokenizer=config.tokenizer, evaluate=evaluate)


_LAPTOP = TrainMDNRNN(
    run=Path("runs/laptop/vmc/mdn_rnn"),
    data=("runs/laptop/vmc/latents/train",),
    held_out=Path("runs/laptop/vmc/latents/held_out"),
    evaluate_every=1000,
    batch_size=32,
    length=64,
    model=MDNRNNConfig(reward_head=True),
    loop=LoopConfig(
        steps=4000,
        warmup_steps=100,
        log_every=50,
        save_every=1000,
        learning_rate=2e-3,
        weight_decay=0.0,
        betas=(0.9, 0.999),
        ema_decay=0.998,
    ),
)
PRESETS = {
    "debug": TrainMDNRNN(
        run=Path("runs/debug/vmc/mdn_rnn"),
        data=("runs/debug/vmc/latents/train",),
        held_out=Path("runs/debug/vmc/latents/held_out"),
        held_out_clips=2,
        batch_size=2,
        length=8,
        model=MDNRNNConfig(reward_head=True),
        loop=LoopConfig(steps=3, warmup_steps=1, log_every=1, save_every=2, learning_rate=1e-3),
    ),
    "laptop": _LAPTOP,
    "take_cover": replace(
        _LAPTOP,
        run=Path("runs/take_cover/vmc/mdn_rnn"),
        data=("runs/take_cover/vmc/latents/train",),
        held_out=Path("runs/take_cover/vmc/latents/held_out"),
        length=64,
        model=MDNRNNConfig(hidden=512, end_head=True),
        loop=replace(_LAPTOP.loop, steps=2000, save_every=500),
    ),
    # Long windows of 10,000 episodes in batches of 100, at the authors' learning rate.
    "paper": replace(
        _LAPTOP,
        run=Path("runs/paper/vmc/mdn_rnn"),
        data=("runs/paper/vmc/latents/train",),
        held_out=Path("runs/paper/vmc/latents/held_out"),
        batch_size=100,
        length=200,
        loop=replace(_LAPTOP.loop, steps=4000, learning_rate=1e-3, ema_decay=0.0),
    ),
}

GIVEN = {MDNRNNConfig: ["latent_dim", "actions", "tokenizer"]}
"""What the command itself fills in, from the data."""

if __name__ == "__main__":
    main(PRESETS, train_mdn_rnn, description=__doc__, given=GIVEN)
