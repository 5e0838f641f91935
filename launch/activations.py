"""What a forward pass keeps for its backward pass, counted where autograd saves it; for models on the meta device."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tokenizer.transformer import SpaceTimeTransformer


class Kept(NamedTuple):
    """Bytes that a forward pass leaves for the backward pass."""

    whole: int
    checkpointed: int
    """Where each layer keeps its input only and is computed again."""


def kept_by_autograd(model: nn.Module, loss: Callable[[], Tensor]) -> Kept:
    """Bytes of the distinct storages that autograd saves, parameters and buffers left out."""
    ledger = _Ledger(model)
    stacks = [module for module in model.modules() if isinstance(module, SpaceTimeTransformer)]
    layers = [layer for stack in stacks for layer in stack.layers]
    hooks = [layer.register_forward_pre_hook(ledger.enter) for layer in layers]
    hooks += [layer.register_forward_hook(ledger.leave) for layer in layers]
    with torch.autograd.graph.saved_tensors_hooks(ledger.save, lambda tensor: tensor), _FusedKernels():
        loss()
    for hook in hooks:
        hook.remove()
    return ledger.kept()


class _Ledger:
    """What is saved, by the layer that saves it first."""

    def __init__(self, model: nn.Module) -> None:
        self._own = {p.untyped_storage()._cdata for p in (*model.parameters(), *model.buffers())}
        self._seen: dict[int, torch.UntypedStorage] = {}  # held, so that no other storage takes its place
        self._saved: Counter[nn.Module | None] = Counter()
        self._inputs: Counter[nn.Module] = Counter()
        self._layer: nn.Module | None = None

    def enter(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._layer = layer
        self._inputs[layer] += inputs[0].nbytes

    def leave(self, *_: object) -> None:
        self._layer = None

    def save(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._own and storage._cdata not in self._seen:
            self._seen[storage._cdata] = storage
            self._saved[self._layer] += storage.nbytes()
        return tensor

    def kept(self) -> Kept:
        largest = max((size for layer, size in self._saved.items() if layer is not None), default=0)
        return Kept(self._saved.total(), self._saved[None] + self._inputs.total() + largest)


class _FusedKernels(TorchFunctionMode):
    """Lets attention and norms keep what a GPU's kernels keep: on the meta device torch spells them out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _FusedKernel.apply(True, *args[:3])
        if func is F.rms_norm:
            return _FusedKernel.apply(False, args[0])
        return func(*args, **(kwargs or {}))


class _FusedKernel(torch.autograd.Function):
    """Keeps its inputs, one fp32 number for each row of the first, and its output where it is asked to."""

    @staticmethod
    def forward(ctx: Any, keeps_output: bool, *inputs: Tensor) -> Tensor:
        out = torch.empty_like(inputs[0])
        scales = torch.empty(inputs[0].shape[:-1], device=out.device)
        ctx.save_for_backward(*inputs, scales, *([out] if keeps_output else []))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("only what it keeps is of interest")
