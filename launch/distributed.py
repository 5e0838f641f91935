"""One process or many: the accelerator that every command trains with.

    python -m launch.train_dynamics laptop                                        # one process, with a GPU if any
    accelerate launch --config_file launch/configs/ddp.yaml -m launch.train_dynamics carracing  # all GPUs
    accelerate launch --config_file launch/configs/ddp.yaml --num_processes 2 -m launch.train_dynamics debug

The configs are right on a machine without a GPU too, where processes are joined over gloo; `--cpu --num_processes 2`
would start one. How they share a model is in `launch.engine`, `launch.fsdp` and `launch.zero`.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs, ProjectConfiguration
from torch import distributed

FloatFormat = Literal["bf16", "fp32"]
Precision = Literal["auto", "bf16", "fp32"]
"""Of a forward pass; "auto" is bf16 on devices that multiply in it, and fp32 on those that only imitate it."""
Tracker = Literal["tensorboard", "wandb"]
Parallelism = Literal["DDP", "FSDP", "DeepSpeed"]


def make_accelerator(precision: Precision, run: Path, tracker: Tracker = "tensorboard") -> Accelerator:
    """The accelerator of this process; its tracker writes under the run's folder.

    Loaders are never prepared with it: the stream splits by rank itself, and splitting twice loses data silently.
    """
    half = calculated_in(precision) == "bf16"
    on_cpu = not torch.cuda.is_available()
    deepspeed = parallelism() == "DeepSpeed"
    accelerator = Accelerator(
        # Without `cpu` accelerate leaves CPU ranks unjoined; DeepSpeed refuses it and needs the backend instead.
        cpu=on_cpu and not deepspeed,
        kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")] if on_cpu and deepspeed else None,
        # To DeepSpeed bf16 would mean weights in bf16; `launch.zero` asks it for autocast, as the others do.
        mixed_precision="bf16" if half and not deepspeed else "no",
        log_with=tracker,
        project_config=ProjectConfiguration(project_dir=str(run), logging_dir=str(run / "logs")),
    )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    joined = 1 if accelerator.distributed_type == DistributedType.NO else accelerator.num_processes
    if joined != started:
        raise ValueError(
            f"{started} processes were started but {joined} joined, so gradients would not be shared: "
            "start them with `accelerate launch --config_file launch/configs/ddp.yaml --num_processes N -m launch.NAME`"
        )
    if on_cpu:
        torch.set_num_threads(cores())
    return accelerator


def parallelism() -> Parallelism:
    """What the launcher asks for; also before there is an accelerator."""
    asked = {name: os.environ.get(f"ACCELERATE_USE_{name.upper()}", "false").lower() for name in ("DeepSpeed", "FSDP")}
    return "DeepSpeed" if asked["DeepSpeed"] == "true" else "FSDP" if asked["FSDP"] == "true" else "DDP"


@contextmanager
def accelerated(precision: Precision, run: Path, tracker: Tracker = "tensorboard") -> Iterator[Accelerator]:
    """The accelerator of a training, and the ranks' group taken apart after it.

    gloo's threads hold the tensors that they sent last until they get Python's lock. A thread that still waits for it
    when Python ends aborts the process, and DDP keeps the group (with its threads) alive for good, so that they cannot
    be joined: they get the lock for a moment instead.
    """
    accelerator = make_accelerator(precision, run, tracker)
    failed = True
    try:
        yield accelerator
        failed = False
    except SystemExit:
        failed = False
        raise
    finally:
        joined = distributed.is_available() and distributed.is_initialized()
        # After an error of one rank NCCL would wait for the others, which wait for this one.
        if joined and not (failed and distributed.get_backend() != "gloo"):
            distributed.destroy_process_group()
            time.sleep(0.2)


def calculated_in(precision: Precision) -> FloatFormat:
    """What that means on the device of this process. Raises ValueError where it would have to imitate bf16."""
    if precision == "auto":
        return "bf16" if has_bf16() else "fp32"
    if precision == "bf16" and not has_bf16():
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "this processor"
        raise ValueError(f"{device} cannot calculate in bf16: give auto or fp32 in its place")
    return precision


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """In which a forward pass calculates as that says."""
    return torch.autocast(device.type, torch.bfloat16, enabled=calculated_in(precision) == "bf16")


def has_bf16() -> bool:
    """Whether the device of this process multiplies in bf16; those that imitate it are slower than in fp32,
    processors 6 to 200 times."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return not processor_flags().isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))  # the last on ARM


@cache
def processor_flags() -> frozenset[str]:
    """What the processor can do, by the names of Linux; nothing on other systems."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    found = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(found, ()))


@cache
def say_once(text: str) -> None:
    """Prints a sentence, if this is the first process and it did not say it before."""
    if on_first_process():
        print(text, flush=True)


def on_first_process() -> bool:
    """Whether this process is the one that speaks; also before there is an accelerator."""
    return int(os.environ.get("RANK", "0")) == 0


def rank_and_world() -> tuple[int, int]:
    """Which of how many processes this one is, as its launcher says; also before there is an accelerator."""
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if not 0 <= rank < world_size:
        raise ValueError(f"RANK={rank} is not one of WORLD_SIZE={world_size} processes")
    return rank, world_size


def cores() -> int:
    """This process's share of the machine's cores, or fewer where OMP_NUM_THREADS asks for fewer in all."""
    if "OMP_NUM_THREADS" in os.environ and "LOCAL_WORLD_SIZE" not in os.environ:
        return int(os.environ["OMP_NUM_THREADS"])
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, here // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
