"""The table, the plot and the numbers of `launch.ablate`, from what was measured of each rung and seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from launch.ablation_rungs import Step
from launch.open_loop import DEFINITIONS
from launch.resampling import show_bounds

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (after the backend is chosen)

Numbers = dict[str, Any]
Judged = Mapping[tuple[str, int], Mapping[int, Numbers]]
"""(Name of a trained model, K) -> seed -> what was measured of its dreams."""
FVD = "fvd_lite0"
METRICS = {
    FVD: ("FVD-lite0", "{:.0f}"),
    "psnr": ("PSNR of frames 1-16 (dB)", "{:.2f}"),
    "margin": ("margin over shuffled actions (dB)", "{:.2f}"),
}
"""Metric -> its title and the form of its values."""


def summarise(steps: Sequence[Step], judged: Judged, timings: Mapping[str, Numbers]) -> Numbers:
    """A row for each rung, and what few denoising steps cost the models that were judged with many too."""
    rows = []
    for step in steps:
        found = judged.get((step.model.name, step.num_steps), {})
        rows.append(
            {
                "name": step.rung.name,
                "change": step.rung.change,
                "num_steps": step.num_steps,
                **{name: timings[step.rung.name][name] for name in ("train_step_s", "frames_per_s")},
                "seeds": sorted(found),
                **{metric: spread([found[seed][metric] for seed in sorted(found)]) for metric in METRICS},
                "paper": step.rung.paper._asdict(),
            }
        )
    places = [place for step in steps for place in timings[step.rung.name]["timed_on"]]
    timed_on = [place for number, place in enumerate(places) if place not in places[:number]]
    return {"rungs": rows, "few_step_gap": _gaps(steps, judged), "timed_on": timed_on}


def spread(values: Sequence[float | None]) -> Numbers | None:
    """Mean over trainings and its 95 % interval by Student's t; None where nothing was measured."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    mean, reach = float(np.mean(known)), None
    if len(known) > 1:
        reach = student_quantile(len(known) - 1) * float(np.std(known, ddof=1)) / len(known) ** 0.5
    return {"mean": mean, "ci95": None if reach is None else [mean - reach, mean + reach], "values": known}


def student_quantile(freedom: int, probability: float = 0.975) -> float:
    """Of Student's t: with t = sqrt(freedom) tan(angle) the angle's density is cos(angle)^(freedom - 1)."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, 100_001)
    density = np.cos(angles).clip(0) ** (freedom - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(freedom**0.5 * np.tan(np.interp(probability * mass[-1], mass, angles)))


def _gaps(steps: Sequence[Step], judged: Judged) -> Numbers:
    """Model -> by how much its FVD-lite0 with few steps is above that with the finest ones, relative to the latter."""
    gaps: Numbers = {}
    for name, few in {(step.model.name, step.num_steps): None for step in steps}:
        finest = steps[0].training.model.max_steps
        pairs = [
            (judged[name, few][seed][FVD], judged[name, finest][seed][FVD])
            for seed in sorted(judged.get((name, few), {}).keys() & judged.get((name, finest), {}).keys())
        ]
        gap = spread([one / other - 1 for one, other in pairs if None not in (one, other)])
        if few != finest and gap is not None:
            gaps[name] = {"num_steps": few, "finest": finest, **gap}
    return gaps


def show(numbers: Numbers) -> None:
    """The table, and in sentences what few steps cost and what the columns mean."""
    console = Console()
    console.print(_table(numbers))
    if numbers["few_step_gap"]:
        console.print(few_step_sentence(numbers["few_step_gap"]), highlight=False, soft_wrap=True)
    for sentence in (_quality_sentence(numbers), _timing_sentence(numbers["timed_on"])):
        console.print(sentence, highlight=False, soft_wrap=True)


def _quality_sentence(numbers: Numbers) -> str:
    seeds = [len(row["seeds"]) for row in numbers["rungs"]]
    return (
        f"Means over the trainings so far, {min(seeds)} to {max(seeds)} of each model, with 95 % intervals over seeds "
        f"by Student's t (none for one seed); {numbers['clips']} held-out clips, {numbers['horizon']} frames after a "
        f"context of {numbers['context']}. FVD of the paper is another measure, on other data. {DEFINITIONS}"
    )


def few_step_sentence(gaps: Mapping[str, Numbers]) -> str:
    parts = []
    for name, gap in gaps.items():
        bounds = "" if gap["ci95"] is None else f" {show_bounds(gap['ci95'], '{:+.0%}')}"
        parts.append(f"{name} {gap['mean']:+.0%}{bounds} (K = {gap['num_steps']} against {gap['finest']})")
    return f"FVD-lite0 with few denoising steps, relative to that with the finest ones: {', '.join(parts)}."


def _timing_sentence(surroundings: Sequence[Numbers]) -> str:
    places = [f"{found['device']}, {found['threads']} threads, torch {found['torch']}" for found in surroundings]
    where = "; ".join(dict.fromkeys(places))
    return (
        f"Timed on {where}: train steps without the optimizer, a mean over short and long ones by their share; frames "
        "of one world, where each action waits for the frame before it. They hold as far as the machine was quiet."
    )


def _table(numbers: Numbers) -> Table:
    """Narrow enough for 80 columns."""
    table = Table(title="The cascade of designs", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("rung", no_wrap=True)
    for column in ("train\nstep s", "frames\n/s", "K", "FVD-\nlite0", "interval", "PSNR\n1-16", "margin", "paper\nFVD"):
        table.add_column(column, justify="right")
    for row in numbers["rungs"]:
        distance, *others = (_mean(row[metric], form) for metric, (_, form) in METRICS.items())
        speed = [f"{row['train_step_s']:.3g}", f"{row['frames_per_s']:.3g}", str(row["num_steps"])]
        quality = [distance, _interval(row[FVD], METRICS[FVD][1]), *others]
        table.add_row(row["name"], *speed, *quality, str(row["paper"]["fvd"]))
    return table


def _mean(value: Numbers | None, form: str) -> str:
    return "-" if value is None else form.format(value["mean"])


def _interval(value: Numbers | None, form: str) -> str:
    return "" if value is None or value["ci95"] is None else show_bounds(value["ci95"], form)


def plot(numbers: Numbers, folder: Path) -> None:
    """ablate.png, from the numbers alone: quality by rung, and speed."""
    rows = numbers["rungs"]
    figure, (quality, speed) = pyplot.subplots(2, 1, figsize=(9, 8), sharex=True)
    _quality(quality, rows)
    _speed(speed, rows)
    speed.set_xticks(range(len(rows)), [row["name"].replace("_", " ") for row in rows], rotation=35, ha="right")
    figure.tight_layout()
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "ablate.png", dpi=120)
    pyplot.close(figure)


def _quality(axes: Any, rows: Sequence[Numbers]) -> None:
    """FVD-lite0, or PSNR where that could not be measured."""
    metric = FVD if any(row[FVD] is not None for row in rows) else "psnr"
    known = [(place, row[metric]) for place, row in enumerate(rows) if row[metric] is not None]
    for place, found in known:
        axes.scatter([place] * len(found["values"]), found["values"], s=14, color="grey", zorder=3)
    axes.plot([place for place, _ in known], [found["mean"] for _, found in known], marker="_", markersize=16)
    axes.set(ylabel=METRICS[metric][0], title="each seed (dots) and their mean")
    axes.grid(axis="y", alpha=0.3)


def _speed(axes: Any, rows: Sequence[Numbers]) -> None:
    places, other = range(len(rows)), axes.twinx()
    (step,) = axes.plot(places, [row["train_step_s"] for row in rows], marker="o", color="tab:red")
    (frames,) = other.plot(places, [row["frames_per_s"] for row in rows], marker="s", color="tab:blue")
    axes.set(ylabel="train step (s)", ylim=(0, None))
    other.set(ylabel="generated frames/s", ylim=(0, None))
    axes.legend([step, frames], ["train step (left)", "frames/s (right)"], fontsize=8, loc="lower right")
    axes.grid(axis="y", alpha=0.3)
