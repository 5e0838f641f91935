"""A game of MineRL in a process of its own, which may hang or die: it is asked with a time limit, and killed whole.

`agent.envs.minerl_child` is what runs there. POSIX only: socket and frame are handed down as open files, so that no
name, port or shared memory is left behind, however either side ends.
"""

import json
import mmap
import os
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHILD = Path(__file__).with_name("minerl_child.py")
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # else where temporary files are
POLL = 0.2  # seconds after which a silent process is looked at: its own children may hold the socket open
TAIL = 4000  # bytes kept of what the game prints
SHOWN = 200  # characters of that in a message


class GameFailed(Exception):
    """The game's process died, hung, or said why it cannot go on."""

    def __init__(self, reason: str, *, missing: str | None = None) -> None:
        super().__init__(reason)
        self.missing = missing
        """A package that its interpreter lacks."""


class Game:
    """One process; of no use after it failed. Close it, whatever happened."""

    def __init__(
        self, python: Path, game: str, shape: Sequence[int], counters: Sequence[str], *, seconds: float
    ) -> None:
        """Raises GameFailed where it does not start in so many seconds. Minecraft itself starts at the first reset."""
        self._mark = f"REVERIE_GAME_{uuid.uuid4().hex}"
        self._folder = tempfile.mkdtemp(prefix="minerl-")
        self._printed, self._received = bytearray(), bytearray()
        self._memory: mmap.mmap | None = None
        self.pixels: NDArray[np.uint8] = np.zeros(0, np.uint8)
        """The newest frame, [h, w, c]; the game writes the next one over it."""
        self._process: subprocess.Popen[bytes] | None = None
        self._socket, theirs = socket.socketpair()
        try:
            with tempfile.TemporaryFile(dir=MEMORY) as frame:  # it has no name, so nothing is left of it
                frame.truncate(int(np.prod(shape)))
                self._start(python, frame.fileno(), theirs)
                self._memory = mmap.mmap(frame.fileno(), 0)
                self.pixels = np.ndarray(tuple(shape), np.uint8, self._memory)
                start: dict[str, Any] = {"do": "start", "game": game, "shape": list(shape), "counters": list(counters)}
                start |= {"frame": frame.fileno(), "folder": self._folder, "mark": self._mark}
                self.facts = self.ask(start, seconds=seconds)
        except BaseException:
            self.close()
            raise

    def _start(self, python: Path, frame: int, theirs: socket.socket) -> None:
        with theirs:
            self._process = subprocess.Popen(
                [python.absolute() if python.parent.name else python, CHILD],  # it starts in another folder
                pass_fds=(frame,),
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                start_new_session=True,  # so that Ctrl-C is ours to handle, and a signal reaches all of it
            )
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._output, False)

    def ask(self, order: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
        """The answer. Raises GameFailed where there is none in time."""
        try:
            self._socket.settimeout(seconds)
            self._socket.sendall(json.dumps(order).encode() + b"\n")
            line = self._line(seconds)
        except OSError as error:
            raise GameFailed(self._ended(f"cannot be reached ({error})")) from error
        answer: dict[str, Any] = json.loads(line)
        if "failure" in answer:
            raise GameFailed(answer["failure"], missing=answer.get("missing"))
        return answer

    def _line(self, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._socket, selectors.EVENT_READ)
            waiting.register(self._output, selectors.EVENT_READ)
            while b"\n" not in self._received:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise GameFailed(self._with_last_words(f"the game did not answer within {seconds:g} s"))
                gone = self._process is not None and self._process.poll() is not None
                ready = {key.fd for key, _ in waiting.select(0 if gone else min(left, POLL))}
                if self._output in ready and self._listen() == b"":
                    waiting.unregister(self._output)
                if self._socket.fileno() in ready:
                    more = self._socket.recv(1 << 16)
                    self._received += more
                    if not more:
                        raise GameFailed(self._ended("closed its connection"))
                elif gone:  # and before it went it sent nothing more, whatever its helpers print
                    raise GameFailed(self._ended("died"))
        line, _, rest = self._received.partition(b"\n")
        self._received = bytearray(rest)
        return bytes(line)

    def _listen(self) -> bytes | None:
        """What the game printed meanwhile, so that it never waits for a reader; nothing at its end, None before."""
        with suppress(BlockingIOError):
            more = os.read(self._output, 1 << 16)
            self._printed = (self._printed + more)[-TAIL:]
            return more
        return None

    def _ended(self, otherwise: str) -> str:
        """A sentence on a process that is gone."""
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=1)
            return self._with_last_words(f"the game's process died (exit code {code})")
        return self._with_last_words(f"the game's process {otherwise}")

    def _with_last_words(self, what: str) -> str:
        for _ in range(64):  # as much as a pipe holds, and no more of a game that never stops
            if not self._listen():
                break
        words = bytes(self._printed).decode(errors="replace").strip().splitlines()
        return f"{what}; it last said: {words[-1].strip()[:SHOWN]}" if words else what

    def close(self) -> None:
        """Kills all of its processes, without a word: no world is worth a wait. May be called again."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kill_marked(self._mark)
            assert process.stdout is not None
            process.stdout.close()
        self.pixels = np.zeros(0, np.uint8)
        if self._memory is not None:
            with suppress(BufferError):  # someone still looks at the last frame
                self._memory.close()
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def kill_marked(mark: str) -> None:
    """Ends every process that has this variable: Minecraft leads a session of its own, and outlives who started it.

    By /proc, so on Linux; elsewhere MineRL's own watcher has to do it.
    """
    for _ in range(10):  # one of them may just be starting another
        found = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if _holds(path, mark)]
        for number in found:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        if not found:
            return
        time.sleep(0.01)


def _holds(path: Path, mark: str) -> bool:
    try:
        return mark.encode() in path.read_bytes()
    except OSError:  # it is gone, or not ours
        return False
