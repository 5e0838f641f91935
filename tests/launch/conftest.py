"""A finished debug pipeline, made once for all tests that only read it or copy it, and commands called in process."""

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest
from accelerate.state import AcceleratorState

from launch import distributed

Call = Callable[..., int]


def call_command(name: str, *arguments: object) -> int:
    """Runs `python -m launch.NAME ARGUMENTS` in this process and returns its exit code."""
    module = importlib.import_module(f"launch.{name}")
    before = sys.argv
    sys.argv = [f"launch.{name}", *map(str, arguments)]
    shared = name.startswith("train_") or name in ("encode_latents", "evolve")
    processes: Literal["all", "first", "one"] = "one" if name in ("demo", "study") else "all" if shared else "first"
    try:
        module.main(module.PRESETS, getattr(module, name), description=module.__doc__, processes=processes)
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


def call_stage(command: Sequence[str]) -> int:
    """What `launch.demo` runs as a process of its own, in this one: [python, -m, launch.NAME, arguments]."""
    AcceleratorState._reset_state(reset_partial_state=True)  # a process of its own would have none yet
    return call_command(command[2].removeprefix("launch."), *command[3:])


@pytest.fixture
def call() -> Call:
    return call_command


@pytest.fixture
def stages_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.stages.run_command", call_stage)


@pytest.fixture
def bf16_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on processors that only imitate it: small models are fast enough."""
    monkeypatch.setattr(distributed, "has_bf16", lambda: True)


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `python -m launch.demo debug`. Read it, or copy it: it is everyone's."""
    pytest.importorskip("Box2D")
    run = tmp_path_factory.mktemp("pipeline") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("launch.stages.run_command", call_stage)
        assert call_command("demo", "debug", "--run", run) == 0
    return run
