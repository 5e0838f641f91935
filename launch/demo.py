"""The whole path on real CarRacing: collect, tokenize, model, clone, imagine, drive; ends with a table of real scores.

    python -m launch.demo laptop
    python -m launch.demo carracing

The second makes a better world, in an hour of training, and judges its dreams; it trains no agent. Each stage is a
command of its own that this one runs in turn. Interrupted at any point, the same command goes on.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launch.command import main
from launch.curves import plot_training
from launch.interrupt import Interrupts
from launch.run_folder import write_json


@dataclass(frozen=True, kw_only=True)
class Demo:
    run: Path
    """Folder that gets everything."""
    preset: Literal["debug", "laptop", "carracing"]
    """Preset of every stage."""
    stages: tuple[str, ...]
    """Those that are run, in this order."""

    def __post_init__(self) -> None:
        for name in self.stages:
            if name not in STAGES:
                raise ValueError(f"unknown stage {name!r}, have {list(STAGES)}")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A command of the pipeline and its folders."""

    name: str
    command: str
    folders: dict[str, str]
    """Option -> folder below the demo's."""


STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)
"""Exit codes of a stage that was told to stop."""
TOKENIZER, DYNAMICS, AGENT = "tokenizer", "dynamics", "agent"
_STAGES = (
    Stage(name="collect", command="collect", folders={"out": "data"}),
    Stage(
        name="tokenizer",
        command="train_tokenizer",
        folders={"run": TOKENIZER, "data": "data/train", "held-out": "data/held_out"},
    ),
    Stage(name="latents", command="encode_latents", folders={"tokenizer": TOKENIZER, "data": "data", "out": "latents"}),
    Stage(name="dynamics", command="train_dynamics", folders={"run": DYNAMICS, "data": "latents/train"}),
    Stage(
        name="dream",
        command="dream",
        folders={"run": "dream", "held-out": "data/held_out", "tokenizer": TOKENIZER, "dynamics": DYNAMICS},
    ),
    Stage(
        name="world",
        command="evaluate_world",
        folders={"run": "world", "held-out": "data/held_out", "tokenizer": TOKENIZER, "dynamics": DYNAMICS},
    ),
    Stage(name="cloning", command="train_agent", folders={"run": AGENT, "data": "latents/train", "dynamics": DYNAMICS}),
    Stage(
        name="imagination",
        command="train_imagination",
        folders={"run": "imagination", "data": "latents/train", "agent": AGENT},
    ),
    Stage(
        name="scores",
        command="evaluate",
        folders={
            "run": "evaluation",
            "data": "data/train",
            "tokenizer": TOKENIZER,
            "cloned": AGENT,
            "imagined": "imagination",
            "json": "results.json",
        },
    ),
)
STAGES = {stage.name: stage for stage in _STAGES}
WORLD = ("collect", "tokenizer", "latents", "dynamics", "dream")
AGENTS = ("cloning", "imagination", "scores")


def demo(config: Demo) -> None:
    timings_path = config.run / "timings.json"
    timings: dict[str, float] = json.loads(timings_path.read_text()) if timings_path.exists() else {}
    for number, stage in enumerate((STAGES[name] for name in config.stages), start=1):
        place = f"[{number}/{len(config.stages)}]"
        print(f"\n{place} {stage.name}: python -m launch.{stage.command} {config.preset}", flush=True)
        seconds = run_stage(stage, config)
        timings[stage.name] = timings.get(stage.name, 0.0) + seconds
        write_json(timings_path, timings)
    runs = [config.run / name for name in (TOKENIZER, DYNAMICS, AGENT, "imagination")]
    plot_training(config.run / "curves.png", [run for run in runs if run.exists()])
    summarise(config, timings)


def run_stage(stage: Stage, config: Demo) -> float:
    """Seconds it took; the stage says itself when it is done already."""
    options = [text for name, folder in stage.folders.items() for text in (f"--{name}", str(config.run / folder))]
    began = time.perf_counter()
    command = [sys.executable, "-m", f"launch.{stage.command}", config.preset, *options]
    status = run_command(command)
    if status in STOPPED:
        raise KeyboardInterrupt
    if status:
        raise ValueError(f"stage {stage.name} failed (exit code {status}); mend it and run the same command again")
    return time.perf_counter() - began


def run_command(command: Sequence[str]) -> int:
    """Its exit code. Ctrl-C reaches it by itself, and it may save before it ends; SIGTERM is passed on."""
    passed_on = False
    with Interrupts() as interrupts, subprocess.Popen(command) as process:
        while True:
            try:
                return process.wait(timeout=0.2) or (128 + interrupts.received if interrupts.received else 0)
            except subprocess.TimeoutExpired:
                if interrupts.received == signal.SIGTERM and not passed_on:
                    passed_on = True
                    process.terminate()
            except KeyboardInterrupt:  # a second Ctrl-C
                process.kill()
                raise


def summarise(config: Demo, timings: dict[str, float]) -> None:
    if "dream" in config.stages:
        dream: dict[str, Any] = json.loads((config.run / "dream" / "dream.json").read_text())
        print(f"\ntokenizer: {dream['reconstruction_psnr']:.1f} dB reconstruction on held-out drives")
    minutes = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in timings.items())
    print(f"minutes: {minutes}; {sum(timings.values()) / 60:.1f} in all")
    print(f"\neverything is in {config.run}:")
    for name, what in {
        "tokenizer/reconstructions.png": "frames and what the tokenizer makes of them",
        "dream/dream.mp4": "real drives beside the model's dreams under the same actions",
        "dream/dream_psnr.png": "how far the dreams hold (dream/dream.json)",
        "world/quality.png": "how close and steerable the dreams are, step by step (world/evaluate_world.json)",
        "world/drift_strip.png": "dreams of 512 frames",
        "evaluation/videos/imagined.mp4": "the agent driving",
        "curves.png": "loss curves",
        "results.json": "every score",
    }.items():
        if (config.run / name).exists():
            print(f"  {name:32s} {what}")


PRESETS = {
    "debug": Demo(run=Path("runs/debug"), preset="debug", stages=WORLD + AGENTS),
    "laptop": Demo(run=Path("runs/demo"), preset="laptop", stages=WORLD + AGENTS),
    "carracing": Demo(run=Path("runs/carracing"), preset="carracing", stages=(*WORLD, "world")),
}

if __name__ == "__main__":
    main(PRESETS, demo, description=__doc__, processes="one")
