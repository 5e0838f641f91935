"""Which agent drives best? Several trainings of each on one offline dataset, judged on the same real tracks.

    python -m launch.study carracing
    python -m launch.study carracing --agents cloned imagined --seeds 3 --tracks 20

Dataset and tokenizer are made once. Each seed trains a world model and then its agents: WM+BC (cloned), Dreamer 4
(imagined), and on some seeds cloning from scratch, cloning of the best drives alone (filtered) and Dreamer V1's
actor. Each stage is a command of its own. Means are over seeds, and so are the intervals: the unit is the training run.
Interrupted, the same command goes on; seeds whose scores are in the folder's study.json are not trained again.
"""

import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from launch.command import main
from launch.curves import read_metrics
from launch.run_folder import UNHEARD, changes, write_json
from launch.serial import flat, to_json
from launch.stages import Stage, run_stage
from launch.study_report import plot, show, summarise
from tokenizer.shard_format import INDEX, read_json

NUMBERS = "study.json"
VERSION = 2
"""To be raised where agents of the same presets become others, or a field of presets gets another name."""
SCORING = ("agents", "tracks")
"""Options that each seed's scoring is given anew."""
ANOTHER = "trainings of two recipes make no mean; name another folder with --run"
Trained = Literal["cloned", "imagined", "bc_scratch", "filtered", "dreamer_v1"]
PAIRED: tuple[Trained, ...] = ("cloned", "imagined")
"""Agents that are trained on every seed."""
OTHERS: tuple[Trained, ...] = ("bc_scratch", "filtered", "dreamer_v1")


@dataclass(frozen=True, kw_only=True)
class Study:
    run: Path
    """Folder that gets everything."""
    preset: Literal["debug", "study", "study_large"]
    """Preset of every stage."""
    collecting: str
    """Preset of the dataset."""
    seeds: int = 6
    """Trainings of the world model with WM+BC and Dreamer 4."""
    seeds_of_others: int = 3
    """Trainings of each of the other agents: those that there are count, the rest are made on the world models of the
    first seeds. A seed whose scores alone are known is not trained anew for them while there are others."""
    agents: tuple[Trained, ...] = PAIRED + OTHERS
    tracks: int = 100
    """Real tracks that each training is judged on, the same for all."""
    processes: int | None = None
    """Worker processes that collect and that step the tracks; those of the presets where not given."""
    also: tuple[Path, ...] = ()
    """results.json of other agents on the same tracks, such as that of `launch.demo vmc`: its rows join the table."""
    json: Path | None = None
    """Also write the numbers here, and go on from those that are here where the folder has none: a study may move to
    another machine without its runs. A seed of which more is asked is then trained anew: its world model is gone."""

    def __post_init__(self) -> None:
        for name in ("seeds", "tracks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}, needs at least 1")
        if self.processes is not None and self.processes < 0:
            raise ValueError(f"processes={self.processes} must not be negative")
        if not 0 <= self.seeds_of_others <= self.seeds:
            raise ValueError(f"seeds_of_others={self.seeds_of_others} is not in 0 to seeds={self.seeds}")
        if not self.agents:
            raise ValueError(f"agents={self.agents}: name at least one of {', '.join(PAIRED + OTHERS)}")


def study(config: Study) -> None:
    kept = _kept(config)
    kept["also"] |= _others(config)
    # All of it now: which seeds train the others depends on what is there, and the first ones change that.
    todo = {seed: missing for seed in range(config.seeds) if (missing := _missing(config, kept, seed))}
    if todo:
        for stage in _shared(config):
            _run(stage, config, kept)
        kept["dataset"] = _dataset_rows(config)
    for number, (seed, missing) in enumerate(todo.items(), start=1):
        print(f"\nseed {seed}, {number} of {len(todo)} to go", flush=True)
        if not _has_world(config, seed) and kept["seeds"].pop(str(seed), None):
            write_json(config.run / NUMBERS, kept)  # what is scored from now on is of another world model
        for stage in _of_seed(config, seed, missing):
            _run(stage, config, kept)
        _take_scores(config, kept, seed, missing)
        _report(config, kept)
    if not todo:
        print(f"already done: {config.run}")
        _report(config, kept)
    print(f"numbers and plot in {config.run}")


def _run(stage: Stage, config: Study, kept: dict[str, Any]) -> None:
    print(f"\n{stage.name}: python -m launch.{stage.command} {stage.preset.format(config.preset)}", flush=True)
    seconds, began = kept["seconds"], time.perf_counter()
    begins = not (config.run / (stage.folders.get("run") or stage.folders["out"])).exists()
    if begins:
        seconds.pop(stage.name, None)  # of another machine, or of a world model that is gone
    try:
        run_stage(stage, config.run, config.preset)
    finally:
        if begins or stage.name in seconds:  # what was done before, and nobody timed, takes nobody knows how long
            seconds[stage.name] = seconds.get(stage.name, 0.0) + time.perf_counter() - began
        write_json(config.run / NUMBERS, kept)
    if stage.command.startswith("train_"):  # whose own clock knows of steps that were made before, and of nothing else
        own = read_metrics(config.run / stage.folders["run"])[-1]["seconds"]
        seconds[stage.name] = max(seconds.get(stage.name, 0.0), own)
        write_json(config.run / NUMBERS, kept)


def _shared(config: Study) -> list[Stage]:
    return [
        Stage(
            name="collect",
            command="collect",
            folders={"out": "data"},
            preset=config.collecting,
            options=_processes(config),
        ),
        Stage(
            name="tokenizer",
            command="train_tokenizer",
            folders={"run": "tokenizer", "data": "data/train", "held-out": "data/held_out"},
        ),
        Stage(
            name="latents",
            command="encode_latents",
            folders={"tokenizer": "tokenizer", "data": "data", "out": "latents"},
        ),
    ]


def _of_seed(config: Study, seed: int, agents: Sequence[Trained]) -> list[Stage]:
    """What trains and judges these agents of a seed."""
    trainings = [
        replace(stage, options=(*stage.options, "--seed", str(seed))) for stage in _trainings(f"seed_{seed}", agents)
    ]
    return [*trainings, _scoring(config, seed, agents)]


def _trainings(place: str, agents: Sequence[Trained]) -> list[Stage]:
    """Of these agents in a folder of their own; an agent that needs another's run comes after it."""
    needed = {*agents, *(("cloned",) if {"imagined", "dreamer_v1"} & set(agents) else ())}
    data = {"data": "latents/train", "held-out": "latents/held_out"}
    world = {"dynamics": f"{place}/dynamics"}
    clone = {"agent": f"{place}/cloned"}
    stages = [
        Stage(
            name=f"{place}/dynamics",
            command="train_dynamics",
            folders={"run": f"{place}/dynamics", "data": "latents/train"},
        )
    ]
    for name, command, folders, options, preset in (
        ("cloned", "train_agent", world, (), "{}"),
        ("bc_scratch", "train_agent", world, ("--from-scratch", "--model.learns", "policy"), "{}"),
        ("filtered", "train_agent", world, ("--relevant-share", "0.15"), "{}"),
        ("imagined", "train_imagination", clone, (), "{}"),
        ("dreamer_v1", "train_imagination", clone, (), "{}_v1"),
    ):
        if name in needed:
            where = {"run": f"{place}/{name}", **data, **folders}
            stages.append(Stage(name=f"{place}/{name}", command=command, folders=where, options=options, preset=preset))
    return stages


def _scoring(config: Study, seed: int, agents: Sequence[Trained]) -> Stage:
    place = f"seed_{seed}"
    asked = (*(("random",) if seed == 0 else ()), *agents)
    runs = {name.replace("_", "-"): f"{place}/{name}" for name in agents}
    return Stage(
        name=f"{place}/scores",
        command="evaluate",
        folders={"run": f"{place}/evaluation", "data": "data/train", "tokenizer": "tokenizer", **runs},
        options=("--agents", *asked, "--tracks", str(config.tracks), *_processes(config)),
    )


def _processes(config: Study) -> tuple[str, ...]:
    return () if config.processes is None else ("--processes", str(config.processes))


def _missing(config: Study, kept: dict[str, Any], seed: int) -> tuple[Trained, ...]:
    """Of a seed whose world model is gone, all that it had, if any: one that is trained anew is another one."""
    rows = kept["seeds"].get(str(seed), {})
    asked = tuple(name for name in config.agents if name in PAIRED or seed in _carriers(config, kept, name))
    missing = tuple(name for name in asked if not _is_scored(config, rows, name))
    if missing and rows and not _has_world(config, seed):
        return tuple(name for name in PAIRED + OTHERS if name in rows or name in asked)
    return missing


def _has_world(config: Study, seed: int | str) -> bool:
    """Whether this folder trains or has trained the seed's world model."""
    return (config.run / f"seed_{seed}" / "dynamics").exists()


def _carriers(config: Study, kept: dict[str, Any], agent: Trained) -> list[int]:
    """Seeds that are to train one of the other agents."""
    scored = {int(seed) for seed, rows in kept["seeds"].items() if _is_scored(config, rows, agent)}
    free = [seed for seed in range(config.seeds) if seed not in scored]
    free.sort(key=lambda seed: str(seed) in kept["seeds"] and not _has_world(config, seed))  # stable: else in order
    return free[: max(0, config.seeds_of_others - len(scored))]


def _is_scored(config: Study, rows: dict[str, Any], agent: Trained) -> bool:
    return bool(rows.get(agent, {}).get("tracks", 0) >= config.tracks)


def _take_scores(config: Study, kept: dict[str, Any], seed: int, agents: Sequence[str]) -> None:
    results = read_json(config.run / f"seed_{seed}" / "evaluation" / "results.json")
    rows = kept["seeds"].setdefault(str(seed), {})
    rows |= {name: results[name] for name in agents}
    if "random" in results:
        kept["random"] = results["random"]
    write_json(config.run / NUMBERS, kept)


def _dataset_rows(config: Study) -> dict[str, Any]:
    meta = read_json(config.run / "data/train" / INDEX)
    return {name: meta[name] for name in ("num_samples", "return_mean", "return_std", "return_best")}


def _kept(config: Study) -> dict[str, Any]:
    """What is known already, the folder's own first, and alone of seeds whose world model is there.

    Raises ValueError where its scores are of presets that say something else today.
    """
    kept: dict[str, Any] = {"dataset": {}, "random": None, "seeds": {}, "seconds": {}, "also": {}}
    for path in (config.run / NUMBERS, config.json):
        if path is not None and path.exists():
            found = _checked(config, path)
            for name in ("dataset", "random"):
                kept[name] = kept[name] or found[name]
            for name in ("seconds", "also"):
                kept[name] = {**found.get(name, {}), **kept[name]}
            for seed, rows in found["seeds"].items():
                if path == config.json and _has_world(config, seed):
                    continue  # rows of another world model pair with none of this one
                kept["seeds"][seed] = {**rows, **kept["seeds"].get(seed, {})}
    return {**kept, "recipe": _recipe(config)}


def _checked(config: Study, path: Path) -> dict[str, Any]:
    kept: dict[str, Any] = read_json(path)
    recipe = kept["recipe"]
    if recipe.get("version") != VERSION:
        raise ValueError(f"{path} has scores of version {recipe.get('version')}, this is {VERSION}: {ANOTHER}")
    scored = [name for name in PAIRED + OTHERS if any(name in rows for rows in kept["seeds"].values())]
    for name, (stage, preset) in (_made_by(config, scored) if scored else {}).items():
        given = {option.replace("-", "_") for option in (*stage.folders, *SCORING)}
        other = changes(recipe[name], preset, besides=UNHEARD | given)
        if recipe[name]["options"] != list(stage.options):
            other["options"] = recipe[name]["options"], list(stage.options)
        if other:
            field, (was, now) = next(iter(other.items()))
            raise ValueError(f"{path} has scores of {name} with {field}={was!r}, now it has {now!r}: {ANOTHER}")
    return kept


def _others(config: Study) -> dict[str, Any]:
    """Rows of agents that this study does not train. Raises ValueError where a file holds none."""
    rows: dict[str, Any] = {}
    for path in config.also:
        found = read_json(path)
        found = found.get("results", found)
        if not all(isinstance(row, dict) and "mean" in row for name, row in found.items() if name != "dataset"):
            raise ValueError(f"{path} is no results.json of `python -m launch.evaluate`: its rows have no mean")
        rows |= {name: row for name, row in found.items() if name not in ("random", "dataset")}
    return rows


def _made_by(config: Study, agents: Sequence[Trained]) -> dict[str, tuple[Stage, Any]]:
    """What the scores of these agents come from, by name: each stage with its own options alone, and its preset."""
    shared = [replace(stage, options=()) for stage in (*_shared(config), _scoring(config, 0, agents))]
    made = {}
    for stage in (*shared, *_trainings("", agents)):
        presets = importlib.import_module(f"launch.{stage.command}").PRESETS
        made[stage.name.rpartition("/")[2]] = stage, presets[stage.preset.format(config.preset)]
    return made


def _recipe(config: Study) -> dict[str, Any]:
    """What the stages are told, for the numbers."""
    made = _made_by(config, PAIRED + OTHERS)
    told = {name: {"options": list(stage.options)} | flat(to_json(preset)) for name, (stage, preset) in made.items()}
    return {"version": VERSION, **told}


def _report(config: Study, kept: dict[str, Any]) -> None:
    numbers = summarise(kept, kept["also"], order=PAIRED + OTHERS)
    kept["summary"] = numbers
    for path in filter(None, (config.run / NUMBERS, config.json)):
        write_json(path, kept)
    show(numbers)
    plot(numbers, config.run / "study.png")


PRESETS = {
    "debug": Study(
        run=Path("runs/debug_study"), preset="debug", collecting="debug", seeds=2, seeds_of_others=1, tracks=1
    ),
    "carracing": Study(run=Path("runs/study"), preset="study", collecting="offline_300"),
    "carracing_large": Study(run=Path("runs/study_large"), preset="study_large", collecting="offline_300"),
}

if __name__ == "__main__":
    main(PRESETS, study, description=__doc__, processes="one")
