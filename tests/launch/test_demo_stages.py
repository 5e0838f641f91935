"""Every stage of every demo is a command line that its command takes."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from launch import collect, demo, dream, stages, train_agent, train_dynamics, train_imagination, train_tokenizer
from launch.command import main

STAGES = [
    (name, config.stages[place])
    for name, config in demo.PRESETS.items()
    for place in range(len(config.stages))
    if name not in ("debug", "vmc_debug")  # those run whole in other tests
]


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_a_stage_is_a_command_line_that_is_taken(
    name: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One was refused an hour after the start: a dream asked for --max-steps in the preset that no test ran."""
    config = demo.PRESETS[name]
    commands: list[list[str]] = []
    monkeypatch.setattr(stages, "run_command", lambda command: commands.append(list(command)) or 0)
    stages.run_stage(demo.STAGES[stage], config.run, config.preset)
    (command,) = commands
    module = importlib.import_module(command[2])
    taken: list[Any] = []
    monkeypatch.setattr(sys, "argv", command[2:])
    main(module.PRESETS, taken.append, description=None)
    assert len(taken) == 1


@pytest.mark.parametrize("name", ["crafter", "crafter_debug"])
def test_what_is_dreamt_and_learned_fits_into_the_clips_that_are_collected(name: str) -> None:
    """A demo stopped an hour after its start: its clips had become shorter than its dreams."""
    frames = collect.PRESETS[name].clip_frames
    assert frames is not None
    trained = (train_tokenizer, train_dynamics, train_agent, train_imagination)
    assert max(dream.PRESETS[name].length, *(command.PRESETS[name].length for command in trained)) <= frames
