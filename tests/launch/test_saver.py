"""Checkpoints are written beside the training, one after another, and nothing that goes wrong is lost."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from launch import checkpoint
from launch.checkpoint import Snapshot
from launch.saver import Saver

NOTHING = Snapshot(model={}, ema={}, optimizer={}, config={})


def test_the_training_goes_on_while_one_is_written_and_waits_for_it_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end, done = threading.Event(), list[int]()

    def slow(run: Path, step: int, *_: Any, **__: Any) -> Path:
        assert may_end.wait(10)
        done.append(step)
        return run

    monkeypatch.setattr(checkpoint, "save", slow)
    with Saver(tmp_path, keep=2) as saver:
        saver.save(1, NOTHING, {})
        saver.check()
        assert done == []  # the training is further on, the checkpoint not there yet
        threading.Timer(0.1, may_end.set).start()
        saver.save(2, NOTHING, {})
        assert done[:1] == [1]
    assert done == [1, 2]


def test_what_writing_ran_into_is_raised_by_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match="No space"), Saver(tmp_path, keep=2) as saver:
        saver.save(1, NOTHING, {})
    with pytest.raises(OSError, match="No space"), Saver(tmp_path, keep=2) as saver:
        saver.save(1, NOTHING, {})
        for _ in range(1000):
            saver.check()
            time.sleep(0.01)
        raise AssertionError("it was not told")


def test_a_checkpoint_that_was_begun_is_written_though_the_training_failed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"), Saver(tmp_path, keep=2) as saver:
        saver.save(3, NOTHING, {"seconds": 1.0})
        raise RuntimeError("killed")
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoints/step_00000003"


def test_a_rank_without_a_snapshot_writes_nothing(tmp_path: Path) -> None:
    with Saver(tmp_path, keep=2) as saver:
        saver.save(1, None, {})
    assert not (tmp_path / "checkpoints").exists()
