"""Orders that worker processes carry out side by side, while the command's own process shows how far they are."""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import parent_process
from typing import Any, Self, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from agent.envs.vector import worker_context

SECONDS_BETWEEN_LINES = 10.0
Order = TypeVar("Order")
Tell = Callable[..., None]
"""What an order's work calls now and then, to say how far it is."""


def carry_out(
    orders: Sequence[Order],
    work: Callable[[Order, Tell], None],
    tell: Tell,
    *,
    processes: int,
    threads: int = 1,
    stopped: Callable[[], bool],
) -> None:
    """Calls `work(order, tell)` for each order: in worker processes of so many threads, or in this one where it is 0.

    Raises KeyboardInterrupt, once the orders in hand are done, when it is `stopped`; ChildProcessError where a worker
    was killed; and what `work` raises.
    """
    if processes == 0:
        for order in orders:
            if stopped():
                raise KeyboardInterrupt
            work(order, tell)
        return
    try:
        _in_workers(orders, work, tell, processes=processes, threads=threads, stopped=stopped)
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker process was killed, perhaps because memory ran out: run the same command again to go on, "
            "with fewer workers if it happens again"
        ) from error


def _in_workers(
    orders: Sequence[Order],
    work: Callable[[Order, Tell], None],
    tell: Tell,
    *,
    processes: int,
    threads: int,
    stopped: Callable[[], bool],
) -> None:
    context = worker_context()
    told = context.SimpleQueue()
    waiting, running = list(reversed(orders)), set[Future[None]]()
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(told, threads)) as pool:
        while running or (waiting and not stopped()):
            while waiting and len(running) < processes and not stopped():
                running.add(pool.submit(_work, work, waiting.pop()))
            done, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            while not told.empty():
                tell(*told.get())
            for future in done:
                future.result()
    if waiting:
        raise KeyboardInterrupt


_told: Any = None


def _begin(told: Any, threads: int) -> None:
    """A worker's start: Ctrl-C is its parent's to handle, and it does not outlive its parent."""
    global _told
    _told = told
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(work: Callable[[Order, Tell], None], order: Order) -> None:
    work(order, lambda *said: _told.put(said))


class Bar:
    """How much of a command's work is done, with the time left; on no terminal, a line now and then."""

    def __init__(self, unit: str, total: int, done: int = 0, *, shown: bool = True) -> None:
        self.unit, self.total, self.done = unit, total, done
        self.shown = shown
        self._console = Console()
        self._begun, self._said, self._before = time.perf_counter(), 0.0, done
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
        disable = not (self._console.is_terminal and shown)
        self._progress = Progress(TextColumn(unit), *columns, console=self._console, disable=disable)
        self._task = self._progress.add_task("", total=total, completed=done, text="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.perf_counter() - self._begun

    def show(self, done: int, text: str) -> None:
        """From now on so much of the work is done."""
        self.done = done
        self._progress.update(self._task, completed=done, text=text)
        if not self._console.is_terminal and self.seconds >= self._said:
            self._said = self.seconds + SECONDS_BETWEEN_LINES
            left = (self.total - done) * self.seconds / max(done - self._before, 1)
            self.say(f"{self.unit} {done}/{self.total}  {text}  {left:.0f} s left")

    def say(self, text: str) -> None:
        """A line of its own."""
        if self.shown:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
