"""Many environments stepped together, spread over worker processes.

Every worker steps its share in turn; frames come back through a pipe. A finished environment stays finished: it repeats
its last arrival with no reward until it is reset, and the caller masks it.
"""

import multiprocessing
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from agent.envs.base import Arrival, Environment
from agent.envs.registry import make_env
from dynamics.actions import ActionSpace

Command = tuple[str, Any]


@dataclass(frozen=True, kw_only=True)
class EnvironmentSpec:
    """Which environment to make; goes to a worker process."""

    name: str
    stock: bool
    action_repeat: int
    options: object | None = None
    """What an environment needs to know that depends on this machine (see `make_env`)."""

    def make(self) -> Environment:
        return make_env(self.name, stock=self.stock, action_repeat=self.action_repeat, options=self.options)


@dataclass(frozen=True, kw_only=True)
class EnvironmentFacts:
    action_space: ActionSpace
    frame_shape: tuple[int, int, int]
    fps: float
    task_names: tuple[str, ...]


class EnvironmentGroup:
    """The environments of one process."""

    def __init__(self, spec: EnvironmentSpec, count: int) -> None:
        self._envs: list[Environment] = []
        self._last: list[Arrival | None] = [None] * count
        try:
            for _ in range(count):
                self._envs.append(spec.make())
        except BaseException:
            self.close()
            raise

    def facts(self) -> EnvironmentFacts:
        env = self._envs[0]
        return EnvironmentFacts(
            action_space=env.action_space, frame_shape=env.frame_shape, fps=env.fps, task_names=env.task_names
        )

    def reset(self, seeds: dict[int, int]) -> list[Arrival]:
        return [self._keep(i, self._envs[i].reset(seed)) for i, seed in seeds.items()]

    def step(self, rows: NDArray[Any]) -> list[Arrival]:
        return [self._step_one(i, row) for i, row in enumerate(rows)]

    def stop(self, indices: list[int]) -> list[Arrival]:
        for index in indices:
            last = self._last[index]
            if last is not None:
                self._last[index] = replace(last, is_last=True)
        return []

    def close(self) -> None:
        for env in self._envs:
            env.close()

    def _step_one(self, index: int, row: NDArray[Any]) -> Arrival:
        last = self._last[index]
        if last is not None and last.is_last:
            return last.unpaid()
        return self._keep(index, self._envs[index].step(row))

    def _keep(self, index: int, arrival: Arrival) -> Arrival:
        self._last[index] = arrival
        return arrival


def _serve(pipe: Connection, spec: EnvironmentSpec, count: int) -> None:
    """A worker's life: answers (True, result) or (False, traceback) to each command.

    However it ends, it closes its games.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle, who may finish a step first
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    group: EnvironmentGroup | None = None
    try:
        group = EnvironmentGroup(spec, count)
        pipe.send((True, group.facts()))
        while True:
            command, argument = pipe.recv()
            if command == "close":
                return
            pipe.send((True, getattr(group, command)(argument)))
    except EOFError:  # the caller is gone
        return
    except Exception:
        pipe.send((False, traceback.format_exc()))
    finally:
        if group is not None:
            group.close()


class VectorEnv:
    """`num_envs` environments over `processes` worker processes; 0 steps them in the calling process.

    Raises RuntimeError with the worker's traceback, or its exit code, when a worker fails; it is of no use afterwards.
    Close it, or use it in a `with` block. As with all of multiprocessing, a script that makes one needs the
    `if __name__ == "__main__"` guard.
    """

    def __init__(
        self,
        name: str,
        *,
        num_envs: int,
        processes: int,
        stock: bool,
        action_repeat: int,
        options: object | None = None,
    ) -> None:
        if num_envs < 1 or processes < 0:
            raise ValueError(f"num_envs={num_envs} needs at least 1, processes={processes} at least 0")
        spec = EnvironmentSpec(name=name, stock=stock, action_repeat=action_repeat, options=options)
        self.num_envs = num_envs
        self._workers: list[tuple[BaseProcess, Connection]] = []
        self._local: EnvironmentGroup | None = None
        if processes == 0:
            self._local = EnvironmentGroup(spec, num_envs)
            self._bounds = [0, num_envs]
            facts = self._local.facts()
        else:
            processes = min(processes, num_envs)
            self._bounds = [num_envs * i // processes for i in range(processes + 1)]
            facts = self._start(spec)
        self.action_space, self.frame_shape = facts.action_space, facts.frame_shape
        self.fps, self.task_names = facts.fps, facts.task_names

    def reset(self, seeds: Sequence[int]) -> list[Arrival]:
        """Starts an episode in every environment."""
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments")
        return self.reset_some(dict(enumerate(seeds)))

    def reset_some(self, seeds: dict[int, int]) -> list[Arrival]:
        """Starts an episode in the environments of these indices, in rising order; the others stand still."""
        if not all(0 <= index < self.num_envs for index in seeds):
            raise ValueError(f"environments {sorted(seeds)} to reset, have 0 to {self.num_envs - 1}")
        shares = [
            {i - low: seeds[i] for i in range(low, high) if i in seeds}
            for low, high in zip(self._bounds, self._bounds[1:], strict=False)
        ]
        return self._ask("reset", shares)

    def step(self, rows: NDArray[Any]) -> list[Arrival]:
        """One action row for each environment, [n, a]; rows of finished environments are ignored."""
        rows = np.asarray(rows, dtype=np.float32)
        if rows.shape != (self.num_envs, self.action_space.size):
            raise ValueError(f"action rows are {rows.shape}, expected {(self.num_envs, self.action_space.size)}")
        return self._ask("step", [rows[low:high] for low, high in zip(self._bounds, self._bounds[1:], strict=False)])

    def stop(self, indices: Sequence[int]) -> None:
        """These environments stand still from now on, as if they had been cut here, until they are reset."""
        bounds = zip(self._bounds, self._bounds[1:], strict=False)
        self._ask("stop", [[i - low for i in indices if low <= i < high] for low, high in bounds])

    def close(self) -> None:
        """Ends the workers; may be called again."""
        if self._local is not None:
            self._local.close()
        for _, pipe in self._workers:
            with suppress(OSError):  # it is gone already
                pipe.send(("close", None))
            pipe.close()
        for process, _ in self._workers:
            process.join(timeout=5)
            if process.is_alive():
                process.terminate()
                process.join()
        self._workers = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, spec: EnvironmentSpec) -> EnvironmentFacts:
        context = worker_context()
        for low, high in zip(self._bounds, self._bounds[1:], strict=False):
            pipe, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, spec, high - low), daemon=True)
            process.start()
            theirs.close()  # so that the worker's end closes with the worker
            self._workers.append((process, pipe))
        try:
            facts: list[EnvironmentFacts] = [self._receive(i) for i in range(len(self._workers))]
        except BaseException:
            self.close()
            raise
        return facts[0]

    def _ask(self, command: str, shares: Sequence[Any]) -> list[Arrival]:
        if self._local is not None:
            local: Callable[[Any], list[Arrival]] = getattr(self._local, command)
            return local(shares[0])
        if not self._workers:
            raise RuntimeError("the environments are closed")
        for index, ((_, pipe), share) in enumerate(zip(self._workers, shares, strict=True)):
            try:
                pipe.send((command, share))
            except OSError:
                self._fail(index)
        return [arrival for index in range(len(self._workers)) for arrival in self._receive(index)]

    def _receive(self, index: int) -> Any:
        try:
            good, answer = self._workers[index][1].recv()
        except (EOFError, OSError):
            self._fail(index)
        if not good:
            self.close()
            raise RuntimeError(f"environment worker {index} failed:\n{answer}")
        return answer

    def _fail(self, index: int) -> NoReturn:
        process = self._workers[index][0]
        process.join(timeout=5)
        code = process.exitcode
        self.close()
        raise RuntimeError(f"environment worker {index} died (exit code {code})")


def worker_context() -> SpawnContext | ForkServerContext:
    """How worker processes start: never by forking the caller, whose torch has threads that a fork would cut off.

    The fork server imports what environments need once, so that each further worker starts at once.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["agent.envs.vector"])
    with _ctrl_c_ignored():
        forkserver.ensure_running()
    return context


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """What starts inside ignores it all its life: a terminal sends it to all, and it is for those who began the work.

    A worker that ignored it by itself would do so too late: it imports for seconds before it comes to that.
    """
    if threading.current_thread() is not threading.main_thread():  # Python sets handlers nowhere else
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
