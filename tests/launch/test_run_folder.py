import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from launch.run_folder import claimed, held

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Loop:
    steps: int = 10
    rate: float = 0.1


@dataclass(frozen=True)
class Run:
    run: Path
    loop: Loop = field(default_factory=Loop)


def claim(config: Run) -> None:
    """As by a command that trains for a while."""
    with claimed(config.run, config, main_process=True):
        (config.run / "checkpoints" / "step_00000001").mkdir(parents=True, exist_ok=True)


def test_a_run_folder_says_what_it_was_made_with(tmp_path: Path) -> None:
    claim(Run(tmp_path / "a"))
    assert json.loads((tmp_path / "a" / "config.json").read_text())["loop"] == {"steps": 10, "rate": 0.1}


def test_the_same_config_or_a_longer_run_may_go_on(tmp_path: Path) -> None:
    config = Run(tmp_path / "a")
    claim(config)
    claim(config)
    claim(replace(config, loop=Loop(steps=20)))
    assert json.loads((config.run / "config.json").read_text())["loop"]["steps"] == 20
    moved = (tmp_path / "a").rename(tmp_path / "b")
    claim(Run(moved))


def test_a_differing_config_is_one_sentence_with_both_values(tmp_path: Path) -> None:
    claim(Run(tmp_path))
    with pytest.raises(ValueError, match=r"made with loop.rate=0.1, this command has loop.rate=0.5: .* --run"):
        claim(Run(tmp_path, Loop(rate=0.5)))
    claim(Run(tmp_path))


def test_a_run_that_came_to_no_checkpoint_can_be_mended_in_place(tmp_path: Path) -> None:
    """A batch size that the model refused used to stay with the folder, which then refused the right one."""
    with pytest.raises(ValueError, match="refused"), claimed(tmp_path, Run(tmp_path), main_process=True):
        raise ValueError("refused")
    claim(Run(tmp_path, Loop(rate=0.5)))
    assert json.loads((tmp_path / "config.json").read_text())["loop"]["rate"] == 0.5


def test_checkpoints_of_nobody_are_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step_00000001").mkdir(parents=True)
    with pytest.raises(ValueError, match="has checkpoints but no config.json"):
        claim(Run(tmp_path))


def test_two_processes_cannot_share_a_folder_until_the_first_is_gone(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from launch.run_folder import claimed\n"
        "with claimed(Path(sys.argv[1]), {}, main_process=True):\n"
        "    print('mine', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "mine\n"
            with pytest.raises(ValueError, match=f"in use by process {other.pid}: .* --run"):
                claim(Run(tmp_path / "a"))
            with claimed(tmp_path / "a", Run(tmp_path / "a"), main_process=False):
                pass
        finally:
            other.kill()
    claim(Run(tmp_path / "a"))


@dataclass(frozen=True)
class Fed(Run):
    data: Path = Path("data")


def test_data_that_moved_along_with_the_run_or_is_written_otherwise_is_the_same(tmp_path: Path) -> None:
    claim(Fed(tmp_path / "a/run", data=tmp_path / "a/data"))
    (tmp_path / "a").rename(tmp_path / "b")
    claim(Fed(tmp_path / "b/run", data=tmp_path / "b/data"))
    claim(Fed(tmp_path / "b/run", data=tmp_path / "b/other/../data"))
    with pytest.raises(ValueError, match="data="):
        claim(Fed(tmp_path / "b/run", data=tmp_path / "b/data2"))


def test_a_place_of_a_lock_file_is_one_processes_until_that_is_gone(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from launch.run_folder import held\n"
        "with held(Path(sys.argv[1]), 3) as mine:\n"
        "    print(mine, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "lock")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "True\n"
            with held(tmp_path / "lock", 3) as mine:
                assert not mine
            with held(tmp_path / "lock", 2) as mine:
                assert mine
        finally:
            other.kill()
    with held(tmp_path / "lock", 3, wait=True) as mine:
        assert mine


@dataclass(frozen=True)
class Younger(Fed):
    width: int = 8
    beside: Path = Path("beside")


def test_a_field_that_is_younger_than_the_run_was_its_default_there(tmp_path: Path) -> None:
    claim(Fed(tmp_path))
    claim(Younger(tmp_path, beside=Path("other/../beside")))
    claim(Fed(tmp_path))
    with pytest.raises(ValueError, match="made with width=8, this command has width=16"):
        claim(Younger(tmp_path, width=16))
