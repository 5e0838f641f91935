"""Export a trained model: one folder of weights, config and a model card, which loads on any machine and fits a hub.

    python -m launch.export runs/carracing/dynamics --out exported/dynamics

Every command that reads a run's folder reads such a folder too. `huggingface-cli upload NAME FOLDER` publishes it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from launch import checkpoint
from launch.command import main_of_one
from launch.models import MAKERS, identity, newest
from tokenizer.shard_format import read_json

LOADERS = {
    "VAE": "load_vae",
    "MDNRNN": "load_mdn_rnn",
    "Controller": "load_controller",
    "Tokenizer": "load_tokenizer",
    "WorldModel": "load_world",
    "Agent": "load_agent",
    "Imagination": "load_agent",
}
SHOWN = ("loss", "psnr_masked", "held_out_psnr", "video_loss", "policy_loss", "reward_loss", "dream_return")
"""Numbers of a run's log that say how well it went."""


@dataclass(frozen=True, kw_only=True)
class Export:
    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run; its newest whole checkpoint is exported, with the averaged weights."""
    out: Path
    """New folder, or one that was exported to before."""


def export(config: Export) -> None:
    """Raises ValueError where there is no checkpoint, or where the folder holds something else."""
    if config.out.exists() and any(config.out.iterdir()) and not checkpoint.is_exported(config.out):
        raise ValueError(f"{config.out} holds other files: name a new folder with --out")
    path = newest(config.run, *MAKERS)
    checkpoint.export(path, config.out, model_card(config.run, path), identity(path))
    size = sum(file.stat().st_size for file in config.out.iterdir())
    print(f"{config.out}: a {checkpoint.model_class(path)}, {size / 1e6:.1f} MB, from {path}")


def model_card(run: Path, path: Path) -> str:
    """Markdown with the header that hubs read."""
    name = checkpoint.model_class(path)
    tensors = checkpoint.read_tensors(path / "model.safetensors")
    count = sum(tensor.numel() for tensor in tensors.values())
    step = checkpoint.load_state(path)["step"] if (path / "state.json").exists() else None
    numbers = ", ".join(f"{key} {value:.4g}" for key, value in _last_numbers(run).items())
    lines = [
        "---",
        "library_name: reverie",
        "tags: [world-model, dreamer4]",
        "---",
        f"# {name}",
        "",
        f"A {name} of {count:,} numbers, trained by `python -m launch.{MAKERS[name]}`"
        + (f" for {step} steps." if step is not None else "."),
        *([f"At the end of its log: {numbers}."] if numbers else []),
        "",
        "```python",
        "from pathlib import Path",
        f"from launch.models import {LOADERS[name]}",
        f'model = {LOADERS[name]}(Path("PATH/TO/THIS/FOLDER"))',
        "```",
        "",
        "Weights are averaged over the training where it kept an average. The config:",
        "",
        "```json",
        json.dumps(read_json(path / "config.json")["config"], indent=1),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _last_numbers(run: Path) -> dict[str, float]:
    path = run / "metrics.jsonl"
    found: dict[str, Any] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        found |= json.loads(line)
    return {key: found[key] for key in SHOWN if found.get(key) is not None}


if __name__ == "__main__":
    main_of_one(Export, export, description=__doc__)
