"""An evolution in a run's checkpoints: the controller that is kept, and every fitness that was told.

From the fitnesses the evolution is told again, in its order; so nothing of CMA-ES itself is saved, and nothing pickled.
"""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from agent.controller import Controller, ControllerConfig
from agent.evolution import Evolution, EvolutionConfig
from launch import checkpoint
from launch.checkpoint import Snapshot
from launch.distributed import say_once

FITNESS, MEAN = "vector.fitness", "vector.mean"
"""Where they lie among what a checkpoint's optimizer remembers: [generations, n], and the distribution's middle [p]."""
SLACK = 1e-3
"""Of the mean's distance from the saved one, in standard deviations of the distribution, that rounding may explain."""


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The controller that is kept."""

    vector: NDArray[np.float64]
    generation: int = 0
    mean: float = -math.inf
    """Return on the tracks of comparisons."""


class Evolved(NamedTuple):
    """How far a run has come."""

    evolution: Evolution
    champion: Champion
    seconds: float = 0.0
    """Spent on it."""


def save_evolved(run: Path, controller: ControllerConfig, evolved: Evolved, *, keep: int) -> None:
    """Call it on the main process only."""
    evolution, champion, seconds = evolved
    snapshot = Snapshot(
        model={"vector": torch.from_numpy(champion.vector).float()},
        ema={},
        optimizer={
            FITNESS: torch.from_numpy(np.stack(evolution.fitness)),
            MEAN: torch.from_numpy(evolution.mean),
        },
        config=checkpoint.describe(Controller(controller)),
    )
    mean = None if champion.mean == -math.inf else champion.mean
    state = {
        "seconds": seconds,
        "candidates": evolution.fingerprint(),
        "champion": {"generation": champion.generation, "mean": mean},
    }
    checkpoint.save(run, evolution.generation, snapshot, state, keep=keep)


def load_evolved(path: Path | None, config: EvolutionConfig, controller: ControllerConfig) -> Evolved:
    """That of a checkpoint, or one that begins. Raises ValueError where the checkpoint holds another controller."""
    if path is None:
        evolution = Evolution(controller.num_parameters, config)
        return Evolved(evolution, Champion(vector=evolution.mean))
    known = checkpoint.load_config(path, ControllerConfig)
    if known != controller:
        differing = [
            f"{field.name}={getattr(known, field.name)!r} there and {getattr(controller, field.name)!r} here"
            for field in fields(controller)
            if getattr(known, field.name) != getattr(controller, field.name)
        ]
        raise ValueError(
            f"{path} holds a controller of {known.num_parameters} parameters, and this command would evolve one of "
            f"{controller.num_parameters}, with {', '.join(differing)}: name another folder with --run"
        )
    told = checkpoint.read_tensors(path / "optimizer.safetensors")
    evolution = Evolution.replay(controller.num_parameters, config, list(told[FITNESS].numpy()))
    state = checkpoint.load_state(path)
    if np.abs(evolution.mean - told[MEAN].numpy()).max() > SLACK * evolution.sigma:
        raise ValueError(
            f"what {path} was told does not lead to where it was: it was made with another version of the library cma, "
            "or another --sigma or --seed; go on with what it began with, or begin another run"
        )
    if state["candidates"] != evolution.fingerprint():
        say_once(
            "warning: this machine calculates other candidates from what was told so far, by its rounding: the "
            "evolution goes on, but not as it would have where it began"
        )
    kept = state["champion"]
    champion = Champion(
        vector=checkpoint.read_tensors(path / "model.safetensors")["vector"].double().numpy(),
        generation=kept["generation"],
        mean=-math.inf if kept["mean"] is None else kept["mean"],
    )
    return Evolved(evolution, champion, state["seconds"])
