"""Score agents in the real environment, on tracks that no training used.

    python -m launch.evaluate laptop
    python -m launch.evaluate laptop --agents cloned --tracks 100
    python -m launch.evaluate laptop --run RUN --data DATA/train --tokenizer TOKENIZER --cloned AGENT --task cruise

Scores come from the stock environment. Each agent's scores are kept in the run's folder, so an interrupted command
goes on, and the results of agents that are not asked for stay in the table. Each task but the data's first has a table
and files of its own, such as results_cruise.json.
"""

import json
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from agent.acting import Policy, RandomPolicy
from agent.envs.vector import VectorEnv
from agent.scoring import Episodes, difference, play, summarise
from agent.seeds import EVALUATION_TRACKS
from dynamics.actions import ActionSpace
from launch.command import main
from launch.memory import fits
from launch.models import agent_checkpoint, identity, load_policy
from launch.run_folder import write_json
from launch.tasks import number_of, scored_task
from launch.training import open_dataset
from launch.vmc_agents import CONTROLLERS, identity_of, load_vmc
from tokenizer.shard_format import DatasetMeta, read_json
from tokenizer.shards import Dataset
from tokenizer.video import write_video

AgentName = Literal[
    "random",
    "dataset",
    "cloned",
    "imagined",
    "bc_scratch",
    "filtered",
    "dreamer_v1",
    "vmc",
    "vmc_v_only",
    "vmc_hidden",
    "vmc_dream",
    "vmc_cold_dream",
]


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    run: Path
    """Folder that gets the scores, the videos and results.json."""
    data: Path
    """Folder of the training shards: names the environment, and its returns are the row `dataset`."""
    tokenizer: Path
    cloned: Path
    imagined: Path
    bc_scratch: Path
    filtered: Path
    dreamer_v1: Path
    vmc: Path
    """Folder of World Models, with the runs vae, mdn_rnn, and of `launch.evolve` controller (vmc), v_only, hidden,
    dream and cold_dream: each as far as its agent is asked for."""
    agents: tuple[AgentName, ...] = ("random", "dataset", "cloned", "imagined")
    tracks: int = 20
    """Episodes of each agent; all agents get the same tracks."""
    num_envs: int = 10
    """Episodes played side by side."""
    processes: int = 2
    """Processes that step them."""
    task: str = ""
    """Name of the task that agents are told and scored by, of those of the data; the first of them where not given."""
    told: str = ""
    """Name of the task that agents are told, where they are to be scored by another."""
    max_steps: int | None = None
    """Actions after which an episode is cut; whole episodes where not given."""
    compile: bool = True
    json: Path | None = None
    """Also write the results here."""

    def __post_init__(self) -> None:
        for name in ("tracks", "num_envs", "max_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}, needs at least 1")
        if self.processes < 0:
            raise ValueError(f"processes={self.processes} must not be negative")

    def file(self, name: str) -> Path:
        """In the run's folder; what is not of the first task has files of its own."""
        of_task = f"_{self.task}" if self.task else ""
        told = f"_told_{self.told}" if self.told else ""
        return self.run / (name + re.sub(r"[^\w-]", "-", of_task + told))  # a task may be a sentence


def evaluate(config: Evaluate) -> None:
    dataset = open_dataset(config.data, "frames")
    config = _short(config, dataset.meta.tasks[0])
    # All before the first is played: a wrong folder must not come to light after an hour of the others' episodes.
    policies = {name: _policy(name, config, dataset.meta) for name in config.agents if name != "dataset"}
    driven = _returns(dataset, config.task) if "dataset" in config.agents else []
    path = config.file("results").with_suffix(".json")
    results = _kept(config, dataset.meta)
    for name in config.agents:
        scores = driven if name == "dataset" else _scores(name, policies[name], config, dataset.meta)
        results[name] = summarise(scores)
    show(results, config.task)
    for file in filter(None, (path, config.json)):
        write_json(file, results)
    print(f"results in {path}")


def _short(config: Evaluate, first: str) -> Evaluate:
    """With no names that say what holds anyway: the first task has the same files, named or not."""
    told = "" if config.told == (config.task or first) else config.told
    return replace(config, task="" if config.task == first else config.task, told=told)


def _returns(dataset: Dataset, task: str) -> list[float]:
    """Of the episodes of one task."""
    number = number_of(task, dataset.meta.tasks, dataset.name)
    returns = [sample.reward_sum for sample in dataset.each_task().samples if sample.task == number]
    if not returns:
        raise ValueError(f"{dataset.name} holds no episode of task {dataset.meta.tasks[number]!r}")
    return returns


def _kept(config: Evaluate, meta: DatasetMeta) -> dict[str, Any]:
    """Rows of agents that are not asked for now, as long as they were played in this environment and as long."""
    path = config.file("results").with_suffix(".json")
    before: dict[str, Any] = read_json(path) if path.exists() else {}
    here = _played_in(config, meta)
    kept = {}
    for name, row in before.items():
        scores = _scores_path(config, name)
        made_by = read_json(scores)["made_by"] if scores.exists() else here  # `dataset` was not played
        if all(made_by[key] == value for key, value in here.items()):
            kept[name] = row
        elif name not in config.agents:
            print(f"{name}: its row is of another environment or of other episodes, and is left out")
    return kept


def _played_in(config: Evaluate, meta: DatasetMeta) -> dict[str, Any]:
    """What must be the same for all rows of a table."""
    return {"environment": meta.environment, "action_repeat": meta.action_repeat, "max_steps": config.max_steps}


def _scores_path(config: Evaluate, name: str) -> Path:
    return config.file("scores") / f"{name}.json"


def _scores(name: AgentName, policy: Policy, config: Evaluate, meta: DatasetMeta) -> list[float]:
    """Plays what is not played yet; each batch of tracks is written down when it ends."""
    path = _scores_path(config, name)
    made_by = {**_played_in(config, meta), "model": _identity(name, config), "task": _of_data(config, meta)}
    kept = json.loads(path.read_text()) if path.exists() else {}
    scores: list[float] = kept["scores"] if kept.get("made_by") == made_by else []
    if len(scores) >= config.tracks:
        print(f"{name}: already done, {config.tracks} tracks")
        return scores[: config.tracks]
    num_envs = min(config.num_envs, config.tracks)
    with VectorEnv(
        meta.environment,
        num_envs=num_envs,
        processes=config.processes,
        stock=True,
        action_repeat=meta.action_repeat,
    ) as envs:
        scored = scored_task(config.task, meta, envs.task_names)
        while len(scores) < config.tracks:
            first = EVALUATION_TRACKS + len(scores)
            batches_after = -(-(config.tracks - len(scores)) // num_envs) - 1
            seeds = range(first, first + num_envs)
            with fits(f"{num_envs} episodes side by side", "lower --num-envs; scores that are there are kept"):
                episodes = _play_shown(name, policy, envs, seeds, scored, config.max_steps, batches_after)
            if not scores:
                write_video(config.file("videos") / f"{name}.mp4", episodes.first_frames, envs.fps)
            scores += episodes.returns
            write_json(path, {"made_by": made_by, "scores": scores})
    return scores[: config.tracks]


def _play_shown(
    name: str, policy: Policy, envs: VectorEnv, seeds: range, scored: int, max_steps: int | None, batches_after: int
) -> Episodes:
    began = time.perf_counter()
    console = Console()
    with Progress(transient=True, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{name}: {len(seeds)} tracks", total=None)
        episodes = play(
            policy,
            envs,
            seeds,
            task=scored,
            max_steps=max_steps,
            progress=lambda step, ended: bar.update(
                task, description=f"{name}: step {step}, {ended} of {len(seeds)} tracks done"
            ),
        )
    seconds = time.perf_counter() - began
    mean = sum(episodes.returns) / len(episodes.returns)
    left = f", about {batches_after * seconds:.0f} s left" if batches_after else ""
    print(f"{name}: {len(seeds)} tracks in {seconds:.0f} s, mean {mean:.0f}{left}", flush=True)
    return episodes


def _policy(name: AgentName, config: Evaluate, meta: DatasetMeta) -> Policy:
    space = ActionSpace.from_json(meta.action_space)
    if name == "random":
        return RandomPolicy(space)
    if name in CONTROLLERS:
        return load_vmc(config.vmc, name, meta)
    number = _of_data(config, meta)
    told = {meta.tasks[number]: number}
    return load_policy(_run_of(name, config), config.tokenizer, meta, config.data, told=told, compile=config.compile)


def _of_data(config: Evaluate, meta: DatasetMeta) -> int:
    """Number of the task that agents are told."""
    return number_of(config.told or config.task, meta.tasks, str(config.data))


def _identity(name: AgentName, config: Evaluate) -> str:
    """The checkpoint that is judged: another one is scored anew."""
    if name == "random":
        return "random"
    if name in CONTROLLERS:
        return identity_of(config.vmc, name)
    return identity(agent_checkpoint(_run_of(name, config)))


def _run_of(name: AgentName, config: Evaluate) -> Path:
    run: Path = getattr(config, name)
    return run


def show(results: dict[str, Any], task: str) -> None:
    """The table for people; the gain over random is paired by track, as far as both were played."""
    table = Table(title="Return in the real environment" + (f", of the task {task!r}" if task else ""))
    for column in ("agent", "mean", "95 % interval", "std", "tracks", "gain over random"):
        table.add_column(column, justify="left" if column == "agent" else "right")
    for name, row in results.items():
        gain = ""
        if name not in ("random", "dataset") and "random" in results:
            both = min(row["tracks"], results["random"]["tracks"])
            over = difference(row["scores"][:both], results["random"]["scores"][:both])
            gain = f"{over['mean']:+.0f} [{over['ci95'][0]:.0f}, {over['ci95'][1]:.0f}]"
        low, high = row["ci95"]
        numbers = (f"{row['mean']:.0f}", f"[{low:.0f}, {high:.0f}]", f"{row['std']:.0f}", str(row["tracks"]))
        table.add_row(name, *numbers, gain)
    Console().print(table)


_DEBUG: dict[str, Any] = {"tracks": 1, "num_envs": 1, "processes": 0, "max_steps": 20, "compile": False}
_LAPTOP: dict[str, Any] = {"num_envs": 20, "processes": 2}
_VMC: dict[str, Any] = {"agents": ("random", "vmc_v_only", "vmc_hidden", "vmc", "vmc_dream")}
SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "debug": ("debug", _DEBUG),
    "laptop": ("laptop", {**_LAPTOP, "tracks": 20}),
    "study": ("study", {**_LAPTOP, "tracks": 100, "num_envs": 50}),
    "study_large": ("study_large", {**_LAPTOP, "tracks": 100, "num_envs": 50}),
    "vmc_debug": ("debug", {**_DEBUG, **_VMC}),
    "vmc_laptop": ("laptop", {**_LAPTOP, **_VMC, "tracks": 100}),
    "vmc_paper": ("paper", {**_LAPTOP, **_VMC, "tracks": 100}),
    "vmc_take_cover": (
        "take_cover",
        {**_LAPTOP, "agents": ("random", "vmc_dream", "vmc_cold_dream"), "tracks": 100},
    ),
}
"""Preset -> the folder under runs/ that it reads from, and what it is told."""
PRESETS = {
    name: Evaluate(
        run=Path(f"runs/{folder}/evaluation"),
        data=Path(f"runs/{folder}/{'vmc/' if name.startswith('vmc_') else ''}data/train"),
        tokenizer=Path(f"runs/{folder}/tokenizer"),
        cloned=Path(f"runs/{folder}/agent"),
        imagined=Path(f"runs/{folder}/imagination"),
        bc_scratch=Path(f"runs/{folder}/bc_scratch"),
        filtered=Path(f"runs/{folder}/filtered"),
        dreamer_v1=Path(f"runs/{folder}/dreamer_v1"),
        vmc=Path(f"runs/{folder}/vmc"),
        **sizes,
    )
    for name, (folder, sizes) in SIZES.items()
}

if __name__ == "__main__":
    main(PRESETS, evaluate, description=__doc__, processes="first")
