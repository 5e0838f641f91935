"""Dream held-out drives: an open-loop video beside the real one under the same actions, and its PSNR by horizon.

    python -m launch.dream laptop

PSNR is the mean over frames of -10 log10 MSE on [0, 1] RGB, full frame, held-out episodes after the opening zoom.
"Shuffled" is the same model given the actions of another clip; "repeat" shows the last frame before the dream again
and again.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dynamics.simulator import Simulator
from dynamics.world_model import WorldModel
from launch.command import main
from launch.encode_latents import encode_episode
from launch.models import (
    check_same_tokenizer,
    default_device,
    fingerprint,
    for_inference,
    identity,
    load_tokenizer,
    load_world,
    newest,
)
from launch.pictures import save_rows, save_side_by_side
from launch.run_folder import write_json
from launch.training import open_dataset
from tokenizer.autoencoder import Tokenizer, to_float
from tokenizer.losses import psnr
from tokenizer.records import EpisodeClip, LatentClip
from tokenizer.shards import Dataset

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (after the backend is chosen)

HORIZONS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class Dream:
    run: Path
    """Folder that gets the video, the pictures and dream.json."""
    held_out: Path
    """Folder of video shards that no training saw."""
    tokenizer: Path
    dynamics: Path
    context: int = 16
    """Real frames before a dream."""
    horizon: int = 64
    """Dreamed frames."""
    starts: int = 48
    """Dreams, spread evenly over the held-out episodes."""
    skip_frames: int = 13
    """Frames left out at the start of each episode: CarRacing opens with a zoom."""
    seed: int = 0
    compile: bool = True
    json: Path | None = None
    """Also write the numbers here."""


def dream(config: Dream) -> None:
    dataset = open_dataset(config.held_out, "frames")
    made_by = _made_by(config, dataset)
    if is_done(config, made_by):
        print(f"already done: {config.run}")
        return
    tokenizer, world = load_tokenizer(config.tokenizer), load_world(config.dynamics)
    check_same_tokenizer(world.config.tokenizer, fingerprint(tokenizer), model=config.dynamics, other=config.tokenizer)
    device = default_device()
    tokenizer = for_inference(tokenizer, device, compile=False)
    clips, latents = load_clips(config, dataset, tokenizer)
    world = for_inference(world, device, compile=config.compile)
    shuffled = torch.roll(clips.actions, 1, dims=0)
    videos = {
        name: decode(tokenizer, open_loop(world, latents, actions.to(device), config), config.context)
        for name, actions in (("dream", clips.actions), ("shuffled", shuffled))
    }
    real = to_float(clips.frames)[:, config.context :]
    recon = decode(tokenizer, latents.latents, config.context - 1)
    videos["repeat_recon"] = recon[:, :1].expand_as(real)
    videos["repeat_real"] = to_float(clips.frames)[:, config.context - 1 : config.context].expand_as(real)
    videos["reconstruction"] = recon[:, 1:]
    curves = {name: psnr(video, real).mean(0).tolist() for name, video in videos.items()}
    report(config, dataset, curves, real, videos, made_by)


def _made_by(config: Dream, dataset: Dataset) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "tokenizer": identity(newest(config.tokenizer, "Tokenizer")),
        "dynamics": identity(newest(config.dynamics, "WorldModel")),
        "held_out": dataset.fingerprint()[:16],
        **{name: getattr(config, name) for name in ("context", "horizon", "starts", "skip_frames", "seed")},
    }


def is_done(config: Dream, made_by: dict[str, Any]) -> bool:
    """Whether the run's folder holds these very dreams; dream.json is written last."""
    path = config.run / "dream.json"
    if not path.exists():
        return False
    numbers = json.loads(path.read_text())
    if numbers.get("made_by") != made_by:
        return False
    if config.json is not None:
        write_json(config.json, numbers)
    return True


def load_clips(config: Dream, dataset: Dataset, tokenizer: Tokenizer) -> tuple[EpisodeClip, LatentClip]:
    """Windows spread evenly over the held-out episodes, and their latents, encoded from the episode's beginning."""
    length = config.context + config.horizon
    windows, latents = [], []
    for index, sample in enumerate(dataset.samples):
        share = config.starts // len(dataset) + (index < config.starts % len(dataset))
        last = sample.length - length
        if share == 0 or last < config.skip_frames:
            continue
        episode = dataset.read_window(index, 0, sample.length)
        assert isinstance(episode, EpisodeClip)
        codes = encode_episode(tokenizer, episode.frames)
        for start in np.linspace(config.skip_frames, last, share).astype(int).tolist():
            clip = dataset.read_window(index, start, length)
            assert isinstance(clip, EpisodeClip)
            windows.append(clip)
            latents.append(codes[start : start + length])
    if len(windows) < 2:
        raise ValueError(
            f"{config.held_out} has {len(windows)} windows of {length} frames after frame {config.skip_frames}, "
            "needs 2: lower --horizon or collect longer episodes"
        )
    clips = EpisodeClip.stack(windows)
    shared = {name: getattr(clips, name) for name in ("actions", "labeled", "rewards", "continues", "is_first", "task")}
    return clips, LatentClip(latents=torch.stack(latents), **shared)


def open_loop(world: WorldModel, clips: LatentClip, actions: Tensor, config: Dream) -> Tensor:
    """Latents [b, t, n, d]: the real context, then the dream under `actions` [b, t, a] alone."""
    device = actions.device
    generator = torch.Generator(device).manual_seed(config.seed)
    simulator = Simulator(world, generator=generator)
    context = LatentClip(
        **{
            name: getattr(clips, name)[:, : config.context]
            for name in ("latents", "actions", "labeled", "rewards", "continues", "is_first")
        },
        task=clips.task,
    ).to(device)
    simulator.reset(context)
    dreamed = [simulator.step(actions[:, t]).latents for t in range(config.context, actions.shape[1])]
    return torch.cat([context.latents, torch.stack(dreamed, dim=1)], dim=1)


@torch.no_grad()
def decode(tokenizer: Tokenizer, latents: Tensor, first: int) -> Tensor:
    """Pixels [b, t, c, h, w] from frame `first` on, clip by clip."""
    device = next(tokenizer.parameters()).device
    return torch.cat([tokenizer.decode(row.unsqueeze(0).to(device))[:, first:].float().cpu() for row in latents])


def report(
    config: Dream,
    dataset: Dataset,
    curves: dict[str, list[float]],
    real: Tensor,
    videos: dict[str, Tensor],
    made_by: dict[str, Any],
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
        "made_by": made_by,
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
    save_side_by_side(config.run / "dream.mp4", stacked, dataset.meta.fps)
    for path in filter(None, (config.json, config.run / "dream.json")):
        write_json(path, numbers)
    print(f"videos, pictures and numbers in {config.run}")


def plot_curves(path: Path, curves: dict[str, list[float]]) -> None:
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, curve in curves.items():
        axes.plot(range(1, len(curve) + 1), curve, label=name.replace("_", " "))
    axes.set(xlabel="frames ahead", ylabel="PSNR (dB)", xscale="log")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


SIZES: dict[str, dict[str, Any]] = {
    "debug": {"context": 4, "horizon": 8, "starts": 2, "skip_frames": 0, "compile": False},
    "laptop": {},
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
