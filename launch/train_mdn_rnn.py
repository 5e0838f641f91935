"""Train M of World Models: an LSTM with a mixture of Gaussians over the next latent of V.

python -m launch.train_mdn_rnn laptop
python -m launch.train_mdn_rnn take_cover
"""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from dynamics.actions import ActionSpace
from dynamics.mdn_rnn import MDNRNN, MDNRNNConfig
from launch.command import main
from launch.loop import LoopConfig
from launch.training import Source, TrainOnLatents, run_training


@dataclass(frozen=True, kw_only=True)
class TrainMDNRNN(TrainOnLatents):
    model: MDNRNNConfig = MDNRNNConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 2:
            raise ValueError(f"length={self.length} must be at least 2: the next frame is what M learns")


def train_mdn_rnn(config: TrainMDNRNN) -> None:
    def build(source: Source) -> nn.Module:
        kinds, channels = source.meta.item_shape
        if kinds != 2:
            raise ValueError(
                f"{source.dataset.name} holds latents of {kinds} tokens x {channels} channels, no means and variances "
                "of a V: encode the video by `python -m launch.encode_latents` with the run of `launch.train_vae`"
            )
        return MDNRNN(
            replace(
                config.model,
                latent_dim=channels,
                actions=ActionSpace.from_json(source.meta.action_space),
                tokenizer=source.meta.tokenizer,
            )
        )

    run_training(config, build, kind="latents", tokenizer=config.tokenizer)


_LAPTOP = TrainMDNRNN(
    run=Path("runs/vmc/mdn_rnn"),
    data=("runs/vmc/latents/train",),
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
        run=Path("runs/vmc_debug/mdn_rnn"),
        data=("runs/vmc_debug/latents/train",),
        batch_size=2,
        length=8,
        model=MDNRNNConfig(reward_head=True),
        loop=LoopConfig(steps=3, warmup_steps=1, log_every=1, save_every=2, learning_rate=1e-3),
    ),
    "laptop": _LAPTOP,
    "take_cover": replace(
        _LAPTOP,
        run=Path("runs/take_cover/mdn_rnn"),
        data=("runs/take_cover/latents/train",),
        length=32,
        model=MDNRNNConfig(hidden=512, end_head=True),
    ),
    # Twenty epochs of 10,000 episodes in batches of 100, whole episodes, at the authors' learning rate.
    "paper": replace(
        _LAPTOP,
        run=Path("runs/vmc_paper/mdn_rnn"),
        data=("runs/vmc_paper/latents/train",),
        batch_size=100,
        length=250,
        loop=replace(_LAPTOP.loop, steps=4000, learning_rate=1e-3, ema_decay=0.0),
    ),
}

GIVEN = {MDNRNNConfig: ["latent_dim", "actions", "tokenizer"]}
"""What the command itself fills in, from the data."""

if __name__ == "__main__":
    main(PRESETS, train_mdn_rnn, description=__doc__, given=GIVEN)
