import errno
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import torch
import tyro

from launch.__main__ import commands
from launch.command import main
from launch.loop import LoopConfig

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Run:
    run: Path = Path("runs/x")
    loop: Annotated[LoopConfig, tyro.conf.arg(name="")] = field(default_factory=LoopConfig)


PRESETS = {"debug": Run(loop=LoopConfig(steps=3)), "laptop": Run()}


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str, error: BaseException | None = None) -> list[Run]:
    """The configs that the command's function was called with."""
    seen: list[Run] = []

    def function(config: Run) -> None:
        seen.append(config)
        if error is not None:
            raise error

    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    main(PRESETS, function, description="Trains.")
    return seen


def exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: str, error: BaseException | None = None) -> object:
    with pytest.raises(SystemExit) as caught:
        call(monkeypatch, *arguments, error=error)
    return caught.value.code


def test_a_preset_takes_typed_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "debug") == [PRESETS["debug"]]
    (config,) = call(monkeypatch, "laptop", "--steps", "2000", "--run", "runs/y", "--optimizer", "muon")
    assert (config.loop.steps, config.run, config.loop.optimizer) == (2000, Path("runs/y"), "muon")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["huge"], "unknown preset 'huge', have: debug, laptop"),
        ([], "name a preset first, have: debug, laptop"),
        (["debug", "--stepps", "3"], "--steps"),
        (["debug", "--steps", "many"], "many"),
        (["debug", "--optimizer", "sgd"], "muon"),
        (["debug", "--steps", "-3"], "steps=-3 must be above 0"),
    ],
)
def test_a_wrong_command_line_names_the_choices_and_exits_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert exit_code(monkeypatch, *arguments) == 2
    said = capsys.readouterr()
    assert message in said.err + said.out
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("batch=0 must be above 0"), 1, "error: batch=0 must be above 0"),
        (FileNotFoundError(errno.ENOENT, "x", "data/train"), 1, "no such file or folder: data/train"),
        (OSError(errno.ENOSPC, "x", "runs/x"), 1, "disk full: runs/x. Free some space and run the same command again"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/x"), 1, "Permission denied: runs/x"),
        (torch.OutOfMemoryError("Tried to allocate 2.00 GiB. GPU 0"), 1, "out of memory (2.00 GiB more were asked"),
        (MemoryError(), 1, "error: out of memory. Lower what is held at once"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
    ],
)
def test_an_error_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    message: str,
) -> None:
    assert exit_code(monkeypatch, "debug", error=error) == code
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_the_traceback_is_there_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVERIE_TRACEBACK", "1")
    with pytest.raises(ValueError, match="deep inside"):
        call(monkeypatch, "debug", error=ValueError("deep inside"))


def test_an_error_that_is_not_the_users_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        call(monkeypatch, "debug", error=AssertionError())
    with pytest.raises(RuntimeError, match="shapes do not match"):
        call(monkeypatch, "debug", error=RuntimeError("shapes do not match"))


def test_the_listing_has_every_command_with_its_summary() -> None:
    listing = subprocess.run(
        [sys.executable, "-m", "launch"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "250"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    guarded = {p.stem for p in (ROOT / "launch").glob("[!_]*.py") if '\nif __name__ == "__main__":' in p.read_text()}
    assert commands().keys() == guarded
    for name, summary in commands().items():
        assert summary, f"launch/{name}.py has no docstring"
        assert f"python -m launch.{name}" in listing
        assert summary in listing


def test_a_command_is_listed_without_being_imported(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        '"""Trains.\n\nMore."""\nraise SystemExit\nif __name__ == "__main__":\n    pass\n'
    )
    (tmp_path / "library.py").write_text('"""No command."""\n')
    assert commands(tmp_path) == {"train": "Trains."}


@dataclass(frozen=True)
class Fitted:
    width: int = 8
    """Channels."""
    shape: tuple[int, int] = (1, 1)


@dataclass(frozen=True, kw_only=True)
class Fit:
    model: Fitted = Fitted()


def test_a_field_that_the_command_fills_in_is_no_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such an option was taken and then overwritten without a word."""
    seen: list[Fit] = []

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["fit", "debug", *arguments])
        main({"debug": Fit(model=Fitted(shape=(3, 4)))}, seen.append, description="Fits.", given={Fitted: ["shape"]})

    run("--model.width", "16")
    assert seen == [Fit(model=Fitted(width=16, shape=(3, 4)))]
    with pytest.raises(SystemExit) as caught:
        run("--model.shape", "5", "6")
    assert caught.value.code == 2
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run("--help")
    said = capsys.readouterr().out
    assert "Channels." in said and "shape" not in said
