"""Optimizers and their learning rate, a pure function of the step."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from launch.distributed import has_bf16
from launch.sharding import shape

Schedule = Literal["constant", "cosine"]
NOT_HIDDEN = ("embed", "head", "query")
"""Matrices that Muon leaves to AdamW: their rows are entries of a table, not a map between features."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    steps: int = 10_000
    """Length of the run; the cosine ends here."""
    learning_rate: float = 3e-4
    """At its peak."""
    warmup_steps: int = 100
    """Steps in which the learning rate rises from 0 to its peak."""
    schedule: Schedule = "cosine"
    """What the learning rate does after that."""
    final_scale: float = 0.1
    """The cosine decays to this fraction of the learning rate."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = 0.01
    """Applied to matrices only: not to biases, gains and other vectors."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    """Added to the root of AdamW's second moment."""

    def __post_init__(self) -> None:
        for name in ("steps", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        for name in ("warmup_steps", "final_scale", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")


def learning_rate(step: int, config: OptimizerConfig) -> float:
    """Of the step that is about to be taken, counted from 1."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate * (config.final_scale + (1 - config.final_scale) * cosine)


def make_optimizers(model: nn.Module, config: OptimizerConfig) -> list[Optimizer]:
    """AdamW for everything trainable, or Muon for the hidden matrices and AdamW for the rest."""
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trainable:
        raise ValueError(f"{type(model).__name__} has no parameter that requires a gradient")
    hidden = [(n, p) for n, p in trainable if len(shape(p)) == 2 and not any(word in n for word in NOT_HIDDEN)]
    if config.optimizer == "adamw" or not hidden:
        return [_adamw([p for _, p in trainable], config)]
    taken = {name for name, _ in hidden}
    rest = [p for name, p in trainable if name not in taken]
    muon = Muon(
        [p for _, p in hidden],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    return [muon, _adamw(rest, config)] if rest else [muon]


class Muon(torch.optim.Muon):
    """torch's, with updates of AdamW's size ("match_rms_adamw"), so that one learning rate serves both.

    torch orthogonalises one matrix after the other in bf16; here it is all of one shape at once, and in fp32 on devices
    that only imitate bf16, where that takes a twentieth of the time.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameters in _by_shape(group["params"]):
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: Mapping[str, Any]) -> None:
        """Of parameters of one shape."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        for p in parameters:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, buffers, group["momentum"]) if group["nesterov"] else buffers
        updates = orthogonalised(torch.stack(list(ahead)), group["ns_coefficients"], group["ns_steps"], group["eps"])
        rate = group["lr"] * 0.2 * math.sqrt(max(parameters[0].shape))
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, list(updates.to(parameters[0].dtype)), alpha=-rate)


def _by_shape(parameters: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Those that have a gradient."""
    found: dict[tuple[torch.Size, torch.device], list[Tensor]] = {}
    for p in parameters:
        if p.grad is not None:
            found.setdefault((p.shape, p.device), []).append(p)
    return found.values()


def orthogonalised(
    matrices: Float[Tensor, "n rows cols"], coefficients: tuple[float, float, float], steps: int, eps: float
) -> Float[Tensor, "n rows cols"]:
    """The nearest semi-orthogonal matrices, roughly: Newton and Schulz's iteration with Muon's coefficients (Jordan et
    al. 2024, Muon: An optimizer for hidden layers in neural networks), whose singular values end in 0.5 to 1.5."""
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.to(torch.bfloat16) if has_bf16() else matrices
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _adamw(parameters: list[nn.Parameter], config: OptimizerConfig) -> Optimizer:
    matrices: list[Tensor] = [p for p in parameters if len(shape(p)) >= 2]
    others: list[Tensor] = [p for p in parameters if len(shape(p)) < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)
