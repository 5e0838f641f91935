"""Attention over the slots of a frame and over time: RoPE, QK-norm, grouped queries, optional soft-capping.

Axes: b batch, q query positions, m key positions, p cached positions, h query heads, k key-value heads, g queries per
key-value head (h = k g), e channels of a head.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention

MANY_SCORES = 2**16
"""Of a head and frame. On two cores a tokenizer's training step takes 0.68 times as long where 2**18 are spared
(384x640), and would take 1.05 times as long where 2**13 are (64x64)."""


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
    sizes of a frame. On other devices a fused kernel runs, under soft-capping flex attention.
    """
    if query.device.type == "cpu":
        groups = query.shape[1] // key.shape[1]
        scores = _grouped(query, key) @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        weights = _softmax(scores, mask if mask is None else mask.repeat(groups, 1), soft_cap)
        return _ungrouped(weights @ value, groups)
    if soft_cap is not None:
        return attend_soft_capped(query, key, value, mask, soft_cap)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=query.shape[1] != key.shape[1])


def attend_nested(
    query: Float[Tensor, "b h n e"],
    key: Float[Tensor, "b k n e"],
    value: Float[Tensor, "b k n e"],
    inner: int | None,
    *,
    soft_cap: float | None = None,
) -> Float[Tensor, "b h n e"]:
    """The first `inner` positions attend to each other, the others to all; all to all where it is None.

    Where that spares many scores, by two products without a mask, which also runs kernels that know no masks; where it
    spares few by one under a mask, as taking the slots apart would cost more.
    """
    slots = query.shape[2]
    if inner is None or inner == slots:
        return attend(query, key, value, None, soft_cap=soft_cap)
    if inner * (slots - inner) < MANY_SCORES:
        return attend(query, key, value, nested_mask(slots, inner, query.device), soft_cap=soft_cap)
    first, rest = query[:, :, :inner].contiguous(), query[:, :, inner:].contiguous()
    inside = attend(first, key[:, :, :inner].contiguous(), value[:, :, :inner].contiguous(), None, soft_cap=soft_cap)
    return torch.cat([inside, attend(rest, key, value, None, soft_cap=soft_cap)], dim=2)


def nested_mask(slots: int, inner: int | None, device: torch.device) -> Bool[Tensor, "n n"]:
    """Row i sees column j: the first `inner` see each other alone, the others all; all see all where it is None."""
    is_inner = torch.arange(slots, device=device) < (slots if inner is None else inner)
    return is_inner | ~is_inner[:, None]


def attend_soft_capped(
    query: Float[Tensor, "b h q e"],
    key: Float[Tensor, "b k m e"],
    value: Float[Tensor, "b k m e"],
    mask: Bool[Tensor, "q m"] | None,
    soft_cap: float,
) -> Float[Tensor, "b h q e"]:
    """Flex attention: one fused kernel inside compiled code, the plain product outside."""
    sees = torch.ones((), dtype=torch.bool, device=query.device) if mask is None else mask
    sees = sees.expand(query.shape[2], key.shape[2])
    mixed = flex_attention(
        query,
        key,
        value,
        score_mod=lambda score, b, h, q, m: torch.where(
            sees[q, m], soft_cap * torch.tanh(score / soft_cap), -torch.inf
        ),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(mixed, Tensor)
    return mixed


def attend_past_and_new(
    query: Float[Tensor, "b h q e"],
    key: Float[Tensor, "b k q e"],
    value: Float[Tensor, "b k q e"],
    past_key: Float[Tensor, "b k p e"],
    past_value: Float[Tensor, "b k p e"],
    mask: Bool[Tensor, "q pq"],
    *,
    soft_cap: float | None = None,
) -> Float[Tensor, "b h q e"]:
    """New positions against a cache and each other. Only scores are joined: the cache is neither copied nor written."""
    groups = query.shape[1] // key.shape[1]
    grouped = _grouped(query, key)
    scores = torch.cat([grouped @ past_key.transpose(-1, -2), grouped @ key.transpose(-1, -2)], dim=-1)
    weights = _softmax(scores * query.shape[-1] ** -0.5, mask.repeat(groups, 1), soft_cap)
    past = past_key.shape[2]
    mixed = weights[..., :past] @ past_value + weights[..., past:] @ value
    return _ungrouped(mixed.to(query.dtype), groups)


def _grouped(query: Tensor, key: Tensor) -> Tensor:
    """b (k g) q e -> b k (g q) e: the queries of a group share one product with their keys."""
    grouped: Tensor = query.unflatten(1, (key.shape[1], -1)).flatten(2, 3)
    return grouped


def _ungrouped(mixed: Tensor, groups: int) -> Tensor:
    ungrouped: Tensor = mixed.unflatten(2, (groups, -1)).flatten(1, 2)
    return ungrouped


def _softmax(scores: Tensor, mask: Tensor | None, soft_cap: float | None) -> Tensor:
    if soft_cap is not None:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1)
