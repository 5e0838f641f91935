"""Worker processes: all orders are carried out, and no worker is lost or left behind unnoticed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.workers import Bar, Workers, carry_out
from tests.launch.jobs import length, work

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("processes", [0, 2])
def test_every_order_is_carried_out_and_told_of(processes: int) -> None:
    said: list[tuple[str, int]] = []
    orders = ["a", "bc", "def"]
    carry_out(orders, work, lambda *what: said.append(what), processes=processes, stopped=lambda: False)
    assert sorted(said) == [("a", 1), ("bc", 2), ("def", 3)]


@pytest.mark.parametrize("processes", [0, 1])
def test_an_order_that_fails_is_the_commands_error(processes: int) -> None:
    with pytest.raises(ValueError, match="no such thing"):
        carry_out(["a", "fail no such thing"], work, print, processes=processes, stopped=lambda: False)


def test_a_worker_that_is_killed_is_told_in_one_sentence() -> None:
    with pytest.raises(ChildProcessError, match="a worker process was killed, .* run the same command again"):
        carry_out(["a", "die", "b"], work, print, processes=1, stopped=lambda: False)


def test_a_worker_that_dies_of_the_commands_own_ctrl_c_is_no_accident() -> None:
    """One that is only just starting does not ignore the signal yet, which a terminal sends to all."""
    answers = iter([False, False])
    with pytest.raises(KeyboardInterrupt):
        carry_out(["die"], work, print, processes=1, stopped=lambda: next(answers, True))


@pytest.mark.parametrize("processes", [0, 2])
def test_what_the_work_returns_comes_in_the_orders_order(processes: int) -> None:
    with Workers(processes) as workers:
        for orders in (["abc", "a", "ab"], ["", "abcd"]):
            found = workers.carry_out(orders, length, print, stopped=lambda: False)
            assert found == [len(order) for order in orders]


def test_orders_of_a_worker_that_is_killed_are_begun_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    orders = ["a", f"die_once {tmp_path / 'died'}", "abc"]
    with Workers(2, restarts=1) as workers:
        found = workers.carry_out(orders, length, print, stopped=lambda: False)
    assert found == [len(order) for order in orders] and (tmp_path / "died").exists()
    assert "a worker process was killed" in capfd.readouterr().out


def test_an_order_that_kills_every_worker_is_given_up() -> None:
    with Workers(1, restarts=2) as workers, pytest.raises(ChildProcessError, match="run the same command again"):
        workers.carry_out(["a", "die"], length, print, stopped=lambda: False)


@pytest.mark.parametrize("processes", [0, 1])
def test_when_stopped_the_order_in_hand_is_finished_and_no_other_begun(processes: int) -> None:
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        carry_out(
            ["a", "b", "c"],
            work,
            lambda order, _: said.append(order),
            processes=processes,
            stopped=lambda: bool(said),
        )
    assert "c" not in said and said[0] == "a"


def test_workers_end_with_a_command_that_is_killed(tmp_path: Path) -> None:
    """They used to wait for orders for good."""
    script = (
        "import sys\nfrom launch.workers import carry_out\nfrom tests.launch.jobs import work\n"
        "if __name__ == '__main__':\n"
        "    carry_out(['sleep ' + sys.argv[1]], work, print, processes=1, stopped=lambda: False)\n"
    )
    pid = tmp_path / "pid"
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, str(tmp_path / "script.py"), str(pid)]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        while process.poll() is None and not (pid.exists() and pid.read_text()):
            time.sleep(0.01)
        process.kill()
    worker = int(pid.read_text())
    for _ in range(500):
        if not Path(f"/proc/{worker}").exists():
            return
        time.sleep(0.01)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker lives on")


def test_off_a_terminal_the_bar_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("frames", 40, 10) as bar:
        for done in range(11, 21):
            bar.show(done, "fast")
    said = capsys.readouterr().out
    assert said.startswith("frames 11/40  fast  ") and said.endswith(" s left\n") and said.count("\n") == 1
    with Bar("frames", 40, shown=False) as bar:
        bar.show(20, "fast")
    assert not capsys.readouterr().out
