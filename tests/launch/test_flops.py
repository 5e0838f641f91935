"""Matrix products are all counted, once, and the floor is what they need at the best rate."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dynamics.world_model import WorldModel
from launch.flops import (
    MatmulShape,
    Rates,
    count_matmuls,
    floor_seconds,
    peak_rate,
    total_flops,
)
from launch.on_meta import META, MetaGenerator
from launch.presets import MODELS, Clips
from launch.random_clips import random_clips
from tokenizer.autoencoder import Tokenizer

CPU = torch.device("cpu")


def training_step(kind: str, preset: str, device: torch.device) -> Callable[[], object]:
    with device:
        model = Tokenizer(MODELS[preset].tokenizer) if kind == "tokenizer" else WorldModel(MODELS[preset].dynamics)
    model.eval()
    batch = random_clips(model.config, Clips(8, 4), device)
    generator = MetaGenerator() if device == META else torch.Generator()
    return lambda: model(batch, generator)[0].backward()


def torch_says(function: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


def test_a_linear_layer_is_one_product_forward_and_two_backward() -> None:
    layer, x = nn.Linear(3, 4), torch.randn(2, 3, requires_grad=True)
    counts = count_matmuls(lambda: layer(x).sum().backward())
    assert counts == Counter({MatmulShape(1, 2, 3, 4): 1, MatmulShape(1, 2, 4, 3): 1, MatmulShape(1, 4, 2, 3): 1})
    assert total_flops(counts) == 3 * 2 * (2 * 3 * 4)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_pass_without_gradients_counts_too(mode: Callable[[], torch.no_grad]) -> None:
    """A teacher's pass is work; in inference mode `linear` and `matmul` used to slip by whole."""
    layer, x = nn.Linear(3, 4, bias=False), torch.randn(5, 2, 3)

    def run() -> None:
        with mode():
            layer(x) @ x.mT.new_ones(5, 4, 6)

    assert count_matmuls(run) == Counter({MatmulShape(1, 10, 3, 4): 1, MatmulShape(5, 2, 4, 6): 1})


def test_fused_attention_counts_as_the_products_inside_it() -> None:
    query, key, value = (torch.randn(2, 3, length, 8, requires_grad=True) for length in (5, 7, 7))

    def fused() -> None:
        F.scaled_dot_product_attention(query, key, value).sum().backward()

    def plain() -> None:
        ((query @ key.mT).softmax(-1) @ value).sum().backward()

    once_more = MatmulShape(6, 5, 8, 7).flops  # the scores, which the kernel does not keep
    found = total_flops(count_matmuls(fused))
    # Two products forward and five backward; torch's own counter knows the kernel for processors in some versions only.
    assert found == total_flops(count_matmuls(plain)) + once_more == 7 * once_more


@pytest.mark.parametrize("preset", ["debug", "S"])
@pytest.mark.parametrize("kind", ["tokenizer", "dynamics"])
def test_a_training_step_has_the_flops_that_torch_counts(kind: str, preset: str) -> None:
    ours = list[int]()
    theirs = torch_says(lambda: ours.append(total_flops(count_matmuls(training_step(kind, preset, META)))))
    assert ours == [pytest.approx(theirs, rel=0.01)]


@pytest.mark.parametrize("kind", ["tokenizer", "dynamics"])
def test_the_meta_device_counts_what_runs_for_real(kind: str) -> None:
    on_meta, for_real = (total_flops(count_matmuls(training_step(kind, "debug", device))) for device in (META, CPU))
    assert on_meta == for_real


def test_the_floor_is_the_sum_of_each_shapes_flops_at_its_own_rate() -> None:
    small, large = MatmulShape(1, 2, 3, 4), MatmulShape(10, 5, 5, 5)
    rates = {small: 24.0, large: 1000.0}
    seconds = floor_seconds(Counter({small: 3, large: 2}), rates.__getitem__)
    assert seconds == pytest.approx(3 * 48 / 24 + 2 * 2500 / 1000)


def test_a_rate_is_the_best_of_its_measurements_and_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([0.5, 0.25] + [9.0] * 9)
    rates = Rates(CPU, torch.float32)
    monkeypatch.setattr(rates, "_seconds", lambda run: next(measured))
    shape = MatmulShape(1, 10, 10, 10)
    assert rates(shape) == 2000 / 0.25
    assert rates(shape) == 2000 / 0.25


@pytest.mark.parametrize("shape", [MatmulShape(1, 32, 16, 8), MatmulShape(3, 8, 16, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_real_products_have_a_rate(shape: MatmulShape, dtype: torch.dtype) -> None:
    assert 1e5 < Rates(CPU, dtype, seconds=0.001)(shape) < 1e15
    assert 1e5 < peak_rate(CPU, dtype, size=64, seconds=0.001) < 1e15
