"""Several processes on this machine, as a user starts them."""

import os
import socket
import sys
from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "launch/configs"


def accelerate(processes: int = 2, config: str = "ddp") -> list[str]:
    """The command that starts so many processes of the script, or `-m` module, that follows it, as a config says."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launch = f"-m accelerate.commands.launch --config_file {CONFIGS / config}.yaml --num_processes {processes}"
    return [sys.executable, *f"{launch} --main_process_port {port}".split()]


def no_rank() -> dict[str, str]:
    """The environment of a process that no launcher started."""
    return {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
