"""How the ranks train one model together, as their launcher asks: DDP, FSDP, or DeepSpeed's ZeRO.

The loop knows an `Engine` and none of them. What is saved is the same under all: whole tensors in 32 bits, so that a
run may go on under another engine, on another number of ranks, or on one CPU.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from launch import sharding
from launch.checkpoint import Snapshot, describe
from launch.ema import Ema
from launch.optimizers import OptimizerConfig, make_optimizers
from tokenizer.draws import Rows
from tokenizer.records import Clip

Remembered = dict[str, dict[str, Tensor]]
"""Name of a parameter -> what its optimizer keeps of it, whole."""


class Engine(ABC):
    """A model with its optimizers, on all ranks. `model` is the one given, whose parameters may lie in parts."""

    optimizers: list[Optimizer]

    @abstractmethod
    def __init__(self, model: nn.Module, config: OptimizerConfig, accelerator: Accelerator) -> None:
        self.model, self.accelerator = model, accelerator
        self.description = describe(model)
        """As it is before an engine makes other classes of its modules."""
        self._kind = type(model)

    @abstractmethod
    def learn(self, batch: Clip, rows: Rows, *, parts: int, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Adds the gradient of one of so many parts of a step; gives the loss of this rank's rows, and metrics.

        Ranks exchange gradients after the last part only, where that saves something.
        """

    @abstractmethod
    def clip(self, limit: float) -> Tensor:
        """The norm of all ranks' gradient, before it was cut to this limit."""

    @abstractmethod
    def step(self) -> None:
        """Updates the weights and forgets the gradient."""

    @abstractmethod
    def remembered(self) -> Iterator[tuple[str, str, Tensor]]:
        """(parameter, field, whole value) of all that the optimizers keep; all ranks must call it together."""

    @abstractmethod
    def remember(self, values: Remembered) -> None:
        """Takes over what an engine of any kind kept."""

    def set_learning_rate(self, rate: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def snapshot(self, ema: Ema) -> Snapshot | None:
        """What a checkpoint holds, on the main process; None on the others. All ranks must call it together."""
        if not self.accelerator.is_main_process and not self.gathers:
            return None
        parameters = dict(self.model.named_parameters())
        parts = (
            ((name, sharding.whole(sharding.part(t), t)) for name, t in _saved(self.model)),
            ((name, sharding.whole(average, parameters[name])) for name, average in ema.weights.items()),
            ((f"{name}.{field}", value) for name, field, value in self.remembered()),
        )
        if not self.accelerator.is_main_process:
            for tensors in parts:
                deque(tensors, maxlen=0)  # to take part, one tensor at a time
            return None
        model, averages, optimizer = map(whole_copies, parts)
        groups = [_without_parameters(optimizer.param_groups) for optimizer in self.optimizers]
        return Snapshot(model=model, ema=averages, optimizer=optimizer, config=self.description, groups=groups)

    @property
    def gathers(self) -> bool:
        """Whether a snapshot needs what other ranks keep."""
        return True

    @contextmanager
    def averaged(self, ema: Ema) -> Iterator[nn.Module | None]:
        """The whole model with averaged weights, on the main process; None on the others. All ranks take part."""
        if not any(map(sharding.is_sharded, self.model.parameters())):
            with ema.applied(self.model) if self.accelerator.is_main_process else nullcontext():
                yield self.model if self.accelerator.is_main_process else None
            return
        parameters = dict(self.model.named_parameters())
        tensors = (
            (name, sharding.whole(ema.weights.get(name, sharding.part(t)), parameters.get(name, t)))
            for name, t in _saved(self.model)
        )
        if not self.accelerator.is_main_process:
            deque(tensors, maxlen=0)
            yield None
            return
        copy = self._kind(self.model.config)
        copy.load_state_dict(whole_copies(tensors))
        yield copy.to(self.accelerator.device)


class OfTorch(Engine):
    """Torch's own optimizers on the parameters, whether these lie whole on a rank or, as FSDP's, in parts."""

    def clip(self, limit: float) -> Tensor:
        norm = clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], limit)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def remembered(self) -> Iterator[tuple[str, str, Tensor]]:
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for optimizer in self.optimizers:
            for parameter, fields in optimizer.state.items():
                for field, value in fields.items():
                    tensor = torch.as_tensor(value)
                    yield names[id(parameter)], field, tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def remember(self, values: Remembered) -> None:
        """Learning rates and the like stay as configured."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for optimizer in self.optimizers:
            order = [p for group in optimizer.param_groups for p in group["params"]]
            state = {
                place: {field: _like(value, parameter) for field, value in values[names[id(parameter)]].items()}
                for place, parameter in enumerate(order)
                if names[id(parameter)] in values
            }
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class Replicated(OfTorch):
    """The whole model on each rank (DDP), or on the only one."""

    def __init__(self, model: nn.Module, config: OptimizerConfig, accelerator: Accelerator) -> None:
        super().__init__(model, config, accelerator)
        self.optimizers = make_optimizers(model, config)
        self._wrapped = accelerator.prepare(model)
        self._wrapped.train()

    def learn(self, batch: Clip, rows: Rows, *, parts: int, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        with nullcontext() if last else self.accelerator.no_sync(self._wrapped):
            loss, metrics = self._wrapped(batch, rows)
            (loss / parts).backward()
        return loss, metrics

    @property
    def gathers(self) -> bool:
        return False


def refuse_muon(config: OptimizerConfig, engine: str) -> None:
    if config.optimizer == "muon":
        raise ValueError(
            f"optimizer=muon needs whole matrices, and under {engine} a rank keeps parts of them: "
            "give --optimizer adamw, or start with --config_file launch/configs/ddp.yaml"
        )


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor) or not value.ndim:  # a count of steps lies whole on each rank
        return value
    return sharding.as_sharded(value, parameter)


def _saved(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters themselves, and buffers that are saved."""
    return iter(model.state_dict(keep_vars=True).items())


def whole_copies(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """In this process's memory, in 32 bits; none shares memory with another, which safetensors would refuse."""
    wide = {torch.bfloat16: torch.float32, torch.float16: torch.float32}
    return {name: t.detach().to("cpu", wide.get(t.dtype, t.dtype), copy=True).contiguous() for name, t in tensors}


def _without_parameters(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in group.items() if name != "params"} for group in groups]
