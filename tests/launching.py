"""Several processes on this machine, as a user starts them."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "launch/configs"


def accelerate(processes: int = 2, config: str = "ddp") -> list[str]:
    """The command that starts so many processes of the script, or `-m` module, that follows it, as a config says."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launch = f"-m accelerate.commands.launch --config_file {CONFIGS / config}.yaml --num_processes {processes}"
    return [sys.executable, *f"{launch} --main_process_port {port}".split()]


def run_command(command: Sequence[object], *, env: dict[str, str] | None = None, code: int = 0) -> str:
    """What a command says, on stdout and stderr together, from the checkout's root."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env=no_rank() if env is None else env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=250,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def no_rank() -> dict[str, str]:
    """The environment of a process that no launcher started."""
    return {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
