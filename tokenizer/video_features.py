"""FVD-lite0: a Frechet distance of videos, on features that install from a package (extra [perceptual]).

A chunk of 16 frames becomes 64 numbers: half say how it looks (features of EfficientNet-lite0, mean over places and
time), half how it moves (how much the features at a place change from frame to frame, mean over places and time).
FVD-lite0 is `tokenizer.metrics.frechet_distance` of the chunks of two sets of videos. It is not FVD, which asks an I3D
network: its values are comparable only with themselves, on videos of one size.

Axes: b chunks, t frames of a chunk, c h w one RGB frame in [0, 1], f features of a chunk.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from tokenizer.perceptual import ImageFeatures

CHUNK = 16
"""Frames of a chunk."""
NUM_FEATURES = 64
_STAGES = (2, 3)
_CHANNELS = 40 + 112
_SCALE = 30.0
"""Brings distances of video that differs visibly to the order of 100."""


class VideoFeatures(nn.Module):
    """Chunks to features.

    A few hundred chunks do not fill a covariance of 304 channels: looks and motion are each projected to 32 directions,
    drawn once and for all. Random directions keep distances and know no dataset.
    """

    def __init__(self) -> None:
        super().__init__()
        self.image_features = ImageFeatures(_STAGES)
        self.register_buffer("directions", _directions(2, _CHANNELS, NUM_FEATURES // 2))

    directions: Tensor

    @torch.no_grad()
    def forward(self, chunks: Float[Tensor, "b 16 c h w"]) -> Float[Tensor, "b 64"]:
        stages = self.image_features(rearrange(chunks, "b t c h w -> (b t) c h w"))
        per_frame = [rearrange(features, "(b t) d h w -> b t d (h w)", t=CHUNK) for features in stages]
        looks = torch.cat([features.mean((1, 3)) for features in per_frame], dim=1)
        motion = torch.cat([features.diff(dim=1).abs().mean((1, 3)) for features in per_frame], dim=1)
        return torch.cat([looks @ self.directions[0], motion @ self.directions[1]], dim=1)


def split_chunks(video: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b k 16 c h w"]:
    """The k whole chunks of each video, one after another; frames that are left over at the end are dropped."""
    num_chunks = video.shape[1] // CHUNK
    return rearrange(video[:, : num_chunks * CHUNK], "b (k t) c h w -> b k t c h w", t=CHUNK)


def _directions(count: int, channels: int, kept: int) -> Float[Tensor, "count channels kept"]:
    """Orthonormal directions, scaled to keep squared distances on average; the same on every machine but for signs."""
    drawn = torch.randn(count, channels, kept, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions: Tensor = torch.linalg.qr(drawn).Q * (_SCALE * (channels / kept) ** 0.5)
    return directions.float()
