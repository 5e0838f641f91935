"""V of World Models (Ha & Schmidhuber 2018): a convolutional variational autoencoder of single frames.

Its latents are a frame's mean and log-variance, which are stored both: M learns from samples of them.

Axes: b batch, t time, c h w one RGB frame in [0, 1], n = 2 (mean, log-variance), d latent channels.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tokenizer.autoencoder import to_float
from tokenizer.cache import Cache
from tokenizer.draws import Draws, normal
from tokenizer.metrics import psnr
from tokenizer.records import EpisodeClip

SIZE = 64
"""Height and width of a frame in pixels: the four convolutions fit no other."""
FEATURES = 1024
"""What the convolutions leave of a frame: 256 channels of 2x2."""


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    latent_dim: int = 32
    """Channels of z: 32 in CarRacing, 64 in VizDoom."""
    free_nats: float = 0.5
    """Of each channel: so much of a frame's KL term costs nothing (`kl_tolerance`)."""
    hidden_rows: int = 0
    """At the bottom of a frame, which are black to V: in CarRacing 8 are the status bar, which the authors cut off. It
    shows the speed, which a still picture of the road does not."""

    def __post_init__(self) -> None:
        if self.latent_dim < 1 or self.free_nats < 0:
            raise ValueError(f"latent_dim={self.latent_dim} must be at least 1, free_nats={self.free_nats} at least 0")
        if not 0 <= self.hidden_rows < SIZE:
            raise ValueError(f"hidden_rows={self.hidden_rows} of {SIZE}: must be 0 or more, and leave some to see")

    @property
    def frame_size(self) -> tuple[int, int]:
        return SIZE, SIZE

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(2, d): a frame's mean and log-variance."""
        return 2, self.latent_dim


class VAE(nn.Module):
    """4,348,547 parameters with the 32 channels of CarRacing, 4,446,915 with the 64 of VizDoom."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = VAEEncoder(config)
        self.decoder = VAEDecoder(config)

    def forward(self, batch: EpisodeClip, generator: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction error, summed over a frame's pixels, plus the KL divergence from a standard normal.

        As in the authors' code (hardmaru/WorldModelsExperiments, vae.py): the KL term is bounded below by `free_nats`
        times the number of channels, for each frame by itself, so that a channel may carry something for free.
        """
        video = self.seen(to_float(batch.frames))
        latents = self.encode(video)
        recon = self.decode(sample(latents, generator)).float()
        error = (recon - video).square().sum((-3, -2, -1)).mean()
        kl = kl_divergence(latents)
        loss = error + kl.clamp(min=self.config.free_nats * self.config.latent_dim).mean()
        metrics = {"loss": loss, "error": error, "kl": kl.mean(), "psnr": psnr(recon, video).mean()}
        return loss, {name: value.detach() for name, value in metrics.items()}

    def seen(self, video: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
        """With what is hidden from V in black."""
        return self.encoder.seen(video)

    def visible(self, video: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c v w"]:
        """Without the rows that are hidden."""
        return video[..., : SIZE - self.config.hidden_rows, :]

    def encode(self, video: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t n d"]:
        """Mean and log-variance of each frame."""
        latents: Tensor = self.encoder(video)
        return latents

    def decode(self, z: Float[Tensor, "b t d"]) -> Float[Tensor, "b t c h w"]:
        """Pixels in (0, 1)."""
        frames: Tensor = self.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        return frames


class VAEEncoder(nn.Module):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.hidden_rows = config.hidden_rows
        channels = (3, 32, 64, 128, 256)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 4, 2) for a, b in zip(channels, channels[1:], strict=False))
        self.mean = nn.Linear(FEATURES, config.latent_dim)
        self.log_variance = nn.Linear(FEATURES, config.latent_dim)

    def forward(self, video: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t n d"]:
        x = self.seen(video).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            x = functional.relu(layer(x))
        x = rearrange(x, "(b t) c h w -> b t (c h w)", b=len(video))
        latents: Tensor = torch.stack([self.mean(x), self.log_variance(x)], dim=-2).float()
        return latents

    def seen(self, video: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
        if not self.hidden_rows:
            return video
        return functional.pad(video[..., : -self.hidden_rows, :], (0, 0, 0, self.hidden_rows))

    def step(
        self, video: Float[Tensor, "b t c h w"], cache: Cache | None = None
    ) -> tuple[Float[Tensor, "b t n d"], None]:
        """As the causal tokenizer's, of which the next frames ask for a cache: these remember nothing."""
        latents: Tensor = self(video.to(self.mean.weight.dtype))
        return latents, None


class VAEDecoder(nn.Module):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.inwards = nn.Linear(config.latent_dim, FEATURES)
        sizes = ((128, 64, 5), (64, 32, 6), (32, 3, 6))
        others = (nn.ConvTranspose2d(a, b, size, 2) for a, b, size in sizes)
        self.layers = nn.ModuleList([FromOnePixel(FEATURES, 128, 5, 2), *others])

    def forward(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        x = self.inwards(z)[:, :, None, None]
        *inner, last = self.layers
        for layer in inner:
            x = functional.relu(layer(x))
        frames: Tensor = torch.sigmoid(last(x).float())
        return frames


class FromOnePixel(nn.ConvTranspose2d):
    """Of one pixel a transposed convolution is a matrix product, and twice as fast as one."""

    def forward(self, x: Float[Tensor, "b c 1 1"], output_size: list[int] | None = None) -> Float[Tensor, "b o k k"]:
        assert self.bias is not None
        product = x.flatten(1) @ self.weight.flatten(1)
        picture: Tensor = product.unflatten(1, self.weight.shape[1:]) + self.bias[:, None, None]
        return picture.contiguous(memory_format=torch.channels_last)


def sample(latents: Float[Tensor, "b t n d"], generator: Draws) -> Float[Tensor, "b t d"]:
    """z from the normal distribution of each channel."""
    mean, log_variance = latents.float().unbind(-2)
    return mean + torch.exp(log_variance / 2) * normal(generator, mean.shape)


def kl_divergence(latents: Float[Tensor, "b t n d"]) -> Float[Tensor, "b t"]:
    """Of each frame's normal distribution from the standard one, summed over the channels, in nats."""
    mean, log_variance = latents.float().unbind(-2)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
