"""How a model's layers are run: by torch.compile where this machine can, with activations computed again if asked."""

import shutil
from typing import Protocol, runtime_checkable

import torch
from torch import nn


@runtime_checkable
class CompilesLayers(Protocol):
    def compile_layers(self) -> None: ...


def compile_model(model: nn.Module) -> str:
    """Compiles a model's layers in place, and says in words what was done."""
    if not isinstance(model, CompilesLayers):
        return f"{type(model).__name__} has no layers to compile: it runs as it is"
    if next(model.parameters()).device.type == "cpu" and not any(
        shutil.which(name) for name in ("c++", "g++", "clang++")
    ):
        return (
            "no C++ compiler (c++, g++ or clang++) found: running uncompiled, about half as fast; "
            "install one to change that"
        )
    # Layers of one kind share a code object: the limit counts all their shapes together.
    torch._dynamo.config.recompile_limit = 256
    torch._dynamo.config.accumulated_recompile_limit = 4096
    model.compile_layers()
    return "compiling layer by layer; the first steps are slow"


@runtime_checkable
class RecomputesLayers(Protocol):
    def checkpoint_activations(self) -> None: ...


def checkpoint_activations(model: nn.Module) -> None:
    """Trains with recomputed activations, where the model has layers to recompute."""
    if not isinstance(model, RecomputesLayers):
        raise ValueError(f"{type(model).__name__} has no layers to compute again: leave out activation_checkpointing")
    model.checkpoint_activations()
