"""The space-time transformer: causal, windowed, and the same whether it runs whole or frame by frame."""

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.builders import SMALL, randomised
from tokenizer.cache import Cache
from tokenizer.transformer import SpaceTimeTransformer, TransformerConfig

SLOTS, FRAMES = 5, 9
INNER = 3  # the last two slots are seen by themselves alone
DENSE = replace(SMALL, time_attention="dense")


def changed(one: Tensor, other: Tensor) -> Tensor:
    """Which frames and slots [t, n] differ."""
    return (one - other).abs().amax((0, 3)) > 1e-4


@pytest.fixture
def model() -> SpaceTimeTransformer:
    return randomised(SpaceTimeTransformer(SMALL))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, FRAMES, SLOTS, 16)


def run_cached(model: SpaceTimeTransformer, x: Tensor, context: int, in_place: bool) -> Tensor:
    out, cache = model.prefill(x[:, :context], INNER)
    outs = [out]
    for t in range(context, x.shape[1]):
        out, cache = model.step(x[:, t : t + 1], INNER, cache, write=True, in_place=in_place)
        outs.append(out)
    return torch.cat(outs, dim=1)


def test_no_frame_sees_the_future(model: SpaceTimeTransformer, x: Tensor) -> None:
    other = x.clone()
    other[:, 4:] += 1
    torch.testing.assert_close(model(other, None)[:, :4], model(x, None)[:, :4])
    assert changed(model(other, None), model(x, None))[4:].all()


def test_one_time_layer_reaches_back_the_window_and_no_further(x: Tensor) -> None:
    model = randomised(SpaceTimeTransformer(replace(SMALL, depth=1, time_every=1)))
    other = x.clone()
    other[:, 1] += 1
    assert changed(model(other, None), model(x, None)).all(1).tolist() == [False] + [True] * 3 + [False] * 5
    assert not changed(model(other, None), model(x, None))[4:].any()


def test_a_slot_attends_over_time_to_itself_alone(x: Tensor) -> None:
    model = randomised(SpaceTimeTransformer(replace(SMALL, depth=1, time_every=1)))
    other = x.clone()
    other[:, :, 2] += torch.randn(16)
    found = changed(model(other, None), model(x, None))
    assert found[:, 2].all() and not found[:, [0, 1, 3, 4]].any()


def test_under_dense_attention_a_slot_sees_all_slots_of_past_frames_that_its_frame_may_see(x: Tensor) -> None:
    model = randomised(SpaceTimeTransformer(replace(DENSE, depth=1, time_every=1)))
    other = x.clone()
    other[:, 3, 2] += torch.randn(16)
    found = changed(model(other, INNER), model(x, INNER))
    assert found.all(1).tolist() == [False] * 3 + [True] * 3 + [False] * 3 and not found[[0, 1, 2, 6, 7, 8]].any()
    other = x.clone()
    other[:, 3, 4] += torch.randn(16)  # seen by the last two slots alone, in its frame and after it
    found = changed(model(other, INNER), model(x, INNER))
    assert not found[:, :3].any() and found[3:6, 3:].all()


@pytest.mark.parametrize("config", [SMALL, DENSE], ids=["factorised", "dense"])
def test_rows_taken_as_images_equal_clips_of_one_frame(config: TransformerConfig, x: Tensor) -> None:
    model = randomised(SpaceTimeTransformer(config))
    out = model(x, INNER, images=1)
    torch.testing.assert_close(out[:1], model(x[:1], INNER))
    alone = model(x[1].unsqueeze(1), INNER).squeeze(1)
    torch.testing.assert_close(out[1], alone)
    assert not torch.allclose(out[1], model(x[1:], INNER)[0])
    torch.testing.assert_close(model(x, INNER, images=2)[1], alone)


def test_recomputed_activations_change_no_gradient_and_keep_less(model: SpaceTimeTransformer, x: Tensor) -> None:
    def gradient_and_size() -> tuple[list[Tensor], int]:
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
            loss = model(x, INNER, images=1).square().sum()
        return list(torch.autograd.grad(loss, list(model.parameters()))), sum(kept)

    expected, all_of_them = gradient_and_size()
    model.checkpoint_activations()
    found, some = gradient_and_size()
    torch.testing.assert_close(found, expected)
    assert some < all_of_them / 4


@pytest.mark.parametrize("config", [SMALL, DENSE], ids=["factorised", "dense"])
def test_two_new_frames_in_one_step_equal_two_steps(config: TransformerConfig, x: Tensor) -> None:
    model = randomised(SpaceTimeTransformer(config))
    with torch.no_grad():
        _, cache = model.prefill(x[:, :5], INNER)
        out, after = model.step(x[:, 5:7], INNER, cache, write=1)
        torch.testing.assert_close(out, model(x[:, :7], INNER)[:, 5:], atol=1e-5, rtol=1e-5)
        assert after.next_position == 6
        again, _ = model.step(x[:, 6:7], INNER, after)
        torch.testing.assert_close(again, out[:, 1:], atol=1e-5, rtol=1e-5)


def test_a_step_looks_at_few_places_of_a_young_cache(x: Tensor) -> None:
    model = SpaceTimeTransformer(replace(SMALL, window=200))
    cache = model.empty_cache(2, SLOTS, x.device, x.dtype)
    looks = [replace(cache, next_position=n).look for n in (0, 32, 33, 128, 129, 199, 10_000)]
    assert looks == [32, 32, 128, 128, 199, 199, 199]
    assert SpaceTimeTransformer(SMALL).empty_cache(2, SLOTS, x.device, x.dtype).look == 2


def test_a_space_layer_mixes_the_slots_of_one_frame(x: Tensor) -> None:
    model = randomised(SpaceTimeTransformer(SMALL))
    model.layers = model.layers[:1]
    other = x.clone()
    other[:, 3, 4] += torch.randn(16)
    found = changed(model(other, None), model(x, None))
    assert found[3].all() and not found[[0, 1, 2, 4, 5, 6, 7, 8]].any()
    masked = changed(model(other, INNER), model(x, INNER))
    assert masked[3].tolist() == [False] * 3 + [True] * 2


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("context", [1, 2, 3, 7])
def test_cached_equals_uncached_also_after_the_window_slid(
    model: SpaceTimeTransformer, x: Tensor, context: int, in_place: bool
) -> None:
    with torch.no_grad():
        torch.testing.assert_close(run_cached(model, x, context, in_place), model(x, INNER), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        replace(SMALL, window=1),
        replace(SMALL, window=2, soft_cap=1.0),
        replace(SMALL, window=50),
        replace(SMALL, depth=3),  # ends in a layer over space
        DENSE,
        replace(DENSE, window=50, time_every=1),
    ],
)
def test_cached_equals_uncached_for_any_window(config: TransformerConfig, x: Tensor) -> None:
    model = randomised(SpaceTimeTransformer(config))
    with torch.no_grad():
        torch.testing.assert_close(run_cached(model, x, 2, True), model(x, INNER), atol=1e-5, rtol=1e-5)


def test_a_stream_that_is_millions_of_frames_old_goes_on_as_a_young_one(model: SpaceTimeTransformer, x: Tensor) -> None:
    cache = replace(model.empty_cache(2, SLOTS, x.device, x.dtype), next_position=50_000_001)
    outs = []
    with torch.no_grad():
        for t in range(FRAMES):
            out, cache = model.step(x[:, t : t + 1], INNER, cache, write=True, in_place=True)
            outs.append(out)
        torch.testing.assert_close(torch.cat(outs, dim=1), model(x, INNER), atol=1e-5, rtol=1e-5)


def test_a_step_that_is_not_in_place_leaves_the_old_cache_valid(model: SpaceTimeTransformer, x: Tensor) -> None:
    other = x.clone()
    other[:, 5] += 1
    with torch.no_grad():
        _, cache = model.prefill(x[:, :5], INNER)
        steps = [model.step(way[:, 5:6], INNER, cache, write=True) for way in (x, other, x)]
        for way, (out, after) in zip((x, other, x), steps, strict=True):
            torch.testing.assert_close(out, model(way[:, :6], INNER)[:, 5:], atol=1e-5, rtol=1e-5)
            out, _ = model.step(x[:, 6:7], INNER, after, write=True)
            expected = model(torch.cat([way[:, :6], x[:, 6:7]], 1), INNER)[:, 6:]
            torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_a_step_without_write_leaves_the_cache_as_it_was(model: SpaceTimeTransformer, x: Tensor) -> None:
    with torch.no_grad():
        _, cache = model.prefill(x[:, :5], INNER)
        before = [ring.clone() for ring in (*cache.keys, *cache.values, cache.positions)]
        out, after = model.step(x[:, 6:7], INNER, cache, write=False, in_place=True)
        assert after is cache and cache.next_position == 5
        for ring, old in zip((*cache.keys, *cache.values, cache.positions), before, strict=True):
            assert torch.equal(ring, old)
        expected = model(torch.cat([x[:, :5], x[:, 6:7]], 1), INNER)[:, 5:]
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_slots_that_nobody_sees_may_be_left_out_of_a_step(model: SpaceTimeTransformer, x: Tensor) -> None:
    with torch.no_grad():
        _, cache = model.prefill(x[:, :5], INNER)
        part, _ = model.step(x[:, 5:6, :3], None, cache, write=False)
        torch.testing.assert_close(part, model(x[:, :6], INNER)[:, 5:, :3], atol=1e-5, rtol=1e-5)


def test_the_rings_never_grow(model: SpaceTimeTransformer, x: Tensor) -> None:
    _, cache = model.prefill(x, INNER)
    assert isinstance(cache, Cache) and len(cache.keys) == SMALL.time_layers == 2
    assert all(ring.shape == (SLOTS, 2, 1, SMALL.window - 1, 8) for ring in (*cache.keys, *cache.values))
    assert sorted(cache.positions.tolist()) == [7, 8]


def test_a_fresh_stack_is_its_final_norm_alone(x: Tensor) -> None:
    model = SpaceTimeTransformer(SMALL)
    torch.testing.assert_close(model(x, None), model.norm(x))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"dim": 15}, "dim=15 must be even"),
        ({"num_heads": 8, "dim": 8}, "num_heads=8 of an even width: choose num_heads from [1, 2, 4]"),
        ({"num_heads": 3}, "dim=16 does not split into num_heads=3"),
        ({"num_kv_heads": 3}, "num_heads=2 is not a multiple of num_kv_heads=3: choose num_kv_heads from [1, 2]"),
        ({"depth": 1}, "time_every=2 is above depth=1: no layer would attend over time; choose time_every from 1 to 1"),
        ({"window": 0}, "window=0 must be positive"),
        ({"num_heads": 0}, "num_heads=0 must be positive"),
    ],
)
def test_sizes_that_do_not_fit_are_named_with_those_that_do(wrong: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        replace(SMALL, **wrong)


@pytest.mark.parametrize("dense", [False, True])
def test_passes_for_rows_that_are_not_there_change_nothing(x: Tensor, dense: bool) -> None:
    """Where ranks hold parts of the weights, one without images runs the layers as often as one with some."""
    model = randomised(SpaceTimeTransformer(replace(SMALL, time_attention="dense" if dense else "factorised")))
    calls: list[int] = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    plain = model(x, INNER)
    once = len(calls)
    none = model(x, INNER, images=0)
    torch.testing.assert_close(none, plain, rtol=0, atol=0)
    assert len(calls) - once == once + SMALL.time_layers and 0 in calls
    both = model(x, INNER, images=2)
    assert calls[-1] == 0 and both.shape == x.shape
    none.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
