"""Ctrl-C and SIGTERM end a run after the step in progress, so that what is saved is never half a step."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

ECHO_SECONDS = 2.0
"""`accelerate launch` passes on the Ctrl-C that its processes also got from the terminal: one press, two signals."""


class Interrupts:
    """Remembers the first SIGINT or SIGTERM in `received`; a second one, later than an echo, stops at once."""

    def __init__(self) -> None:
        self.received = 0
        self._when = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python sets handlers nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received, self._when = number, time.monotonic()
        elif time.monotonic() - self._when > ECHO_SECONDS:
            raise KeyboardInterrupt
