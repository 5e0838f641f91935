"""Checkpoints are written beside the training: it waits only while the tensors are copied, not for the disk."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from launch import checkpoint


class Saver:
    """Writes one checkpoint at a time; what goes wrong is raised by the next call of any method."""

    def __init__(self, run: Path, keep: int) -> None:
        self.run, self.keep = run, keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    def save(self, step: int, snapshot: checkpoint.Snapshot | None, state: Mapping[str, Any]) -> None:
        """Begins to write, once the checkpoint before is whole. Ranks that have no snapshot write none."""
        self.finish()
        if snapshot is not None:
            self._writing = self._thread.submit(checkpoint.save, self.run, step, snapshot, dict(state), keep=self.keep)

    def check(self) -> None:
        """Raises what writing ran into, if it ended."""
        if self._writing is not None and self._writing.done():
            self.finish()

    def finish(self) -> None:
        """Waits until what was begun is written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None or isinstance(error, SystemExit):
                self.finish()
        finally:
            self._thread.shutdown()  # also after an error: a checkpoint that was begun is written to its end
