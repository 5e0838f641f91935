"""What a run says while it trains: `metrics.jsonl`, the accelerator's tracker, and a progress bar or plain lines."""

import json
import math
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from launch.presets import Clips
from launch.utilisation import Utilisation

SECONDS_BETWEEN_LINES = 10.0


class Report:
    """Only the main process writes and shows; the others take part in averaging what the ranks measured."""

    def __init__(
        self,
        run: Path,
        accelerator: Accelerator,
        *,
        first_step: int,
        last_step: int,
        seconds: float,
        headline: str = "loss",
        utilisation: Utilisation | None = None,
    ) -> None:
        """`headline` names the metric that the bar shows; `utilisation` notes what each batch took."""
        self.headline = headline
        self.utilisation = utilisation
        self.path = run / "metrics.jsonl"
        self.accelerator = accelerator
        self.step = first_step - 1
        self.last_step = last_step
        self.seconds = seconds
        """Spent training so far, by this process and by those it resumed from."""
        self._window = [0, 0, 0.0]  # steps, frames and seconds since the last log
        self._waited = 0.0
        self._mark = time.perf_counter()
        self._next_line = 0.0
        self._file: TextIO | None = None
        self._console = Console()
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (self._console.is_terminal and accelerator.is_main_process),
        )

    def __enter__(self) -> Self:
        # purge_step: tensorboard, too, forgets what came after the checkpoint.
        self.accelerator.init_trackers("reverie", init_kwargs={"tensorboard": {"purge_step": self.step + 1}})
        if self.accelerator.is_main_process:
            forget_after(self.path, self.step)
            self._file = self.path.open("a")
        self._bar.start()
        self._task = self._bar.add_task("", total=self.last_step, completed=self.step, text="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._file is not None:
            self._file.close()
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def say(self, text: str) -> None:
        if self.accelerator.is_main_process:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
            sys.stdout.flush()

    def saw(self, clips: Clips) -> None:
        """Notes that this rank learned from such a batch."""
        self._window[1] += clips.batch * clips.frames * self.accelerator.num_processes
        if self.utilisation is not None:
            self.utilisation.saw(clips)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time inside the block is spent waiting for data."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def count(self, step: int) -> None:
        """Notes that a step is done."""
        self.step = step
        self._window[0] += 1
        self._bar.update(self._task, completed=step)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside the block (evaluation, saving) does not count as training."""
        self._tick()
        yield
        self._mark = time.perf_counter()

    def log(self, metrics: Mapping[str, float | torch.Tensor]) -> dict[str, float]:
        """Averages this step's metrics over the ranks, adds the speed since the last log, and writes them down."""
        values = self._average(metrics)
        self._tick()
        steps, frames, seconds = self._window
        waited, self._window, self._waited = self._waited, [0, 0, 0.0], 0.0
        values |= {
            "steps_per_second": steps / seconds,
            "frames_per_second": frames / seconds,
            "data_wait_share": waited / seconds,
            "memory_gb": memory_gb(self.accelerator.device),
        }
        if self.utilisation is not None:
            values |= self.utilisation.read(seconds)
        self.write(values)
        self._show(values)
        return values

    def write(self, values: Mapping[str, float]) -> None:
        """One line of metrics.jsonl and one point of each curve; a number that is not finite is written as null."""
        self.accelerator.log(dict(values), step=self.step)
        if self._file is not None:
            finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
            self._file.write(json.dumps({"step": self.step, "seconds": round(self.seconds, 3), **finite}) + "\n")
            self._file.flush()

    def _average(self, metrics: Mapping[str, float | torch.Tensor]) -> dict[str, float]:
        """Tensors are averaged; plain numbers are the same on every rank."""
        measured = {name: value.detach().float() for name, value in metrics.items() if isinstance(value, torch.Tensor)}
        means = self.accelerator.reduce(torch.stack(list(measured.values())), reduction="mean").tolist()
        return {**metrics, **dict(zip(measured, means, strict=True))}

    def _tick(self) -> None:
        now = time.perf_counter()
        self._window[2] += now - self._mark
        self.seconds += now - self._mark
        self._mark = now

    def _show(self, values: Mapping[str, float]) -> None:
        text = (
            f"{self.headline} {values[self.headline]:.4g}  {values['steps_per_second']:.3g} steps/s"
            f"  {values['frames_per_second']:.3g} frames/s  {values['memory_gb']:.2g} GB"
        )
        if "flop_utilisation" in values:
            text += f"  {values['tflops_per_second']:.2g} TFLOP/s ({values['flop_utilisation']:.0%})"
        self._bar.update(self._task, text=text)
        now, last = time.perf_counter(), self.step >= self.last_step
        if not self._console.is_terminal and (now >= self._next_line or last):
            self._next_line = now + SECONDS_BETWEEN_LINES
            left = (self.last_step - self.step) / values["steps_per_second"]
            self.say(f"step {self.step}/{self.last_step}  {text}  {left / 60:.1f} min left")


def forget_after(path: Path, step: int) -> None:
    """Drops the lines past a checkpoint's step, and a last one that was cut short, so that resuming repeats none."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > step:
            break
        kept.append(line)
    temporary = path.with_suffix(".partial")
    temporary.write_text("".join(kept))
    os.replace(temporary, path)


def memory_gb(device: torch.device) -> float:
    """The most memory held so far: of the accelerator, or of the process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
