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
Result = TypeVar("Result")
Tell = Callable[..., None]
"""What an order's work calls now and then, to say how far it is."""


def carry_out(
    orders: Sequence[Order],
    work: Callable[[Order, Tell], Result],
    tell: Tell,
    *,
    processes: int,
    threads: int = 1,
    stopped: Callable[[], bool],
) -> list[Result]:
    """As `Workers.carry_out`, by workers that are there for these orders alone."""
    with Workers(processes, threads=threads) as workers:
        return workers.carry_out(orders, work, tell, stopped=stopped)


class Workers:
    """Worker processes of so many threads, which stay for more orders; with 0 of them this process does the work.

    Where some are killed, as many as `restarts` times in a row that no order gets done, others take their place and
    their orders are begun again.
    """

    def __init__(self, processes: int, *, threads: int = 1, restarts: int = 0) -> None:
        self.processes, self.threads, self.restarts = processes, threads, restarts
        self._pool: ProcessPoolExecutor | None = None
        self._told: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def carry_out(
        self,
        orders: Sequence[Order],
        work: Callable[[Order, Tell], Result],
        tell: Tell,
        *,
        stopped: Callable[[], bool],
    ) -> list[Result]:
        """What `work(order, tell)` returns for each order.

        Raises KeyboardInterrupt, once the orders in hand are done, when it is `stopped`; ChildProcessError where
        workers were killed too often; and what `work` raises.
        """
        results: dict[int, Result] = {}
        killed = 0
        while len(results) < len(orders):
            done = len(results)
            try:
                if self.processes:
                    self._in_workers(orders, results, work, tell, stopped)
                else:
                    _here(orders, results, work, tell, stopped)
            except BrokenProcessPool as error:
                self.__exit__()
                if stopped():  # Ctrl-C in a terminal reaches workers too, and ends one that is only just starting
                    raise KeyboardInterrupt from error
                killed = 1 if len(results) > done else killed + 1
                if killed > self.restarts:
                    raise ChildProcessError(
                        "a worker process was killed, perhaps because memory ran out: run the same command again to go "
                        "on, with fewer workers if it happens again"
                    ) from error
                left = len(orders) - len(results)
                print(f"a worker process was killed: {left} of {len(orders)} orders are begun again", flush=True)
        return [results[number] for number in range(len(orders))]

    def _in_workers(
        self,
        orders: Sequence[Order],
        results: dict[int, Result],
        work: Callable[[Order, Tell], Result],
        tell: Tell,
        stopped: Callable[[], bool],
    ) -> None:
        pool = self._open()
        waiting = [number for number in reversed(range(len(orders))) if number not in results]
        running: dict[Future[Result], int] = {}
        while running or (waiting and not stopped()):
            while waiting and len(running) < self.processes and not stopped():
                number = waiting.pop()
                running[pool.submit(_work, work, orders[number])] = number
            done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            while not self._told.empty():
                tell(*self._told.get())
            for future in sorted(done, key=lambda future: future.exception() is not None):  # first what is there
                results[running.pop(future)] = future.result()
        if waiting:
            raise KeyboardInterrupt

    def _open(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = worker_context()
            self._told = context.SimpleQueue()
            self._pool = ProcessPoolExecutor(
                self.processes, mp_context=context, initializer=_begin, initargs=(self._told, self.threads)
            )
        return self._pool


def _here(
    orders: Sequence[Order],
    results: dict[int, Result],
    work: Callable[[Order, Tell], Result],
    tell: Tell,
    stopped: Callable[[], bool],
) -> None:
    for number, order in enumerate(orders):
        if stopped():
            raise KeyboardInterrupt
        results[number] = work(order, tell)


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


def _work(work: Callable[[Order, Tell], Result], order: Order) -> Result:
    return work(order, lambda *said: _told.put(said))


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
