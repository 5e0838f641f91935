"""Latents from video by a frozen tokenizer: of whole episodes, or of each batch of a training as it comes.

Axes: b batch, t time, c h w one RGB frame, n latent tokens, d their channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from launch.loop import Stream
from launch.models import check_frame_size, fingerprint, for_inference, load_encoder
from tokenizer.autoencoder import Tokenizer, to_float
from tokenizer.cache import Cache
from tokenizer.records import Clip, EpisodeClip, LatentClip
from tokenizer.shard_format import DatasetMeta
from tokenizer.vae import VAE

FRAMES_AT_ONCE = {"cpu": 32, "cuda": 256}
"""Of one pass: as few as keep a processor busy. More would fall out of its caches, and take memory."""


class EpisodeEncoder:
    """Encodes b episodes piece by piece, each frame with the past that the tokenizer's window shows it.

    However they are cut, the latents are those of `Tokenizer.encode` on the whole but for rounding.
    """

    def __init__(self, tokenizer: Tokenizer | VAE, frames_at_once: int | None = None) -> None:
        """As many frames in one pass as keep its device busy, where not given."""
        self.tokenizer = tokenizer
        self.device = next(tokenizer.parameters()).device
        self.at_once = frames_at_once or _frames_at_once(self.device)
        self._cache: Cache | None = None

    @torch.no_grad()
    def __call__(self, frames: UInt8[Tensor, "b t c h w"]) -> Float[Tensor, "b t n d"]:
        """Latents of the next frames, on the tokenizer's device."""
        parts = []
        for piece in frames.split(max(1, self.at_once // len(frames)), dim=1):
            latents, self._cache = self.tokenizer.encoder.step(to_float(piece.to(self.device)), self._cache)
            parts.append(latents)
        return torch.cat(parts, dim=1)


def encode_episode(tokenizer: Tokenizer | VAE, frames: UInt8[Tensor, "t c h w"]) -> Float[Tensor, "t n d"]:
    """Latents of an episode from its beginning, on the CPU."""
    latents: Tensor = EpisodeEncoder(tokenizer)(frames.unsqueeze(0))[0].cpu()
    return latents


@dataclass(frozen=True)
class FrozenTokenizer:
    """A trained tokenizer, or a V, that encodes, and the fingerprint that its latents carry."""

    model: Tokenizer | VAE
    mark: str

    @classmethod
    def load(cls, run: Path, device: torch.device, *, half: bool | None = None) -> Self:
        """That of a run's folder, with parameters in bfloat16 or as they were trained (see `for_inference`)."""
        model = load_encoder(run)
        mark = fingerprint(model)
        return cls(for_inference(model, device, compile=False, half=half), mark)

    def encode(self, clips: EpisodeClip) -> LatentClip:
        """A batch of windows on the tokenizer's device; what was before a window its frames do not know."""
        rows = _rows_at_once(len(clips.frames), clips.num_frames, _frames_at_once(self.device))
        latents = torch.cat([EpisodeEncoder(self.model)(part) for part in clips.frames.split(rows)])
        others = {field.name: getattr(clips, field.name).to(self.device) for field in fields(Clip)}
        return LatentClip(latents=latents, **others)

    def encoded(self, meta: DatasetMeta) -> DatasetMeta:
        """What a dataset of video says of itself once it is encoded. Raises ValueError where the frames do not fit."""
        check_frame_size(self.model, meta)
        return replace(meta, kind="latents", tokenizer=self.mark, item_shape=self.model.config.latent_shape)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


class EncodedStream:
    """A stream of video whose batches come as latents."""

    def __init__(self, video: Stream, tokenizer: FrozenTokenizer) -> None:
        self.video, self.tokenizer = video, tokenizer

    def __iter__(self) -> Iterator[LatentClip]:
        for batch in self.video:
            assert isinstance(batch, EpisodeClip)
            yield self.tokenizer.encode(batch)

    def state_dict(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer.mark, "video": self.video.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> str | None:
        """As of the video's stream. Raises ValueError where the tokenizer is another one."""
        if state.get("tokenizer") != self.tokenizer.mark:
            raise ValueError(
                f"the run read latents of tokenizer {state.get('tokenizer', 'shards')} so far, and --tokenizer is "
                f"{self.tokenizer.mark}: give the one that it began with, or begin another run"
            )
        return self.video.load_state_dict(state["video"])


def _frames_at_once(device: torch.device) -> int:
    return FRAMES_AT_ONCE.get(device.type, FRAMES_AT_ONCE["cuda"])


def _rows_at_once(batch: int, length: int, frames: int) -> int:
    """A divisor of the batch, so that all passes have one shape and are compiled once."""
    return next(rows for rows in range(max(1, min(batch, frames // length)), 0, -1) if batch % rows == 0)
