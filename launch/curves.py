"""Curves of a run, from the metrics.jsonl in its folder."""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (after the backend is chosen)

SHOWN = (
    "loss",
    "held_out_psnr",
    "kl",
    "held_out_log_likelihood",
    "reward_error",
    "end_surprise",
    "flow_error",
    "bootstrap_error",
    "policy_loss",
    "reward_loss",
    "end_loss",
    "value_loss",
    "dream_return",
    "kl_to_prior",
    "policy_nll",
    "video_error_ratio",
    "reward_bias",
    "reward_correlation",
    "end_excess",
    "end_missed",
    "imagined_reward",
    "imagined_excess",
    "imagined_over_real",
    "real_reward",
    "real_return",
    "value_bias_share",
    "positive_share",
)


def read_metrics(run: Path) -> list[dict[str, float | None]]:
    """One entry a logged step; None stands for a number that was not finite."""
    path = run / "metrics.jsonl"
    if not path.exists():
        raise ValueError(f"{path} is missing: {run} is not the folder of a training run")
    return [json.loads(line) for line in path.read_text().splitlines()]


def plot_training(path: Path, runs: Sequence[Path]) -> None:
    """A row of curves for each run."""
    series = [_series(read_metrics(run)) for run in runs]
    columns = max(len(curves) for curves in series)
    figure, axes = pyplot.subplots(len(runs), columns, figsize=(2.8 * columns, 2.2 * len(runs)), squeeze=False)
    for run, curves, row in zip(runs, series, axes, strict=True):
        for axis in row[len(curves) :]:
            axis.set_visible(False)
        for axis, (name, (steps, values)) in zip(row, curves.items(), strict=False):
            axis.plot(steps, values, linewidth=1)
            axis.set_title(f"{run.name}: {name.replace('_', ' ')}", fontsize=8)
            axis.tick_params(labelsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def plot_evolution(path: Path, run: Path) -> None:
    """Return over the generations of `launch.evolve`: best and mean of the candidates, and the one that is kept."""
    entries = read_metrics(run)
    figure, axis = pyplot.subplots(figsize=(5, 3.2))
    for name, style in {
        "best_return": "C1-",
        "mean_return": "C0-",
        "mean_candidate_return": "C2o",
        "champion_return": "C3s",
    }.items():
        points = [(entry["step"], entry[name]) for entry in entries if entry.get(name) is not None]
        if points:
            axis.plot(*zip(*points, strict=True), style, linewidth=1, markersize=4, label=name.replace("_", " "))
    axis.set_xlabel("generation")
    axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _series(entries: list[dict[str, float | None]]) -> dict[str, tuple[list[float], list[float]]]:
    found = {}
    for name in SHOWN:
        points = [(entry["step"] or 0.0, value) for entry in entries if (value := entry.get(name)) is not None]
        if points:
            steps, values = zip(*points, strict=True)
            found[name] = (list(steps), list(values))
    return found
