"""What a training computes, and how much of its device that uses: model FLOPs a second beside a large matrix product's.

Model FLOPs are those of the matrix products of the loss and its backward pass, counted once on the meta device for each
shape of batch. Layers that are computed again to save memory count once; a perceptual loss does not count.
"""

from functools import cache
from typing import Any

import torch

from agent.agent import AgentConfig
from dynamics.world_model import DynamicsConfig
from launch.distributed import FloatFormat, Precision, calculated_in
from launch.flops import peak_rate, total_flops
from launch.on_meta import on_meta, step_products
from launch.presets import Clips
from tokenizer.autoencoder import TokenizerConfig

STEPS_WORTH_COUNTING = 20
"""Counting and measuring take a second or two: a training of fewer steps says nothing."""
CPU_SIZE = 1024
"""Width of the product that is a processor's peak here: of a quarter of a second in all."""


class Utilisation:
    """Of this process's device. Of a model that is not counted (imagination, V and M) it says nothing."""

    def __init__(self, config: Any, device: torch.device, precision: Precision, *, steps: int) -> None:
        """`config` is the model's, if it has one; `steps` are those that are to be taken."""
        counted = isinstance(config, TokenizerConfig | DynamicsConfig | AgentConfig) and steps >= STEPS_WORTH_COUNTING
        self._config = config if counted else None
        self._peak = peak_flops(device, calculated_in(precision)) if counted else 0.0
        self._flops = 0

    def saw(self, clips: Clips) -> None:
        """Notes that the model learned from such a batch."""
        if self._config is not None:
            self._flops += step_flops(self._config, clips)

    def read(self, seconds: float) -> dict[str, float]:
        """Of what was seen since the last reading, in so many seconds."""
        if self._config is None:
            return {}
        rate, self._flops = self._flops / seconds, 0
        return {"tflops_per_second": rate / 1e12, "flop_utilisation": rate / self._peak}


@cache
def step_flops(config: TokenizerConfig | DynamicsConfig | AgentConfig, clips: Clips) -> int:
    """Of the loss of a batch and its backward pass."""
    return total_flops(step_products(on_meta(config), clips))


@cache
def peak_flops(device: torch.device, dtype: FloatFormat) -> float:
    """FLOP/s of a large matrix product, measured when it is first asked for."""
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    return peak_rate(device, kind, size=CPU_SIZE if device.type == "cpu" else None)
