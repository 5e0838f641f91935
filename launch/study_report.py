"""The table, the plot and the numbers of `launch.study`, from the scores of each seed and agent."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table

from launch.ablation_report import spread
from launch.resampling import show_bounds

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (after the backend is chosen)

Numbers = dict[str, Any]
TITLES = {
    "random": "random",
    "bc_scratch": "BC from scratch",
    "filtered": "filtered cloning on the world model",
    "cloned": "WM+BC",
    "dreamer_v1": "Dreamer V1-style actor",
    "imagined": "Dreamer 4",
    "vmc": "World Models (V-M-C), which plays the game to learn",
    "vmc_v_only": "World Models without M",
    "vmc_hidden": "World Models without M, C with a hidden layer",
    "vmc_dream": "World Models, C evolved in M's dreams",
    "vmc_cold_dream": "World Models, C evolved in M's dreams at a lower temperature",
}
BASELINE = "cloned"


def summarise(kept: Numbers, others: Mapping[str, Numbers], *, order: Sequence[str]) -> Numbers:
    """Rows of all agents. Those trained by the study: mean over seeds, 95 % interval of Student's t over seeds.

    `others` are rows of results.json files, whose intervals are over tracks.
    """
    by_agent = {name: _of_seeds(kept["seeds"], name) for name in order}
    agents = {name: _row(rows) for name, rows in by_agent.items() if rows}
    base = by_agent.get(BASELINE, {})
    for name, rows in by_agent.items():
        if name != BASELINE and rows.keys() & base.keys():
            agents[name]["over_cloned"] = _paired(rows, base)
    if kept["random"] is not None:
        agents["random"] = kept["random"]
    mean = kept["dataset"].get("return_mean")
    for name, row in agents.items():
        if mean and name != "random":
            row["over_dataset_mean"] = row["mean"] / mean - 1
    minutes = _minutes(kept["seconds"])
    return {"agents": {**agents, **others}, "dataset": kept["dataset"], "minutes": minutes}


def _of_seeds(seeds: Mapping[str, Mapping[str, Numbers]], agent: str) -> dict[str, Numbers]:
    return {seed: rows[agent] for seed, rows in sorted(seeds.items(), key=_number) if agent in rows}


def _number(item: tuple[str, Any]) -> int:
    return int(item[0])


def _row(rows: Mapping[str, Numbers]) -> Numbers:
    means = [row["mean"] for row in rows.values()]
    found = spread(means)
    assert found is not None
    return {
        "mean": found["mean"],
        "std": float(np.mean([row["std"] for row in rows.values()])),
        "ci95": found["ci95"] or next(iter(rows.values()))["ci95"],
        "interval_over": "seeds" if found["ci95"] else "tracks",
        "tracks": min(row["tracks"] for row in rows.values()),
        "seeds": len(rows),
        "scores": means,
    }


def _paired(rows: Mapping[str, Numbers], base: Mapping[str, Numbers]) -> Numbers:
    """Of the seeds that both have: the mean gain on the same tracks, a world model each."""
    gains = []
    for seed in (seed for seed in rows if seed in base):
        mine, theirs = rows[seed]["scores"], base[seed]["scores"]
        both = min(len(mine), len(theirs))
        gains.append(float(np.mean(np.subtract(mine[:both], theirs[:both]))))
    found = spread(gains)
    assert found is not None
    return {"mean": found["mean"], "ci95": found["ci95"], "seeds": len(gains), "gains": gains}


def _minutes(seconds: Mapping[str, float]) -> Numbers:
    """Of each stage, on average over seeds, and what a seed trains and is scored for."""
    stages: dict[str, list[float]] = {}
    for name, value in seconds.items():
        stages.setdefault(name.rpartition("/")[2], []).append(value / 60)
    means = {name: float(np.mean(values)) for name, values in stages.items()}
    shared = ("collect", "tokenizer", "latents", "scores")
    return {**means, "training_a_seed": sum(value for name, value in means.items() if name not in shared)}


def show(numbers: Numbers) -> None:
    """The table for people."""
    dataset = numbers["dataset"]
    title = "Return in the real environment; intervals over trainings"
    if dataset:
        title += (
            f". Dataset: {dataset['num_samples']} episodes, mean {dataset['return_mean']:.0f}, "
            f"best {dataset['return_best']:.0f}"
        )
    table = Table(title=title)
    for column in ("agent", "trainings", "mean", "95 % interval", "over the dataset", "over WM+BC"):
        table.add_column(column, justify="left" if column == "agent" else "right")
    for name, row in sorted(numbers["agents"].items(), key=lambda item: float(item[1]["mean"])):
        gain, over = row.get("over_cloned"), row.get("over_dataset_mean")
        bounds = "" if gain is None or gain["ci95"] is None else f" {show_bounds(gain['ci95'], '{:.0f}')}"
        table.add_row(
            TITLES.get(name, name),
            str(row.get("seeds", "")),
            f"{row['mean']:.0f}",
            show_bounds(row["ci95"], "{:.0f}"),
            "" if over is None else f"{over:+.0%}",
            "" if gain is None else f"{gain['mean']:+.0f}{bounds}",
        )
    Console().print(table)
    minutes = ", ".join(f"{name} {value:.1f}" for name, value in numbers["minutes"].items())
    print(f"minutes: {minutes}")


def plot(numbers: Numbers, path: Path) -> None:
    """Mean and interval of each agent, its trainings as dots, and what the dataset earned."""
    rows = sorted(numbers["agents"].items(), key=lambda item: float(item[1]["mean"]))
    figure, axis = pyplot.subplots(figsize=(7, 0.55 * len(rows) + 1.6))
    for place, (_, row) in enumerate(rows):
        low, high = row["ci95"]
        reach = [[max(0.0, row["mean"] - low)], [max(0.0, high - row["mean"])]]
        axis.errorbar([row["mean"]], [place], xerr=reach, fmt="o", capsize=3, color="C0")
        if "seeds" in row:
            axis.plot(row["scores"], [place] * row["seeds"], ".", color="C1", markersize=5, alpha=0.7)
    for name, style in {"return_mean": "--", "return_best": ":"}.items():
        if name in numbers["dataset"]:
            label = f"dataset's {name.removeprefix('return_')}"
            axis.axvline(numbers["dataset"][name], linestyle=style, color="grey", linewidth=1, label=label)
    axis.set_yticks(range(len(rows)), [TITLES.get(name, name).partition(" (")[0] for name, _ in rows], fontsize=8)
    axis.set_xlabel("return in the real environment, mean over tracks (dots: trainings)")
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
