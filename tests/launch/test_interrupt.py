"""What Ctrl-C does to a step in progress."""

import os
import signal

import pytest

from launch import interrupt
from launch.interrupt import Interrupts


def press(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def test_the_first_is_remembered_and_its_echo_ignored() -> None:
    """`accelerate launch` passes on what its processes got too: taken for a second press, it cost the last steps."""
    with Interrupts() as interrupts:
        press()
        press(signal.SIGTERM)
        assert interrupts.received == signal.SIGINT


def test_a_second_press_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "ECHO_SECONDS", -1.0)
    with Interrupts():
        press()
        with pytest.raises(KeyboardInterrupt):
            press()


def test_afterwards_signals_are_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before
