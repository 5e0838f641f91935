"""Which engine trains: the one that the launcher asks for."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from accelerate import Accelerator
from torch import nn

from launch.distributed import Parallelism, parallelism
from launch.engine import Engine, Replicated
from launch.fsdp import FullySharded
from launch.optimizers import OptimizerConfig
from launch.zero import Zero, spreading

Make = Callable[[nn.Module, OptimizerConfig, Accelerator], Engine]
ENGINES: dict[Parallelism, Make] = {"DDP": Replicated, "FSDP": FullySharded, "DeepSpeed": Zero}


def make_engine(model: nn.Module, config: OptimizerConfig, accelerator: Accelerator) -> Engine:
    """Spreads the model over the ranks. Raises ValueError where this training cannot be done so."""
    return ENGINES[parallelism()](model, config, accelerator)


def spread_as_made(accelerator: Accelerator) -> AbstractContextManager[None]:
    """Where a model is made inside, and the engine can, no rank ever holds more than a module of it whole."""
    return spreading(accelerator) if parallelism() == "DeepSpeed" else nullcontext()
