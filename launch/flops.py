"""Matrix products that run, how fast this machine can do them, and the time that they need at the least.

A product of b pairs [m k] x [k n] takes 2 b m k n floating-point operations (FLOPs). Counting is exact: it watches what
is dispatched, forward and backward, and costs nothing on the meta device.
"""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
WARM_SECONDS = 0.005
FASTEST_OF = 4
"""Stretches of products of which the best is taken."""
LAUNCHED_TOGETHER = 20
"""Products in one CUDA graph: launching a small one from Python takes longer than its work."""


class MatmulShape(NamedTuple):
    """`batch` products [m k] x [k n]."""

    batch: int
    m: int
    k: int
    n: int

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.m * self.k * self.n


Counts = Counter[MatmulShape]
"""How often each product runs."""


def count_matmuls(function: Callable[[], object]) -> Counts:
    """The matrix products that run inside the function, those of its backward pass included."""
    counter = _MatmulCounter()
    with counter:
        function()
    return counter.counts


def total_flops(counts: Counts) -> int:
    return sum(shape.flops * count for shape, count in counts.items())


def floor_seconds(counts: Counts, rate: Callable[[MatmulShape], float]) -> float:
    """Seconds that the products alone take where each runs at its best rate (FLOP/s)."""
    return sum(shape.flops * count / rate(shape) for shape, count in counts.items())


class _MatmulCounter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counts = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        shapes = _SHAPES.get(func.overloadpacket)
        if shapes is not None:
            self.counts.update(shapes(*args))
            return func(*args, **kwargs)
        with self:  # in inference mode `linear` and `matmul` arrive whole
            out = func.decompose(*args, **kwargs)
        return func(*args, **kwargs) if out is NotImplemented else out


def _mm(a: Tensor, b: Tensor, *_: object) -> list[MatmulShape]:
    return [MatmulShape(1, a.shape[0], a.shape[1], b.shape[1])]


def _addmm(_bias: Tensor, a: Tensor, b: Tensor, *_: object) -> list[MatmulShape]:
    return _mm(a, b)


def _bmm(a: Tensor, b: Tensor, *_: object) -> list[MatmulShape]:
    return [MatmulShape(a.shape[0], a.shape[1], a.shape[2], b.shape[2])]


def _baddbmm(_bias: Tensor, a: Tensor, b: Tensor, *_: object) -> list[MatmulShape]:
    return _bmm(a, b)


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: object) -> list[MatmulShape]:
    """A fused kernel's two products: query key^T, and weights value."""
    batch, heads, q, channels = query.shape
    m = key.shape[2]
    return [MatmulShape(batch * heads, q, channels, m), MatmulShape(batch * heads, q, m, value.shape[3])]


def _attention_backward(_grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: object) -> list[MatmulShape]:
    """The scores once more, then the gradients of weights, value, query and key."""
    scores, mixed = _attention(query, key, value)
    batch, q, channels, m = scores
    of_weights, of_value = MatmulShape(batch, q, mixed.n, m), MatmulShape(batch, m, q, mixed.n)
    return [scores, of_weights, of_value, MatmulShape(batch, q, m, channels), MatmulShape(batch, m, q, channels)]


_SHAPES: dict[Any, Callable[..., list[MatmulShape]]] = {
    aten.mm: _mm,
    aten.addmm: _addmm,
    aten.bmm: _bmm,
    aten.baddbmm: _baddbmm,
    aten._scaled_dot_product_flash_attention: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_efficient_attention: _attention,
    aten._scaled_dot_product_cudnn_attention: _attention,
    aten._scaled_dot_product_flash_attention_backward: _attention_backward,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten._scaled_dot_product_efficient_attention_backward: _attention_backward,
    aten._scaled_dot_product_cudnn_attention_backward: _attention_backward,
}


class Rates:
    """The best rate (FLOP/s) of matrix products on a device, each shape measured once, when it is first asked for.

    Operands are reused, so that small ones stay in the processor's cache: a rate that no model exceeds.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, *, seconds: float = 0.03) -> None:
        """A shape is measured for about so many seconds (in each of the two memory orders of the second operand)."""
        self.device = device
        self.dtype = dtype
        self.seconds = seconds
        self._measured: dict[MatmulShape, float] = {}

    def __call__(self, shape: MatmulShape) -> float:
        if shape not in self._measured:
            self._measured[shape] = shape.flops / self._fastest(shape)
        return self._measured[shape]

    def _fastest(self, shape: MatmulShape) -> float:
        batch, m, k, n = shape
        left = torch.randn(batch, m, k, device=self.device, dtype=self.dtype)
        right = torch.randn(batch, k, n, device=self.device, dtype=self.dtype)
        turned = right.mT.contiguous().mT  # as a linear layer's weight lies in memory
        out = torch.empty(batch, m, n, device=self.device, dtype=self.dtype)
        if batch == 1:  # a plain product may take another kernel than a batch of one
            left, right, turned, out = left[0], right[0], turned[0], out[0]
        product = torch.mm if batch == 1 else torch.bmm
        return min(self._seconds(partial(product, left, operand, out=out)) for operand in (right, turned))

    def _seconds(self, run: Callable[[], object]) -> float:
        """Of one run: the fastest of a few stretches, each of enough runs to be timed."""
        run()
        together = LAUNCHED_TOGETHER if self.device.type == "cuda" else 1
        run = run if together == 1 else _captured(run, together)
        once = _timed(run, 1, self.device)
        once = min(once, _timed(run, max(1, int(WARM_SECONDS / once)), self.device))
        repeats = max(1, int(self.seconds / FASTEST_OF / once))
        return min(_timed(run, repeats, self.device) for _ in range(FASTEST_OF)) / together


def _captured(run: Callable[[], object], times: int) -> Callable[[], object]:
    """So many runs as one CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            run()
    return graph.replay


def _timed(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Seconds of one run, the mean of so many."""
    synchronise(device)
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    synchronise(device)
    return (time.perf_counter() - began) / repeats


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_rate(device: torch.device, dtype: torch.dtype, *, size: int | None = None, seconds: float = 0.2) -> float:
    """FLOP/s of large square products: 2048 wide on a CPU, 8192 on a GPU."""
    size = size or (8192 if device.type == "cuda" else 2048)
    return Rates(device, dtype, seconds=seconds)(MatmulShape(1, size, size, size))
