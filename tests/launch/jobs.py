"""Work for worker processes, which import it by name."""

import os
import signal
import time
from pathlib import Path

from launch.workers import Tell


def work(order: str, tell: Tell) -> None:
    """Does as it is told."""
    verb, _, rest = order.partition(" ")
    if verb == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if verb == "die_once" and not Path(rest).exists():
        Path(rest).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if verb == "fail":
        raise ValueError(rest)
    if verb == "sleep":
        Path(rest).write_text(str(os.getpid()))
        time.sleep(60)
    tell(order, len(order))


def length(order: str, tell: Tell) -> int:
    """As `work`, and returns how long the order is."""
    work(order, tell)
    return len(order)
