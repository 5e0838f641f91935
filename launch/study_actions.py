"""How few labels do actions need? World models that see the actions of a share of the episodes only.

    python -m launch.study_actions laptop --shares 0 0.1 1
    python -m launch.study_actions crafter

Trains one world model for each share, always on all videos, and lets it generate 16 frames of held-out drives after the
context, under their true actions. PSNR and SSIM are placed between those of the model that saw no action (0 %) and of
the one that saw all (100 %), as Dreamer 4 does. The former is given none: it never learned what they mean. PSNR is the
mean over frames of -10 log10 MSE on [0, 1] RGB, full frame, without the first --skip-frames of an episode. One training
for each share: intervals are over clips, not over trainings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from launch import train_dynamics as dynamics
from launch.command import main
from launch.open_loop import (
    Batch,
    HeldOut,
    Models,
    clip_batches,
    decode,
    episodes_of,
    finished,
    load_models,
    made_by,
    open_loop,
    write_numbers,
)
from launch.resampling import draw_clips, mean_of_draws, show_bounds, summarise_draws
from launch.train_dynamics import TrainDynamics
from launch.training import open_dataset
from tokenizer.autoencoder import to_float
from tokenizer.metrics import psnr, ssim
from tokenizer.records import LatentClip
from tokenizer.shards import Dataset
from tokenizer.stream import keeps_labels

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (after the backend is chosen)

NUMBERS = "study_actions.json"
METRICS = {"psnr": ("PSNR (dB)", "{:.2f}"), "ssim": ("SSIM", "{:.3f}")}
"""Metric -> its title and the form of its values."""
Means = NDArray[np.float64]
"""Over the generated frames of each clip."""
Values = dict[str, Means]
"""By metric."""


@dataclass(frozen=True, kw_only=True)
class StudyActions(HeldOut):
    training: TrainDynamics
    """How each model is trained; its folder and its share of labels are the study's."""
    shares: tuple[float, ...] = (0.0, 0.1, 1.0)
    """Shares of the episodes whose actions are shown: 0, 1 and others between them."""
    horizon: int = 16
    """Generated frames."""
    batch: int = 16
    """Clips that are dreamed at a time, at least; fewer than twice as many are in the memory at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not {0.0, 1.0} <= set(self.shares) or not all(0 <= share <= 1 for share in self.shares):
            raise ValueError(f"shares={self.shares} must hold 0 and 1, and otherwise numbers between them")
        if self.batch < 1:
            raise ValueError(f"batch={self.batch}, needs at least 1")

    def folder(self, share: float) -> Path:
        """Of the model that is trained with this share of labels."""
        return self.run / f"share_{share:g}"


def study_actions(config: StudyActions) -> None:
    held_out = open_dataset(config.held_out, "frames")
    shares = sorted(set(config.shares))
    for share in shares:
        print(f"\nactions of {share:.3g} of the episodes: {config.folder(share)}", flush=True)
        dynamics.train_dynamics(replace(config.training, run=config.folder(share), labeled_share=share))
    made = {f"{share:g}": made_by(config, held_out, config.folder(share)) for share in shares}
    numbers = finished(config.run / NUMBERS, made)
    if numbers is None:
        values = {share: measure(config, held_out, share) for share in shares}
        episodes = episodes_of(config, held_out, config.starts)
        numbers = summarise(config, values, episodes) | {"made_by": made}
    else:
        print(f"already done: {config.run}")
    write_numbers(config, config.run / NUMBERS, numbers)
    show(numbers)
    plot(numbers, config.run)
    print(f"numbers and plot in {config.run}")


def measure(config: StudyActions, held_out: Dataset, share: float) -> Values:
    """What the model of this share generates, against what really came."""
    models = load_models(config, config.folder(share))
    found: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for batch in clip_batches(config, held_out, models.tokenizer, config.starts, config.batch):
        video = _generate(config, models, batch, labeled=share > 0)
        real = to_float(batch.clips.frames)[:, config.context :]
        found["psnr"] += psnr(video, real).mean(1).tolist()
        found["ssim"] += ssim(video, real).mean(1).tolist()
    print(f"share {share:g}: {len(found['psnr'])} clips, PSNR {np.mean(found['psnr']):.2f} dB", flush=True)
    return {metric: np.asarray(values) for metric, values in found.items()}


def _generate(config: StudyActions, models: Models, batch: Batch, *, labeled: bool) -> Tensor:
    context = batch.latents.window(0, config.context)
    actions = batch.clips.actions[:, config.context :]
    latents = open_loop(
        models.world, context if labeled else _unlabeled(context), actions, seed=batch.seed, labeled=labeled
    )
    return decode(models.tokenizer, latents, config.context)


def _unlabeled(clips: LatentClip) -> LatentClip:
    return replace(clips, actions=torch.zeros_like(clips.actions), labeled=torch.zeros_like(clips.labeled))


def summarise(config: StudyActions, values: dict[float, Values], episodes: Sequence[int]) -> dict[str, Any]:
    """`episodes` says of each clip which held-out episode it is a window of."""
    seed, draws = config.training.loop.seed, draw_clips(episodes)
    shown = set(config.training.open_data().episodes)
    rows = {
        f"{share:g}": {
            "labeled_episodes": sum(keeps_labels(seed, episode, share) for _, episode in shown),
            **{metric: _row(found[metric], values[0.0][metric], values[1.0][metric], draws) for metric in METRICS},
        }
        for share, found in values.items()
    }
    sizes = {"context": config.context, "horizon": config.horizon, "episodes": len(shown)}
    return {"clips": len(values[0.0]["psnr"]), **sizes, "shares": rows}


def _row(found: Means, none: Means, every: Means, draws: Sequence[Tensor]) -> dict[str, Any]:
    """Mean, and how far it is on the way from the model without actions to the one with all.

    None where labels may have changed nothing: there is no way, then, and a ratio to it is noise.
    """
    whole = mean_of_draws((every - none).tolist(), draws)["ci95"]
    there_is_a_way = not whole[0] <= 0 <= whole[1]
    return {
        **mean_of_draws(found.tolist(), draws),
        "way": summarise_draws(place_between(found, none, every, draws)) if there_is_a_way else None,
    }


def place_between(found: Means, none: Means, every: Means, draws: Sequence[Tensor]) -> Means:
    """(found - none) / (every - none) of the means over each draw of clips."""
    rows = [draw.numpy() for draw in draws]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.array([(found[row] - none[row]).mean() / (every[row] - none[row]).mean() for row in rows])


def show(numbers: dict[str, Any]) -> None:
    """A table for each metric."""
    for metric, (title, form) in METRICS.items():
        table = Table(
            title=f"{title} of {numbers['horizon']} generated frames, {numbers['clips']} held-out clips, "
            f"context {numbers['context']}"
        )
        for column in ("episodes with labels", "mean", "interval", "of the way", "interval"):
            table.add_column(column, justify="right")
        for share, row in numbers["shares"].items():
            episodes = f"{float(share):.3g}: {row['labeled_episodes']} of {numbers['episodes']}"
            table.add_row(episodes, *_cells(row[metric], form))
        Console().print(table)


def _cells(row: dict[str, Any], form: str) -> list[str]:
    cells, way = [form.format(row["mean"]), show_bounds(row["ci95"], form)], row["way"]
    return cells + ([f"{way['value']:.0%}", show_bounds(way["ci95"], "{:.0%}")] if way is not None else ["-", ""])


def plot(numbers: dict[str, Any], folder: Path) -> None:
    """study_actions.png, from the numbers alone."""
    figure, axes = pyplot.subplots(figsize=(5.5, 4))
    for metric, (title, _) in METRICS.items():
        rows = {float(share): row[metric]["way"] for share, row in numbers["shares"].items()}
        found = {share: way for share, way in rows.items() if way is not None}
        values, bounds = ([way[key] for way in found.values()] for key in ("value", "ci95"))
        errors = [[v - low for v, (low, _) in zip(values, bounds, strict=True)]]
        errors += [[high - v for v, (_, high) in zip(values, bounds, strict=True)]]
        axes.errorbar(list(found), values, yerr=errors, marker="o", capsize=3, label=title)
    axes.set(xlabel="share of episodes with labels", ylabel="of the way from no labels to all")
    axes.legend()
    figure.tight_layout()
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "study_actions.png", dpi=120)
    pyplot.close(figure)


SIZES: dict[str, dict[str, Any]] = {
    "debug": {"context": 4, "starts": 4, "skip_frames": 0, "batch": 2, "compile": False},
    "laptop": {},
    "crafter": {"shares": (0.0, 0.01, 0.1, 1.0), "skip_frames": 0},
}
PRESETS = {
    name: StudyActions(
        run=Path(f"runs/{name}/study_actions"),
        held_out=Path(f"runs/{name}/data/held_out"),
        tokenizer=Path(f"runs/{name}/tokenizer"),
        training=dynamics.PRESETS[name],
        **sizes,
    )
    for name, sizes in SIZES.items()
}
GIVEN: dict[Any, list[str]] = {TrainDynamics: ["run", "labeled_share"]}
GIVEN.update(dynamics.GIVEN)

if __name__ == "__main__":
    main(PRESETS, study_actions, description=__doc__, processes="one", given=GIVEN)
