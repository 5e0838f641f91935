"""Commands that run one after another in processes of their own, below one folder, as `demo` and `study` do."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.interrupt import Interrupts


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A command and its folders."""

    name: str
    command: str
    folders: dict[str, str]
    """Option -> folder below that of the whole."""
    options: tuple[str, ...] = ()
    """Others, as they are written."""
    preset: str = "{}"
    """Its name, in which {} stands for that of the whole."""


STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)
"""Exit codes of a stage that was told to stop."""


def run_stage(stage: Stage, run: Path, preset: str) -> float:
    """Seconds it took; the stage says itself when it is done already."""
    options = [text for name, folder in stage.folders.items() for text in (f"--{name}", str(run / folder))]
    began = time.perf_counter()
    command = [sys.executable, "-m", f"launch.{stage.command}", stage.preset.format(preset), *options, *stage.options]
    status = run_command(command)
    if status in STOPPED:
        raise KeyboardInterrupt
    if status:
        raise ValueError(f"stage {stage.name} failed (exit code {status}); mend it and run the same command again")
    return time.perf_counter() - began


def run_command(command: Sequence[str]) -> int:
    """Its exit code. Ctrl-C reaches it by itself, and it may save before it ends; SIGTERM is passed on."""
    passed_on = False
    with Interrupts() as interrupts, subprocess.Popen(command) as process:
        while True:
            try:
                return process.wait(timeout=0.2) or (128 + interrupts.received if interrupts.received else 0)
            except subprocess.TimeoutExpired:
                if interrupts.received == signal.SIGTERM and not passed_on:
                    passed_on = True
                    process.terminate()
            except KeyboardInterrupt:  # a second Ctrl-C
                process.kill()
                raise
