"""The whole path on real CarRacing: collect, tokenize, model, clone, imagine, drive; ends with a table of real scores.

    python -m launch.demo laptop
    python -m launch.demo carracing
    python -m launch.demo vmc
    python -m launch.demo take_cover
    python -m launch.demo crafter

The second makes a better world, in an hour of training, and judges its dreams; it trains no agent. The third is World
Models (V, M and C), whose rows join the first's table; the fourth evolves C in M's dream of VizDoom's take-cover. The
fifth learns Crafter from noisy demonstrations, and is told task after task, up to the diamond (needs the extra
`crafter`). Each stage is a command of its own that this one runs in turn. Interrupted at any point, the same command
goes on.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launch.command import main
from launch.curves import plot_training
from launch.run_folder import write_json
from launch.stages import Stage, run_stage


@dataclass(frozen=True, kw_only=True)
class Demo:
    run: Path
    """Folder that gets everything."""
    preset: Literal["debug", "laptop", "carracing", "take_cover", "crafter", "crafter_debug"]
    """Preset of every stage."""
    stages: tuple[str, ...]
    """Those that are run, in this order."""

    def __post_init__(self) -> None:
        for name in self.stages:
            if name not in STAGES:
                raise ValueError(f"unknown stage {name!r}, have {list(STAGES)}")


TOKENIZER, DYNAMICS, AGENT, SCRATCH = "tokenizer", "dynamics", "agent", "bc_scratch"
_JUDGED = {
    "run": "evaluation",
    "data": "data/train",
    "tokenizer": TOKENIZER,
    "cloned": AGENT,
    "imagined": "imagination",
    "json": "results.json",
}
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
    Stage(name="scores", command="evaluate", folders=_JUDGED),
)
_LADDER_STAGES = (
    Stage(
        name="scratch",
        command="train_agent",
        folders={"run": SCRATCH, "data": "latents/train", "dynamics": DYNAMICS},
        options=("--from-scratch", "--model.learns", "policy"),
    ),
    Stage(name="ladder_scores", command="evaluate_crafter", folders={**_JUDGED, "bc-scratch": SCRATCH}),
)
VMC = "vmc"
_CONTROLLER = {"latents": f"{VMC}/latents/train", "vae": f"{VMC}/vae", "mdn-rnn": f"{VMC}/mdn_rnn"}


def _evolve(name: str, folder: str, *options: str) -> Stage:
    return Stage(name=name, command="evolve", folders={"run": f"{VMC}/{folder}", **_CONTROLLER}, options=options)


_VMC_STAGES = (
    Stage(name="vmc_collect", command="collect", folders={"out": f"{VMC}/data"}, preset="vmc_{}"),
    Stage(
        name="vae",
        command="train_vae",
        folders={"run": f"{VMC}/vae", "data": f"{VMC}/data/train", "held-out": f"{VMC}/data/held_out"},
    ),
    Stage(
        name="vmc_latents",
        command="encode_latents",
        preset="vmc_{}",
        folders={"tokenizer": f"{VMC}/vae", "data": f"{VMC}/data", "out": f"{VMC}/latents"},
    ),
    Stage(
        name="mdn_rnn",
        command="train_mdn_rnn",
        folders={"run": f"{VMC}/mdn_rnn", "data": f"{VMC}/latents/train", "held-out": f"{VMC}/latents/held_out"},
    ),
    Stage(
        name="vmc_dreams",
        command="dream_vmc",
        folders={
            "run": f"{VMC}/dreams",
            "held-out": f"{VMC}/latents/held_out",
            "vae": f"{VMC}/vae",
            "mdn-rnn": f"{VMC}/mdn_rnn",
        },
    ),
    _evolve("v_only", "v_only", "--inputs", "z"),
    _evolve("hidden", "hidden", "--inputs", "z", "--hidden", "40"),
    _evolve("controller", "controller"),
    _evolve("dream_controller", "dream", "--world", "dream"),
    _evolve("cold_dream_controller", "cold_dream", "--world", "dream", "--temperature", "0.1"),
    Stage(
        name="vmc_scores",
        command="evaluate",
        folders={"run": "evaluation", "data": f"{VMC}/data/train", "vmc": VMC, "json": "results.json"},
        preset="vmc_{}",
    ),
)
STAGES = {stage.name: stage for stage in (*_STAGES, *_LADDER_STAGES, *_VMC_STAGES)}
WORLD = ("collect", "tokenizer", "latents", "dynamics", "dream")
TRAINED = ("cloning", "imagination")
LADDER = ("scratch", "ladder_scores")
SENSES = ("vmc_collect", "vae", "vmc_latents", "mdn_rnn", "vmc_dreams")
CAR_CONTROLLERS = ("v_only", "hidden", "controller", "dream_controller")
DREAM_CONTROLLERS = ("dream_controller", "cold_dream_controller")


def demo(config: Demo) -> None:
    timings_path = config.run / "timings.json"
    timings: dict[str, float] = json.loads(timings_path.read_text()) if timings_path.exists() else {}
    for number, stage in enumerate((STAGES[name] for name in config.stages), start=1):
        place = f"[{number}/{len(config.stages)}]"
        preset = stage.preset.format(config.preset)
        print(f"\n{place} {stage.name}: python -m launch.{stage.command} {preset}", *stage.options, flush=True)
        seconds = run_stage(stage, config.run, config.preset)
        timings[stage.name] = timings.get(stage.name, 0.0) + seconds
        write_json(timings_path, timings)
    runs = [
        config.run / name
        for name in (TOKENIZER, DYNAMICS, AGENT, SCRATCH, "imagination", f"{VMC}/vae", f"{VMC}/mdn_rnn")
    ]
    plot_training(config.run / "curves.png", [run for run in runs if run.exists()])
    summarise(config, timings)


def summarise(config: Demo, timings: dict[str, float]) -> None:
    if "dream" in config.stages:
        dream: dict[str, Any] = json.loads((config.run / "dream" / "dream.json").read_text())
        print(f"\ntokenizer: {dream['reconstruction_psnr']:.1f} dB reconstruction on held-out drives")
    mine = {name: timings[name] for name in config.stages}
    minutes = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in mine.items())
    scoring = sum(seconds for name, seconds in mine.items() if name.endswith("scores"))
    print(f"minutes: {minutes}; {sum(mine.values()) / 60:.1f} in all, {scoring / 60:.1f} of them scoring")
    print(f"\neverything is in {config.run}:")
    for name, what in {
        "tokenizer/reconstructions.png": "frames and what the tokenizer makes of them",
        "dream/dream.mp4": "real drives beside the model's dreams under the same actions",
        "dream/dream_psnr.png": "how far the dreams hold (dream/dream.json)",
        "world/quality.png": "how close and steerable the dreams are, step by step (world/evaluate_world.json)",
        "world/drift_strip.png": "dreams of 512 frames",
        "evaluation/videos/imagined.mp4": "the agent driving",
        f"{VMC}/vae/reconstructions.png": "frames and what V makes of them",
        f"{VMC}/dreams/dream_vmc.png": "what M dreams at several temperatures (also as mp4)",
        f"{VMC}/controller/evolution.png": "return over the generations of C",
        "evaluation/videos/vmc.mp4": "C driving",
        "evaluation/videos/vmc_dream.mp4": "C that was evolved in a dream",
        "curves.png": "loss curves",
        "results.json": "every score",
    }.items():
        if (config.run / name).exists():
            print(f"  {name:32s} {what}")


PRESETS = {
    "debug": Demo(run=Path("runs/debug"), preset="debug", stages=(*WORLD, *TRAINED, "scores")),
    "laptop": Demo(run=Path("runs/demo"), preset="laptop", stages=(*WORLD, *TRAINED, "scores")),
    "carracing": Demo(run=Path("runs/carracing"), preset="carracing", stages=(*WORLD, "world")),
    "crafter": Demo(run=Path("runs/crafter"), preset="crafter", stages=(*WORLD, *TRAINED, *LADDER)),
    "crafter_debug": Demo(run=Path("runs/crafter_debug"), preset="crafter_debug", stages=(*WORLD, *TRAINED, *LADDER)),
    "vmc_debug": Demo(run=Path("runs/debug"), preset="debug", stages=(*SENSES, *CAR_CONTROLLERS, "vmc_scores")),
    "vmc": Demo(run=Path("runs/demo"), preset="laptop", stages=(*SENSES, *CAR_CONTROLLERS, "vmc_scores")),
    "take_cover": Demo(
        run=Path("runs/take_cover"), preset="take_cover", stages=(*SENSES, *DREAM_CONTROLLERS, "vmc_scores")
    ),
}

if __name__ == "__main__":
    main(PRESETS, demo, description=__doc__, processes="one")
