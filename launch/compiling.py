"""How a model's layers are run: by torch.compile where this machine can, with activations computed again if asked.

What cannot be compiled runs as it is, which is said: before the first pass where that is known by then, else when the
compiler fails on a layer, whatever the model is doing at the time.
"""

import shutil
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch._functorch import config as functorch_config
from torch.utils.checkpoint import _StopRecomputationError

from launch.memory import ran_out

SLOWER = "running uncompiled, about half as fast"


@runtime_checkable
class CompilesLayers(Protocol):
    def compile_layers(self) -> None: ...


def compile_model(model: nn.Module) -> str:
    """Compiles a model's layers in place, and says in words what was done."""
    if not isinstance(model, CompilesLayers):
        return f"{type(model).__name__} has no layers to compile: it runs as it is"
    if next(model.parameters()).device.type == "cpu" and compiler() is None:
        return f"no C++ compiler (c++, g++ or clang++) found: {SLOWER}; install one to change that"
    # Layers of one kind share a code object: the limit counts all their shapes together.
    torch._dynamo.config.recompile_limit = 256
    torch._dynamo.config.accumulated_recompile_limit = 4096
    # Else a backward pass is compiled when it first runs, too late to run its layer as it is.
    functorch_config.force_non_lazy_backward_lowering = True
    try:
        model.compile_layers()
    except Exception as error:  # of any class: what is missing may be anything
        for module in model.modules():
            module._compiled_call_impl = None
        return f"compiling failed ({_reason(error)}): {SLOWER}"
    given_up: set[type[nn.Module]] = set()
    for module in model.modules():
        if module._compiled_call_impl is not None:
            module._compiled_call_impl = CompiledCall(module, module._compiled_call_impl, given_up)
    return "compiling layer by layer: the first passes are slow"


def compiler() -> str | None:
    """Path of the C++ compiler that code for processors needs."""
    return next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


class CompiledCall:
    """A compiled layer's call. Where the compiler fails on it, this and all layers of its kind run as they are."""

    def __init__(self, layer: nn.Module, compiled: Callable[..., Any], given_up: set[type[nn.Module]]) -> None:
        """`given_up` is shared by a model's layers: those kinds of them that cannot be compiled."""
        self.layer, self.compiled, self.given_up = layer, compiled, given_up

    @property
    def holds(self) -> bool:
        return type(self.layer) not in self.given_up

    def __call__(self, *inputs: object) -> Any:
        if not self.holds:
            return self.layer._call_impl(*inputs)
        try:
            return self.compiled(*inputs)
        except _StopRecomputationError:  # no failure: all that a backward pass asked for is computed again
            raise
        except Exception as error:
            if ran_out(error):
                raise
            out = self.layer._call_impl(*inputs)  # an error of the layer itself is raised here again
            print(f"compiling {type(self.layer).__name__} failed ({_reason(error)}): {SLOWER}", flush=True)
            self.given_up.add(type(self.layer))
            return out


def is_compiled(model: nn.Module) -> bool:
    """Whether there are layers that run compiled, and none of those that should was given up."""
    calls = [call for call in (module._compiled_call_impl for module in model.modules()) if call is not None]
    return bool(calls) and all(isinstance(call, CompiledCall) and call.holds for call in calls)


def _reason(error: Exception) -> str:
    """Its first line, or that of the error which it passes on."""
    cause = getattr(error, "inner_exception", error)
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]


@runtime_checkable
class RecomputesLayers(Protocol):
    def checkpoint_activations(self) -> None: ...


def checkpoint_activations(model: nn.Module) -> None:
    """Trains with recomputed activations, where the model has layers to recompute."""
    if not isinstance(model, RecomputesLayers):
        raise ValueError(f"{type(model).__name__} has no layers to compute again: leave out activation_checkpointing")
    model.checkpoint_activations()
