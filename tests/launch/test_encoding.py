"""Latents from video by a frozen tokenizer: the same however the video is cut, and a stream that resumes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from launch import encoding
from launch.encoding import EncodedStream, EpisodeEncoder, FrozenTokenizer, encode_episode
from tests.builders import MIXED, TOKENIZER, episode_clip, randomised
from tokenizer.autoencoder import Tokenizer, to_float
from tokenizer.records import LatentClip
from tokenizer.shard_format import DatasetMeta
from tokenizer.shard_writer import ShardWriter, finish_dataset
from tokenizer.shards import Dataset
from tokenizer.stream import AlternatingStream, ClipStream, PairedStream, StreamConfig

META = DatasetMeta(environment="toy", frame_size=(8, 8), fps=20, action_space=MIXED.to_json(), tasks=("one",))


@pytest.fixture
def frozen() -> FrozenTokenizer:
    return FrozenTokenizer(randomised(Tokenizer(TOKENIZER)).eval().requires_grad_(False), "mark")


def whole(frozen: FrozenTokenizer, frames: Tensor) -> Tensor:
    return frozen.model.encode(to_float(frames))


@pytest.mark.parametrize("at_once", [1, 2, 3, 5, 7, 64])
def test_an_episode_in_pieces_is_encoded_as_a_whole_one(
    frozen: FrozenTokenizer, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """The tokenizer's cache holds 2 frames, so a piece may be shorter, equal or longer than that."""
    monkeypatch.setitem(encoding.FRAMES_AT_ONCE, "cpu", at_once)
    frames = episode_clip(1, 17).frames
    torch.testing.assert_close(encode_episode(frozen.model, frames[0]), whole(frozen, frames)[0])


def test_an_episode_that_is_read_in_pieces_is_encoded_as_a_whole_one(frozen: FrozenTokenizer) -> None:
    frames, encoder = episode_clip(2, 12).frames, EpisodeEncoder(frozen.model)
    pieces = [encoder(piece) for piece in frames.split([1, 6, 2, 3], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole(frozen, frames))


@pytest.mark.parametrize("at_once", [3, 12, 20, 100])
def test_a_batch_is_encoded_row_by_row_or_at_once_to_the_same_latents(
    frozen: FrozenTokenizer, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setitem(encoding.FRAMES_AT_ONCE, "cpu", at_once)
    clips = episode_clip(6, 5)
    latents = frozen.encode(clips)
    torch.testing.assert_close(latents.latents, whole(frozen, clips.frames))
    assert latents.actions.equal(clips.actions) and latents.task.equal(clips.task)
    assert not latents.latents.requires_grad


def test_what_is_encoded_says_so_and_frames_of_another_size_are_refused(frozen: FrozenTokenizer) -> None:
    meta = frozen.encoded(META)
    assert (meta.kind, meta.tokenizer, meta.item_shape) == ("latents", "mark", TOKENIZER.latent_shape)
    with pytest.raises(ValueError, match="trained on frames of 8x8 pixels, this video has 64x48"):
        frozen.encoded(replace(META, frame_size=(64, 48)))


@pytest.fixture
def video(tmp_path: Path) -> Dataset:
    """Five episodes of 12 frames."""
    with ShardWriter(tmp_path, 0, META) as shard:
        for seed in range(5):
            frames = episode_clip(1, 12, seed=seed).frames[0].numpy()
            shard.write(f"clip-{seed}", frames=frames, rewards=np.full(12, seed, np.float32))
    finish_dataset(tmp_path, META)
    return Dataset.open(tmp_path)


def stream(video: Dataset, frozen: FrozenTokenizer) -> EncodedStream:
    """As of an agent: two halves, and now and then long clips."""

    def paired(length: int, rows: int) -> PairedStream:
        config = StreamConfig(length=length, batch_size=rows)
        return PairedStream(ClipStream(video, config), ClipStream(video, config))

    return EncodedStream(AlternatingStream(paired(4, 2), paired(9, 1), long_share=0.5), frozen)


def take(stream: EncodedStream, count: int) -> list[LatentClip]:
    return [batch for _, batch in zip(range(count), stream, strict=False)]


def test_a_stream_of_video_comes_as_latents_and_resumes_exactly(video: Dataset, frozen: FrozenTokenizer) -> None:
    straight = take(stream(video, frozen), 8)
    assert {batch.latents.shape for batch in straight} == {(4, 4, 2, 6), (2, 9, 2, 6)}
    cut = stream(video, frozen)
    take(cut, 3)
    resumed = stream(video, frozen)
    assert resumed.load_state_dict(cut.state_dict()) is None
    for got, expected in zip(take(resumed, 5), straight[3:], strict=True):
        assert got.latents.equal(expected.latents) and got.rewards.equal(expected.rewards)


def test_latents_of_another_tokenizer_do_not_go_on_in_the_same_run(video: Dataset, frozen: FrozenTokenizer) -> None:
    mine = stream(video, frozen)
    other: dict[str, Any] = mine.state_dict() | {"tokenizer": "other"}
    with pytest.raises(ValueError, match="of tokenizer other so far, and --tokenizer is mark: give the one"):
        mine.load_state_dict(other)
    with pytest.raises(ValueError, match="of tokenizer shards so far"):
        mine.load_state_dict(mine.video.state_dict())
