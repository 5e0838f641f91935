"""The causal tokenizer: a masked autoencoder from video to continuous latents and back (Dreamer 4, sec. 3.1).

Encoder slots of a frame are [patches | latents], decoder slots [latents | pixel queries]: in both the first see each
other alone and the others everything. So latents see all patches, and pixel queries all latents.

Axes: b batch, t time, c h w one RGB frame in [0, 1], p patches of a frame, n latent tokens and d channels as the
dynamics sees them (packed), s slots of a frame, e their width.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from tokenizer.cache import Cache
from tokenizer.draws import Draws, of_rows, split_rows, uniform
from tokenizer.losses import RunningRMS
from tokenizer.metrics import psnr
from tokenizer.perceptual import PerceptualDistance, find_weights
from tokenizer.records import EpisodeClip
from tokenizer.transformer import SpaceTimeTransformer, TransformerConfig, divisors

BOTTLENECK_GAIN = 0.2
"""Before the tanh: the projection starts small and grows slowly, else the tanh saturates within a few hundred steps."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    frame_size: tuple[int, int] = (64, 64)
    """Height and width in pixels; the commands take it from the data."""
    patch: int = 8
    num_latents: int = 16
    latent_dim: int = 32
    """Channels of a latent token in the bottleneck."""
    packing: int = 1
    """So many latent tokens are joined, channel after channel, into one token of the dynamics."""
    encoder: TransformerConfig = TransformerConfig()
    decoder: TransformerConfig = TransformerConfig()
    image_share: float = 0.0
    """Share of rows trained as separate images, with no attention over time (0.3 in the paper)."""
    max_mask: float = 0.9
    """Each frame draws its masking probability from U(0, max_mask)."""
    perceptual_weight: float = 0.0
    """Weight of the perceptual term; 0.2 in the paper, needs the extra [perceptual]."""

    def __post_init__(self) -> None:
        for name in ("patch", "num_latents", "latent_dim", "packing"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if self.num_latents % self.packing:
            raise ValueError(
                f"num_latents={self.num_latents} is not a multiple of packing={self.packing}: "
                f"choose packing from {divisors(self.num_latents)}"
            )
        if not 0 <= self.image_share <= 1:
            raise ValueError(f"image_share={self.image_share} is not in [0, 1]")
        if not 0 <= self.max_mask < 1:
            raise ValueError(f"max_mask={self.max_mask} is not in [0, 1)")

    def check_frame_size(self) -> None:
        """Raises ValueError where frames do not split into patches: not before their size is known."""
        height, width = self.frame_size
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"frame size {height}x{width} is not a multiple of patch={self.patch}: "
                f"choose patch from {divisors(height, width)}"
            )

    @property
    def num_patches(self) -> int:
        return self.frame_size[0] * self.frame_size[1] // self.patch**2

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(tokens, channels) of a frame as the dynamics sees it."""
        return self.num_latents // self.packing, self.latent_dim * self.packing


class Tokenizer(nn.Module):
    """Encodes and decodes whole clips at once, or frame by frame from a cache with equal results."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        config.check_frame_size()
        self.config = config
        pixels = 3 * config.patch**2
        self.encoder = Encoder(config, pixels)
        self.decoder = Decoder(config, pixels)
        self.mse_rms = RunningRMS()
        self.perceptual_rms = RunningRMS() if config.perceptual_weight else None
        # In a list: the frozen network is neither trained nor saved with the tokenizer, nor spread over ranks with it,
        # for which it is made at its first use.
        self._perceptual: list[PerceptualDistance] = []
        if config.perceptual_weight:
            find_weights()

    def forward(self, batch: EpisodeClip, generator: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction loss of a masked clip (eq. 5). Some rows are taken as images, which are put last."""
        still, moving = split_rows(generator, len(batch.frames), self.config.image_share)
        order, images = [*moving, *still], len(still) if self.config.image_share else None
        video = to_float(batch.frames[order])
        latents = self.encode(video, self.draw_mask(video, of_rows(generator, order)), images)
        recon = self.decode(latents, images)
        mse = (recon.float() - video).square().mean()
        loss = self.mse_rms(mse)
        metrics = {
            "loss": mse,
            "mse": mse,
            "psnr_masked": psnr(recon, video).mean(),
            "latent_std": latents.float().std(),
        }
        if self.perceptual_rms is not None:
            if not self._perceptual:
                self._perceptual.append(PerceptualDistance().to(video.device))
            distance = self._perceptual[0](recon.flatten(0, 1), video.flatten(0, 1)).mean()
            loss = loss + self.config.perceptual_weight * self.perceptual_rms(distance)
            metrics |= {"loss": mse + self.config.perceptual_weight * distance, "perceptual": distance}
        return loss, {name: value.detach() for name, value in metrics.items()}

    def draw_mask(self, video: Float[Tensor, "b t c h w"], generator: Draws) -> Bool[Tensor, "b t p"]:
        """Each frame its own probability, each patch by itself."""
        shape = (*video.shape[:2], self.config.num_patches)
        chance = uniform(generator, shape[:2]) * self.config.max_mask
        return uniform(generator, shape) < chance.unsqueeze(-1)

    def encode(
        self, video: Float[Tensor, "b t c h w"], mask: Bool[Tensor, "b t p"] | None = None, images: int | None = None
    ) -> Float[Tensor, "b t n d"]:
        """Latents in (-1, 1); masked patches become the mask embedding, the last `images` rows images."""
        slots = self.encoder.slots(video, mask)
        return self.encoder.read(self.encoder.transformer(slots, self.config.num_patches, images))

    def decode(self, latents: Float[Tensor, "b t n d"], images: int | None = None) -> Float[Tensor, "b t c h w"]:
        """Pixels, in [0, 1] but for the model's error: nothing is clipped. The last `images` rows are images."""
        slots = self.decoder.slots(latents)
        return self.decoder.read(self.decoder.transformer(slots, self.config.num_latents, images))

    def compile_layers(self) -> None:
        self.encoder.transformer.compile_layers()
        self.decoder.transformer.compile_layers()

    def checkpoint_activations(self) -> None:
        self.encoder.transformer.checkpoint_activations()
        self.decoder.transformer.checkpoint_activations()


class Encoder(nn.Module):
    """[patches | latents] -> bottleneck."""

    def __init__(self, config: TokenizerConfig, pixels: int) -> None:
        super().__init__()
        self.config = config
        width = config.encoder.dim
        self.patch_embed = nn.Linear(pixels, width)
        self.position_embed = nn.Parameter(torch.randn(config.num_patches, width) * 0.02)
        self.mask_embed = nn.Parameter(torch.randn(width) * 0.02)
        self.latent_embed = nn.Parameter(torch.randn(config.num_latents, width) * 0.02)
        self.transformer = SpaceTimeTransformer(config.encoder)
        self.bottleneck_head = nn.Linear(width, config.latent_dim)
        nn.init.normal_(self.bottleneck_head.weight, std=width**-0.5)
        nn.init.zeros_(self.bottleneck_head.bias)

    def slots(self, video: Float[Tensor, "b t c h w"], mask: Bool[Tensor, "b t p"] | None) -> Float[Tensor, "b t s e"]:
        patches = self.patch_embed(patchify(video * 2 - 1, self.config.patch).to(self.patch_embed.weight.dtype))
        if mask is not None:
            patches = torch.where(mask.unsqueeze(-1), self.mask_embed.to(patches.dtype), patches)
        latents = self.latent_embed.expand(*video.shape[:2], -1, -1)
        patches = patches + self.position_embed
        return torch.cat([patches, latents.to(patches.dtype)], dim=2)

    def read(self, out: Float[Tensor, "b t s e"]) -> Float[Tensor, "b t n d"]:
        latents = self.bottleneck_head(out[:, :, self.config.num_patches :]).float()
        bottleneck = torch.tanh(BOTTLENECK_GAIN * latents)
        return rearrange(bottleneck, "b t (n k) d -> b t n (k d)", k=self.config.packing)

    def step(
        self, frames: Float[Tensor, "b t c h w"], cache: Cache | None, *, in_place: bool = True
    ) -> tuple[Float[Tensor, "b t n d"], Cache]:
        """Encodes the next frames of each of b streams; None begins them."""
        out, cache = _stream(self.transformer, self.slots(frames, None), self.config.num_patches, cache, in_place)
        return self.read(out), cache


class Decoder(nn.Module):
    """[latents | pixel queries] -> pixels."""

    def __init__(self, config: TokenizerConfig, pixels: int) -> None:
        super().__init__()
        self.config = config
        width = config.decoder.dim
        self.latent_in = nn.Linear(config.latent_dim, width)
        self.latent_embed = nn.Parameter(torch.randn(config.num_latents, width) * 0.02)
        self.query_embed = nn.Parameter(torch.randn(config.num_patches, width) * 0.02)
        self.transformer = SpaceTimeTransformer(config.decoder)
        self.pixel_head = nn.Linear(width, pixels)
        nn.init.normal_(self.pixel_head.weight, std=0.2 * width**-0.5)
        nn.init.constant_(self.pixel_head.bias, 0.5)

    def slots(self, latents: Float[Tensor, "b t n d"]) -> Float[Tensor, "b t s e"]:
        unpacked = rearrange(latents, "b t n (k d) -> b t (n k) d", k=self.config.packing)
        tokens = self.latent_in(unpacked.to(self.latent_in.weight.dtype)) + self.latent_embed
        queries = self.query_embed.expand(*latents.shape[:2], -1, -1)
        return torch.cat([tokens, queries.to(tokens.dtype)], dim=2)

    def read(self, out: Float[Tensor, "b t s e"]) -> Float[Tensor, "b t c h w"]:
        return unpatchify(
            self.pixel_head(out[:, :, self.config.num_latents :]), self.config.patch, self.config.frame_size
        )

    def step(
        self, latents: Float[Tensor, "b t n d"], cache: Cache | None, *, in_place: bool = True
    ) -> tuple[Float[Tensor, "b t c h w"], Cache]:
        """Decodes the next frames of each of b streams; None begins them."""
        out, cache = _stream(self.transformer, self.slots(latents), self.config.num_latents, cache, in_place)
        return self.read(out), cache


def _stream(
    transformer: SpaceTimeTransformer, slots: Tensor, inner: int, cache: Cache | None, in_place: bool
) -> tuple[Tensor, Cache]:
    if cache is None:
        return transformer.prefill(slots, inner)
    return transformer.step(slots, inner, cache, write=slots.shape[1], in_place=in_place)


def to_float(frames: UInt8[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """uint8 pixels to [0, 1]."""
    return frames.float() / 255


def to_uint8(video: Float[Tensor, "*b"]) -> UInt8[Tensor, "*b"]:
    """[0, 1] to uint8 pixels, clipped and rounded."""
    return (video.float().clamp(0, 1) * 255).round().to(torch.uint8)


def patchify(video: Float[Tensor, "b t c h w"], size: int) -> Float[Tensor, "b t p d"]:
    return rearrange(video, "b t c (h i) (w j) -> b t (h w) (c i j)", i=size, j=size)


def unpatchify(patches: Float[Tensor, "b t p d"], size: int, frame: tuple[int, int]) -> Float[Tensor, "b t c h w"]:
    return rearrange(patches, "b t (h w) (c i j) -> b t c (h i) (w j)", h=frame[0] // size, i=size, j=size)
