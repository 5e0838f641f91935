"""Records that carry an episode from the shards to a loss.

Index t holds the frame x_t and what arrived with it: `actions[t]` led from x_{t-1} to x_t, `rewards[t]` came with x_t,
and `continues[t]` is false only where the environment terminated at x_t (a time limit leaves it true).

Axes: b batch, t time, c h w one RGB frame, n latent tokens of a frame, d their channels, a the flat action row.
A record without the b axis is a single clip; `stack` joins single clips into a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What video frames and latents of an episode have in common."""

    actions: Float[Tensor, "*b t a"]
    """Flat action rows (see `dynamics.actions.ActionSpace`); zeros where `labeled` is false."""
    labeled: Bool[Tensor, "*b t"]
    """Whether the action is known. False on the first frame of an episode: nothing led to it."""
    rewards: Float[Tensor, "*b t"]
    continues: Bool[Tensor, "*b t"]
    is_first: Bool[Tensor, "*b t"]
    """True on the first frame of an episode."""
    task: Int[Tensor, "*b"]

    def to(self, device: torch.device | str) -> Self:
        return type(self)(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})

    def __getitem__(self, rows: slice | list[int] | Tensor) -> Self:
        """The rows of a batch that an index along b selects."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def window(self, start: int, stop: int) -> Self:
        """Frames [start, stop) of a clip, or of each clip of a batch."""
        of_time = (slice(None),) * self.task.ndim + (slice(start, stop),)
        cut = {f.name: getattr(self, f.name)[of_time] for f in fields(self) if f.name != "task"}
        return replace(self, **cut)

    @classmethod
    def stack(cls, clips: Sequence[Self]) -> Self:
        """Joins single clips of equal length into a batch."""
        return cls(**{f.name: torch.stack([getattr(clip, f.name) for clip in clips]) for f in fields(cls)})

    @classmethod
    def concatenate(cls, batches: Sequence[Self]) -> Self:
        """Joins batches along b."""
        return cls(**{f.name: torch.cat([getattr(batch, f.name) for batch in batches]) for f in fields(cls)})

    @classmethod
    def in_time(cls, clips: Sequence[Self]) -> Self:
        """Joins single clips one after another; the task is the first one's."""
        joined = {f.name: torch.cat([getattr(clip, f.name) for clip in clips]) for f in fields(cls) if f.name != "task"}
        return replace(clips[0], **joined)

    @property
    def num_frames(self) -> int:
        return self.labeled.shape[-1]

    @property
    def episode(self) -> Int[Tensor, "*b t"]:
        """Which of a clip's episodes each frame is of, counted from 0: a clip may go on with another behind an end."""
        begun = self.is_first.cumsum(-1)
        return begun - begun[..., :1]

    @property
    def has_actions(self) -> Bool[Tensor, "*b t"]:
        """Whether any action of the frame's episode is known; else it is video, of which neither rewards nor ends
        are known."""
        episode = self.episode
        known = torch.zeros_like(episode).scatter_add(-1, episode, self.labeled.to(episode.dtype))
        return known.gather(-1, episode) > 0


@dataclass(frozen=True, kw_only=True)
class EpisodeClip(Clip):
    """A clip as pixels."""

    frames: UInt8[Tensor, "*b t c h w"]


@dataclass(frozen=True, kw_only=True)
class LatentClip(Clip):
    """A clip as the tokenizer's latents (tanh outputs, not standardised)."""

    latents: Float[Tensor, "*b t n d"]
