"""Attention: the plain path against torch's own, RoPE by its symmetries, soft-capping by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from tokenizer.attention import (
    Norm,
    attend,
    attend_nested,
    attend_past_and_new,
    attend_soft_capped,
    rotary_angles,
    rotate,
)

CAUSAL = torch.ones(5, 5, dtype=torch.bool).tril()
RAGGED = torch.tensor([[1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 1, 0], [1, 0, 0, 0, 1]]).bool()


@pytest.mark.parametrize("mask", [None, CAUSAL, RAGGED], ids=["none", "causal", "ragged"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_plain_attention_equals_torchs(mask: torch.Tensor | None, kv_heads: int) -> None:
    query = torch.randn(2, 4, 5, 6)
    key, value = torch.randn(2, 2, kv_heads, 5, 6).unbind(0)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(attend(query, key, value, mask), expected)


@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("inner", [None, 1, 3, 5])
@pytest.mark.parametrize("many", [1, 2**16], ids=["apart", "masked"])
def test_nested_attention_is_attention_under_a_mask(
    inner: int | None, soft_cap: float | None, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenizer.attention.MANY_SCORES", many)
    query = torch.randn(2, 4, 5, 6)
    key, value = torch.randn(2, 2, 2, 5, 6).unbind(0)
    mask = torch.ones(5, 5, dtype=torch.bool)
    mask[:inner, 5 if inner is None else inner :] = False
    expected = attend(query, key, value, mask, soft_cap=soft_cap)
    torch.testing.assert_close(attend_nested(query, key, value, inner, soft_cap=soft_cap), expected)


def test_queries_may_be_fewer_than_keys() -> None:
    query, key, value = torch.randn(2, 4, 3, 6), torch.randn(2, 2, 5, 6), torch.randn(2, 2, 5, 6)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=RAGGED[:3], enable_gqa=True)
    torch.testing.assert_close(attend(query, key, value, RAGGED[:3]), expected)


def test_grouped_queries_equal_repeated_keys() -> None:
    query, key, value = torch.randn(2, 6, 5, 4), torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4)
    repeated = attend(query, key.repeat_interleave(3, 1), value.repeat_interleave(3, 1), CAUSAL)
    torch.testing.assert_close(attend(query, key, value, CAUSAL), repeated)


def test_soft_capped_logits_stay_within_the_cap() -> None:
    query = torch.randn(1, 2, 5, 5) * 100
    key, value = torch.randn(1, 2, 5, 5), torch.eye(5).expand(1, 2, 5, 5)  # the output is then the weights
    logits = attend(query, key, value, None, soft_cap=3.0).log()
    spread = logits.amax(-1) - logits.amin(-1)
    assert 5 < spread.max() < 6 + 1e-4
    assert attend(query, key, value, None).amax(-1).mean() > 0.95  # what the cap held back


def test_soft_capping_is_a_scaled_tanh_of_the_logits() -> None:
    query, key, value = torch.randn(2, 4, 5, 6), torch.randn(2, 2, 5, 6), torch.randn(2, 2, 5, 6)
    scores = query @ key.repeat_interleave(2, 1).transpose(-1, -2) / math.sqrt(6)
    expected = (2 * (scores / 2).tanh()).masked_fill(~CAUSAL, -math.inf).softmax(-1) @ value.repeat_interleave(2, 1)
    torch.testing.assert_close(attend(query, key, value, CAUSAL, soft_cap=2.0), expected)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("mask", [None, CAUSAL, RAGGED], ids=["none", "causal", "ragged"])
def test_the_fused_path_of_soft_capping_equals_the_plain_one(mask: torch.Tensor | None, kv_heads: int) -> None:
    query = torch.randn(2, 4, 5, 8)
    key, value = torch.randn(2, 2, kv_heads, 5, 8).unbind(0)
    expected = attend(query, key, value, mask, soft_cap=2.0)
    torch.testing.assert_close(attend_soft_capped(query, key, value, mask, 2.0), expected)


@pytest.mark.parametrize("soft_cap", [None, 1.0])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("new", [1, 3])
def test_queries_on_past_and_new_equal_attention_over_both(new: int, kv_heads: int, soft_cap: float | None) -> None:
    query = torch.randn(3, 4, new, 6)
    key, value = torch.randn(2, 3, kv_heads, new, 6).unbind(0)
    past_key, past_value = torch.randn(2, 3, kv_heads, 4, 6).unbind(0)
    mask = torch.cat([torch.tensor([True, False, True, False]).expand(new, -1), CAUSAL[:new, :new]], dim=1)
    both = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    expected = attend(query, *both, mask, soft_cap=soft_cap)
    found = attend_past_and_new(query, key, value, past_key, past_value, mask, soft_cap=soft_cap)
    torch.testing.assert_close(found, expected)


def test_without_a_past_one_attends_to_itself_alone() -> None:
    query, key, value = torch.randn(3, 4, 1, 6), torch.randn(3, 2, 1, 6), torch.randn(3, 2, 1, 6)
    past = torch.randn(3, 2, 4, 6)
    found = attend_past_and_new(query, key, value, past, past, torch.tensor([[False] * 4 + [True]]))
    torch.testing.assert_close(found, value.repeat_interleave(2, 1))


@pytest.mark.parametrize("shift", [1, 1000, 100_000_019])
def test_rotated_scores_depend_on_the_distance_alone(shift: int) -> None:
    query, key = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8)

    def scores(first_query: int, first_key: int) -> torch.Tensor:
        turned_query = rotate(query, *rotary_angles(torch.arange(4) + first_query, 8))
        return turned_query @ rotate(key, *rotary_angles(torch.arange(4) + first_key, 8)).transpose(-1, -2)

    torch.testing.assert_close(scores(shift, shift), scores(0, 0), atol=1e-5, rtol=1e-5)
    assert (scores(1, 0) - scores(0, 0)).abs().max() > 0.1


def test_two_channels_turn_by_one_radian_a_frame() -> None:
    turned = rotate(torch.tensor([1.0, 0.0]).expand(1, 1, 3, 2), *rotary_angles(torch.arange(3), 2))
    expected = torch.tensor([[math.cos(t), math.sin(t)] for t in range(3)])
    torch.testing.assert_close(turned[0, 0], expected)


def test_the_norm_keeps_the_type_and_gives_unit_root_mean_square() -> None:
    norm = Norm(16)
    out = norm(torch.randn(3, 16) * 7)
    torch.testing.assert_close(out.square().mean(-1), torch.ones(3), atol=1e-4, rtol=0)
    assert norm(torch.randn(3, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16
