"""Dream held-out drives: an open-loop video beside the real one under the same actions, and its PSNR by horizon.

    python -m launch.dream laptop

PSNR is the mean over frames of -10 log10 MSE on [0, 1] RGB, full frame, held-out episodes after the opening zoom.
"Shuffled" is the same model given the actions of another clip; "repeat" shows the last frame before the dream again
and again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table
from torch import Tensor

from launch.command import main
from launch.memory import fits
from launch.open_loop import (
    HORIZONS,
    OpenLoop,
    check_memory,
    decode,
    find_windows,
    finished,
    load_clips,
    load_models,
    made_by,
    open_loop,
    other_actions,
    write_numbers,
)
from launch.pictures import save_rows, save_side_by_side
from launch.training import open_dataset
from tokenizer.autoencoder import to_float
from tokenizer.metrics import psnr
from tokenizer.shards import Dataset

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (after the backend is chosen)


@dataclass(frozen=True, kw_only=True)
class Dream(OpenLoop):
    """Writes a video, pictures and dream.json into the run's folder."""


def dream(config: Dream) -> None:
    dataset = open_dataset(config.held_out, "frames")
    made = made_by(config, dataset, config.dynamics)
    numbers = finished(config.run / "dream.json", made)
    if numbers is not None:
        write_numbers(config, config.run / "dream.json", numbers)
        print(f"already done: {config.run}")
        return
    check_memory(config.starts, config.length, dataset, "--starts, --context or --horizon")
    with fits(f"{config.starts} dreams of {config.length} frames", "lower --starts, --context or --horizon"):
        measure(config, dataset, made)


def measure(config: Dream, dataset: Dataset, made: dict[str, Any]) -> None:
    """Everything that the folder gets."""
    tokenizer, world = load_models(config, config.dynamics)
    clips, latents = load_clips(dataset, find_windows(config, dataset, config.starts), config.length, tokenizer)
    context, actions = latents.window(0, config.context), clips.actions[:, config.context :]
    videos = {
        name: decode(tokenizer, open_loop(world, context, given, seed=config.seed), config.context)
        for name, given in (("dream", actions), ("shuffled", other_actions(actions)))
    }
    real = to_float(clips.frames)[:, config.context :]
    recon = decode(tokenizer, latents.latents, config.context - 1)
    videos["repeat_recon"] = recon[:, :1].expand_as(real)
    videos["repeat_real"] = to_float(clips.frames)[:, config.context - 1 : config.context].expand_as(real)
    videos["reconstruction"] = recon[:, 1:]
    curves = {name: psnr(video, real).mean(0).tolist() for name, video in videos.items()}
    report(config, dataset, curves, real, videos, made)


def report(
    config: Dream,
    dataset: Dataset,
    curves: dict[str, list[float]],
    real: Tensor,
    videos: dict[str, Tensor],
    made: dict[str, Any],
) -> None:
    horizons = [h for h in HORIZONS if h <= config.horizon]
    table = Table(
        title=f"PSNR in dB against the real frames, {len(real)} held-out clips, {config.context} frames of context"
    )
    table.add_column("frames ahead")
    for h in horizons:
        table.add_column(str(h), justify="right")
    for name, curve in curves.items():
        table.add_row(name, *(f"{curve[h - 1]:.1f}" for h in horizons))
    Console().print(table)
    numbers: dict[str, Any] = {
        "psnr": curves,
        "reconstruction_psnr": float(np.mean(curves["reconstruction"])),
        "clips": len(real),
        "context": config.context,
        "frames_per_second": dataset.meta.fps,
        "made_by": made,
    }
    config.run.mkdir(parents=True, exist_ok=True)
    plot_curves(config.run / "dream_psnr.png", curves)
    shown = [h - 1 for h in horizons]
    strip = {name: videos[name][0, shown] for name in ("dream", "shuffled", "reconstruction")}
    save_rows(config.run / "dream_strip.png", {"real": real[0, shown], **strip})
    # A grid of clips over time shows more than one: the first four, one below the other.
    stacked = {
        name: torch.cat(list(video[:4]), dim=-2)
        for name, video in (("real", real), ("dream", videos["dream"]), ("shuffled", videos["shuffled"]))
    }
    save_side_by_side(config.run / "dream.mp4", stacked, dataset.meta.fps, panels=min(4, len(real)))
    write_numbers(config, config.run / "dream.json", numbers)
    print(f"videos, pictures and numbers in {config.run}")


def plot_curves(path: Path, curves: dict[str, list[float]]) -> None:
    figure, axes = pyplot.subplots(figsize=(7, 4))
    draw_by_horizon(axes, curves, "PSNR (dB)")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_by_horizon(axes: Axes, curves: Mapping[str, Sequence[float]], label: str) -> None:
    for name, curve in curves.items():
        axes.plot(range(1, len(curve) + 1), curve, label=name.replace("_", " "))
    axes.set(xlabel="frames ahead", ylabel=label, xscale="log")


_DEBUG: dict[str, Any] = {"context": 4, "horizon": 8, "starts": 2, "skip_frames": 0, "compile": False}
SIZES: dict[str, dict[str, Any]] = {
    "debug": _DEBUG,
    "laptop": {},
    "carracing": {},
    "crafter": {"skip_frames": 0, "horizon": 48},  # with the context as long as its clips
    "crafter_debug": _DEBUG,
}
PRESETS = {
    name: Dream(
        run=Path(f"runs/{name}/dream"),
        held_out=Path(f"runs/{name}/data/held_out"),
        tokenizer=Path(f"runs/{name}/tokenizer"),
        dynamics=Path(f"runs/{name}/dynamics"),
        **sizes,
    )
    for name, sizes in SIZES.items()
}

if __name__ == "__main__":
    main(PRESETS, dream, description=__doc__, processes="first")
