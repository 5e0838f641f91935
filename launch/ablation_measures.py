"""What `launch.ablate` measures, each number once: how fast a rung is, and how good its models' dreams are.

Everything lies in the run's folder as JSON with what made it, and is read from there where that is still the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from launch import checkpoint
from launch.ablation_rungs import Step, Trained
from launch.bench import say, surroundings
from launch.distributed import accelerated, calculated_in
from launch.measuring import Conditions, Generation, measure_training
from launch.memory import fits
from launch.models import default_device, device_name, for_inference, load_tokenizer
from launch.open_loop import (
    Batch,
    HeldOut,
    Models,
    check_memory,
    clip_batches,
    dream_video,
    finished,
    load_models,
    made_by,
    other_actions,
)
from launch.presets import Clips
from launch.run_folder import write_json
from launch.serial import to_json
from launch.world_distances import Features, chunk_features
from launch.world_quality import MEAN_OVER, early_mean
from tokenizer.autoencoder import to_float
from tokenizer.metrics import frechet_distance, psnr
from tokenizer.perceptual import perceptual_available
from tokenizer.shards import Dataset
from tokenizer.video_features import VideoFeatures

TIMED_FRAMES = 8
"""Generated frames of a timing."""
Numbers = dict[str, Any]


def time_rungs(config: HeldOut, steps: Sequence[Step], repeats: int) -> dict[str, Numbers]:
    """Rung -> seconds of a training step, generated frames a second, and on what they were timed."""
    loop, found = steps[0].training.loop, {}
    with accelerated(loop.precision, config.run) as accelerator:
        conditions = Conditions(
            accelerator=accelerator,
            precision=calculated_in(loop.precision),
            compile=loop.compile,
            repeats=repeats,
            rates=None,
        )
        for step in steps:
            training = _time_training(config.run, step.model, conditions)
            frames = _time_frames(config.run, step, replace(conditions, compile=config.compile))
            found[step.rung.name] = {
                "train_step_s": training["train_step_s"],
                "frames_per_s": frames["frames_per_s"],
                "timed_on": [training["timed_on"], frames["timed_on"]],
            }
    return found


def _time_training(run: Path, model: Trained, conditions: Conditions) -> Numbers:
    """A mean over the kinds of clips, by their shares of the steps."""
    training = model.training
    config = replace(training.model, bootstrap_warmup=0)
    shares = {Clips(training.batch_size, training.length): 1.0}
    if training.long_length is not None:
        shares = {clips: 1 - training.long_share for clips in shares}
        shares[Clips(training.long_rows, training.long_length)] = training.long_share

    def measure() -> Numbers:
        say(f"\ntiming {model.name}: training steps")
        rows = [measure_training(config, clips, conditions) for clips in shares]
        seconds = sum(share * row["step_s"] for share, row in zip(shares.values(), rows, strict=True))
        return {"train_step_s": seconds, "steps": rows, "timed_on": surroundings(conditions.device)}

    what = {"model": config, "clips": [(*clips, share) for clips, share in shares.items()]}
    return _once(run / model.name / "step_time.json", _made(what, conditions), measure)


def _time_frames(run: Path, step: Step, conditions: Conditions) -> Numbers:
    """One world, after a context as long as the window; each action waits for the frame before it."""
    config = replace(step.model.training.model, num_steps=step.num_steps)

    def measure() -> Numbers:
        say(f"\ntiming {step.model.name}: frames of {step.num_steps} denoising steps")
        context = Clips(1, config.transformer.window)
        row = Generation(config, conditions).measure(context, frames=TIMED_FRAMES, acting=True)
        return {**row, "timed_on": surroundings(conditions.device)}

    path = run / step.model.name / f"frame_time_{step.num_steps}.json"
    return _once(path, _made({"model": config, "frames": TIMED_FRAMES}, conditions), measure)


def _made(what: Numbers, conditions: Conditions) -> Numbers:
    """What a timing depends on, beside the code."""
    how = {name: getattr(conditions, name) for name in ("precision", "compile", "repeats")}
    made: Numbers = to_json({**what, **how, "device": device_name(conditions.device)})
    return made


def _once(path: Path, made: Numbers, measure: Callable[[], Numbers]) -> Numbers:
    """The numbers at `path`, measured where they are not there."""
    numbers = finished(path, made)
    if numbers is None:
        numbers = measure() | {"made_by": made}
        write_json(path, numbers)
    return numbers


class Judge:
    """Held-out drives, read and encoded once for all models, that go on in their dreams."""

    def __init__(self, config: HeldOut, held_out: Dataset, batch: int) -> None:
        self.config, self.held_out, self.batch = config, held_out, batch

    def folder(self, name: str, seed: int) -> Path:
        """Of the model that is trained for the rung of this name with this seed."""
        return self.config.run / name / f"seed_{seed}"

    def known(self, folder: Path, num_steps: int) -> Numbers | None:
        """What was measured of a model's dreams, if it still is the same model."""
        if checkpoint.latest(folder) is None:
            return None
        return finished(_path(folder, num_steps), self._made(folder, num_steps))

    def measure(self, folder: Path, num_steps: int) -> Numbers:
        """The means over the clips."""
        with fits(f"{self.batch} or more dreams of {self.config.length} frames", "lower --batch or --horizon"):
            numbers = self._measure(load_models(self.config, folder), num_steps)
        numbers |= {"num_steps": num_steps, "made_by": self._made(folder, num_steps)}
        write_json(_path(folder, num_steps), numbers)
        return numbers

    def _measure(self, models: Models, num_steps: int) -> Numbers:
        true, shuffled, features = list[float](), list[float](), list[Features]()
        for batch in self._batches:
            actions, real = self._ahead(batch)
            few = other_actions(actions)[:, :MEAN_OVER]
            dream, other = (
                dream_video(models, batch, rows, context=self.config.context, num_steps=num_steps)
                for rows in (actions, few)
            )
            true += early_mean(psnr(dream, real))
            shuffled += early_mean(psnr(other, real[:, :MEAN_OVER]))
            if self._network is not None:
                features.append(chunk_features(self._network, dream))
        return {
            "psnr": float(np.mean(true)),
            "margin": float(np.mean(true) - np.mean(shuffled)),
            "fvd_lite0": self._distance(torch.cat(features)) if features else None,
        }

    def _ahead(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions and real frames after the context."""
        context = self.config.context
        return batch.clips.actions[:, context:], to_float(batch.clips.frames[:, context:])

    def _distance(self, features: Features) -> float:
        return float(frechet_distance(features.flatten(0, 1), self._real.flatten(0, 1)))

    def _made(self, folder: Path, num_steps: int) -> Numbers:
        made = made_by(self.config, self.held_out, folder)
        return made | {"num_steps": num_steps, "perceptual": perceptual_available()}

    @cached_property
    def _batches(self) -> list[Batch]:
        config = self.config
        check_memory(config.starts, config.length, self.held_out, "--starts, --context or --horizon")
        tokenizer = for_inference(load_tokenizer(config.tokenizer), default_device(), compile=False)
        return list(clip_batches(config, self.held_out, tokenizer, config.starts, self.batch))

    @cached_property
    def _network(self) -> VideoFeatures | None:
        return VideoFeatures().to(default_device()) if perceptual_available() else None

    @cached_property
    def _real(self) -> Features:
        assert self._network is not None
        return torch.cat([chunk_features(self._network, self._ahead(batch)[1]) for batch in self._batches])


def _path(folder: Path, num_steps: int) -> Path:
    return folder / f"dreams_{num_steps}.json"
