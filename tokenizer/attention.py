"""Attention over the slots of a frame and over time: RoPE, QK-norm, grouped queries, optional soft-capping.

Axes: b batch, q query positions, m key positions, h query heads, k key-value heads, g queries per key-value head
(h = k g), e channels of a head.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class Norm(nn.RMSNorm):
    """RMSNorm whose gain takes the type of its input: torch's own leaves its fused path when the two differ."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-6)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def rotary_angles(
    positions: Int[Tensor, "t"], head_dim: int, *, base: float = 10_000.0
) -> tuple[Float[Tensor, "t f"], Float[Tensor, "t f"]]:
    """Cosines and sines of RoPE; the angles are taken in float64, so that a stream may run for millions of frames."""
    frequencies = base ** -(torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float64) / head_dim)
    angles = positions.double()[:, None] * frequencies
    return angles.cos().float(), angles.sin().float()


def rotate(
    x: Float[Tensor, "b h t e"], cos: Float[Tensor, "t f"], sin: Float[Tensor, "t f"]
) -> Float[Tensor, "b h t e"]:
    """RoPE (Su et al. 2021) on the two halves of the channels."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)


def attend(
    query: Float[Tensor, "b h q e"],
    key: Float[Tensor, "b k m e"],
    value: Float[Tensor, "b k m e"],
    mask: Bool[Tensor, "q m"] | None,
    *,
    soft_cap: float | None = None,
) -> Float[Tensor, "b h q e"]:
    """Softmax attention where `mask` is true.

    On a CPU the plain product is chosen: the backward pass of the fused kernel is 4-6 times slower there in bf16 at the
    sizes of a frame. On other devices the fused kernel runs, except under soft-capping, which it does not offer.
    """
    if query.device.type != "cpu" and soft_cap is None:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, enable_gqa=query.shape[1] != key.shape[1]
        )
    groups = query.shape[1] // key.shape[1]
    # b k (g q) e: the groups share one product with their keys
    grouped = query.unflatten(1, (-1, groups)).flatten(2, 3)
    scores = grouped @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    weights = _softmax(scores, mask if mask is None else mask.repeat(groups, 1), soft_cap)
    mixed: Tensor = (weights @ value).unflatten(2, (groups, -1)).flatten(1, 2)
    return mixed


def attend_past_and_self(
    query: Float[Tensor, "b h one e"],
    key: Float[Tensor, "b k one e"],
    value: Float[Tensor, "b k one e"],
    past_key: Float[Tensor, "b k w e"],
    past_value: Float[Tensor, "b k w e"],
    past_mask: Bool[Tensor, "w"],
    *,
    soft_cap: float | None = None,
) -> Float[Tensor, "b h one e"]:
    """One new position against a cache and itself. Only scores are joined: the cache is neither copied nor written."""
    grouped = query.squeeze(2).unflatten(1, (key.shape[1], -1))  # b k g e
    past = grouped @ past_key.transpose(-1, -2)
    own = (grouped * key).sum(-1, keepdim=True)
    scores = torch.cat([past, own.to(past.dtype)], dim=-1) * query.shape[-1] ** -0.5
    weights = _softmax(scores, F.pad(past_mask, (0, 1), value=True), soft_cap)
    mixed = weights[..., :-1] @ past_value + weights[..., -1:] * value
    return mixed.to(query.dtype).flatten(1, 2).unsqueeze(2)


def _softmax(scores: Tensor, mask: Tensor | None, soft_cap: float | None) -> Tensor:
    if soft_cap is not None:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1)
