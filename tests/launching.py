"""Several processes on this machine, as a user starts them."""

import os
import socket
import sys


def accelerate(processes: int = 2) -> list[str]:
    """The command that starts so many processes of the script, or `-m` module, that follows it."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launch = f"-m accelerate.commands.launch --multi_gpu --num_processes {processes} --num_machines 1"
    return [sys.executable, *f"{launch} --main_process_port {port}".split()]


def no_rank() -> dict[str, str]:
    """The environment of a process that no launcher started."""
    return {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
