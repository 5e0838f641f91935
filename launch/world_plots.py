"""Tables and plots of `launch.evaluate_world`, from its numbers alone: `plot(json.loads(...), folder)`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table

from launch.dream import draw_by_horizon
from launch.open_loop import DEFINITIONS
from launch.resampling import show_bounds
from launch.world_quality import LPIPS, MEAN_KEY, MEAN_OVER

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (after the backend is chosen)

METRICS = {
    "psnr": ("PSNR (dB)", "{:.2f}"),
    "ssim": ("SSIM", "{:.3f}"),
    LPIPS: ("LPIPS-lite0 (0: equal)", "{:.3f}"),
}
"""Metric -> its title and the form of its values."""
SMOOTHED = 8
"""Frames that a point of the drift curves is the mean of."""
Numbers = dict[str, Any]


def show(numbers: Numbers) -> None:
    """Prints every table."""
    console = Console()
    for metric in METRICS:
        if metric in numbers:
            console.print(_horizon_table(numbers, metric))
    console.print(_margin_table(numbers))
    if "fvd_lite0" in numbers:
        console.print(_steps_table(numbers["fvd_lite0"]))
    console.print(_drift_table(numbers["drift"]))
    console.print(DEFINITIONS, highlight=False, soft_wrap=True)


def plot(numbers: Numbers, folder: Path) -> None:
    """Writes every plot into the folder."""
    _save(folder / "quality.png", _quality_axes, numbers, columns=sum(metric in numbers for metric in METRICS))
    _save(folder / "drift.png", _drift_axes, numbers["drift"])
    if "fvd_lite0" in numbers:
        _save(folder / "fvd_by_steps.png", _steps_axes, numbers["fvd_lite0"], columns=2)


def _horizon_table(numbers: Numbers, metric: str) -> Table:
    title, form = METRICS[metric]
    horizons = [str(horizon) for horizon in numbers["horizons"]]
    table = _table(
        f"{title} against the real frames, {numbers['clips']} clips, context {numbers['context']}",
        ("frames ahead", *horizons, f"mean 1-{MEAN_OVER}"),
    )
    for name, row in numbers[metric].items():
        values = [*(row["at"][horizon] for horizon in horizons), row[MEAN_KEY]["mean"]]
        table.add_row(_words(name), *map(form.format, values))
    return table


def _margin_table(numbers: Numbers) -> Table:
    table = _table(
        f"Margins of the dream, mean of frames 1-{MEAN_OVER}, 95 % interval over drives", ("", "margin", "interval")
    )
    control = numbers["controllability"]
    margins = numbers["margins"] | {"psnr": numbers["margins"]["psnr"] | control["psnr"]}
    for metric, rows in margins.items():
        title, form = METRICS[metric]
        for name, row in rows.items():
            table.add_row(f"{title}: {_words(name)}", *_with_interval(row[MEAN_KEY], form))
    for name, row in control["latent_distance"].items():
        table.add_row(f"latents, in their spread: {_words(name)}", *_with_interval(row[MEAN_KEY], "{:.2f}"))
    return table


def _steps_table(fvd: Numbers) -> Table:
    recon = fvd["against_reconstruction"]
    table = _table(
        f"FVD-lite0, {fvd['chunks']} chunks of 16 dreamed frames, against real and reconstructed ones",
        ("", "real", "interval", "reconstructed", "interval"),
    )
    table.add_row("two halves of real", *_with_interval(fvd["floor"], "{:.1f}"))
    table.add_row("reconstruction", *_with_interval(fvd["reconstruction"], "{:.1f}"))
    for steps, row in fvd["by_steps"].items():
        pair = (*_with_interval(row, "{:.1f}"), *_with_interval(recon["by_steps"][steps], "{:.1f}"))
        table.add_row(f"dream, K = {steps}", *pair)
    for name, form in {"gap": "{:.1f}", "relative_gap": "{:.0%}"}.items():
        pair = (*_with_interval(fvd[name], form), *_with_interval(recon[name], form))
        table.add_row(f"{_words(name)}, K = {fvd['num_steps']} - {fvd['finest']}", *pair)
    return table


def _drift_table(drift: Numbers) -> Table:
    verdict = "FROZEN" if drift["frozen"] else "not frozen"
    table = _table(
        f"{drift['starts']} dreams of {drift['frames']} frames: {verdict}, {drift['frozen_starts']} of them are\n"
        f"(actions {drift['actions']};\nheld against {drift['reference']})",
        ("", "change, of real video's", "FVD-lite0", "interval"),
    )
    distances = drift.get("fvd_lite0", {})
    for video, change in (("dream", "change"), ("reconstruction", "reconstructed_change")):
        for name in ("first", "last"):
            distance = _with_interval(distances[video][name], "{:.1f}") if distances else ("", "")
            table.add_row(f"{video}, {name} {drift[name]['frames']}", f"{drift[name][change]:.0%}", *distance)
        if distances:
            table.add_row(f"{video}, rise", "", *_with_interval(distances[video]["rise"], "{:.1f}"))
    if distances:
        table.add_row("dream's beyond that", "", *_with_interval(distances["rise_beyond_reconstruction"], "{:.1f}"))
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    """Narrow enough for 80 columns."""
    table = Table(title=title, padding=(0, 1, 0, 0))
    table.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def _with_interval(row: Mapping[str, Any], form: str) -> tuple[str, str]:
    return form.format(row.get("mean", row.get("value"))), show_bounds(row["ci95"], form)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _save(path: Path, draw: Callable[[Sequence[Any], Numbers], None], numbers: Numbers, columns: int = 1) -> None:
    figure, axes = pyplot.subplots(1, columns, figsize=(5.5 * columns, 4), squeeze=False)
    draw(list(axes[0]), numbers)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _quality_axes(axes: Sequence[Any], numbers: Numbers) -> None:
    found = [metric for metric in METRICS if metric in numbers]
    for axis, metric in zip(axes, found, strict=True):
        curves = {name: row["curve"] for name, row in numbers[metric].items()}
        draw_by_horizon(axis, curves, METRICS[metric][0])
    axes[0].legend(fontsize=8)


def _steps_axes(axes: Sequence[Any], fvd: Numbers) -> None:
    for axis, part, title in zip(axes, (fvd, fvd["against_reconstruction"]), ("real", "reconstructed"), strict=True):
        rows = list(part["by_steps"].values())
        values = [row["value"] for row in rows]
        errors = [[row["value"] - row["ci95"][0] for row in rows], [row["ci95"][1] - row["value"] for row in rows]]
        axis.errorbar([int(steps) for steps in part["by_steps"]], values, yerr=errors, marker="o", capsize=3)
        axis.set(xlabel="denoising steps K", ylabel=f"FVD-lite0 against {title} video", xscale="log", ylim=(0, None))
        axis.set_xticks([int(steps) for steps in part["by_steps"]], list(part["by_steps"]))
        axis.minorticks_off()
    for name, style in (("reconstruction", "--"), ("floor", ":")):
        axes[0].axhline(fvd[name]["value"], linestyle=style, color="grey", label=name)
    axes[0].legend(fontsize=8)


def _drift_axes(axes: Sequence[Any], drift: Numbers) -> None:
    for name, change in drift["change_by_frame"].items():
        smooth = np.convolve(change, np.ones(SMOOTHED) / SMOOTHED, mode="valid")
        axes[0].plot(np.arange(len(smooth)) + SMOOTHED, smooth, linewidth=1, label=name)
    axes[0].axhline(drift["frozen_below"], linestyle=":", color="red", label="frozen below")
    axes[0].set(
        xlabel="frames dreamed", ylabel="change from frame to frame, of real video\n(mean of 8 frames)", ylim=(0, None)
    )
    axes[0].legend(fontsize=8)
