import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from launch.run_folder import claimed

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
    with claimed(config.run, config, main_process=True):
        pass


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


def test_checkpoints_of_nobody_are_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
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
