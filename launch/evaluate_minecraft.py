"""Judge agents in Minecraft by the paper's protocol: an hour in a random world, told one task after another.

    python -m launch.evaluate_minecraft dreamer4 --python ~/minerl/bin/python
    python -m launch.evaluate_minecraft dreamer4 --python ~/minerl/bin/python --agents random --episodes 100

The ladder of tasks leads from a log to a diamond; the milestones on its way are counted with their times. Needs MineRL
in an interpreter of its own (docs/minerl.md). Each episode is kept in the run's folder as soon as it is over, so an
interrupted command goes on. An episode whose game breaks is played anew from its seed, and counts as failed in the end.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agent.acting import RandomPolicy
from agent.climbing import NoGameStarts
from agent.envs.minecraft_actions import MINECRAFT
from agent.envs.minerl import ADVICE as MINERL_ADVICE
from agent.envs.minerl import MineRLEnvironment, MineRLOptions
from agent.ladder import MINECRAFT_LADDER
from dynamics.actions import ActionSpace
from launch.climbs import Contender, Course, climb, show, task_numbers, trained
from launch.command import main
from launch.training import open_dataset
from tokenizer.shard_format import DatasetMeta, read_json
from tokenizer.video import Fit

GAME = "MineRLHumanSurvival-v0"
ADVICE = "give data that were imported with Minecraft's tasks"
AgentName = Literal["random", "cloned", "imagined", "bc_scratch"]
PAPER = {
    "Dreamer 4": {"log": 99.1, "stone pickaxe": 90.1, "iron ingot": 39.5, "iron pickaxe": 29.0, "diamond": 0.7},
    "its WM+BC": {"log": 99.6, "stone pickaxe": 89.4, "iron ingot": 27.8, "iron pickaxe": 16.9, "diamond": 0.0},
    "VLA, Gemma 3": {"log": 98.5, "stone pickaxe": 76.7, "iron ingot": 22.5, "iron pickaxe": 11.2, "diamond": 0.0},
    "its BC": {"log": 97.3, "stone pickaxe": 53.8, "iron ingot": 4.3, "iron pickaxe": 0.6, "diamond": 0.0},
    "VPT, finetuned": {"log": 84.3, "stone pickaxe": 0.0, "iron ingot": 0.1, "iron pickaxe": 0.0, "diamond": 0.0},
}
"""Percent of 1,000 episodes of an hour (Hafner et al. 2025, the offline diamond challenge)."""


@dataclass(frozen=True, kw_only=True)
class EvaluateMinecraft:
    run: Path
    """Folder that gets the episodes, the videos and results.json."""
    data: Path
    """Folder of the training shards: says how large frames are and which number each task has."""
    tokenizer: Path
    cloned: Path
    imagined: Path
    bc_scratch: Path
    python: Path = Path("minerl/bin/python")
    """Interpreter that has MineRL; `python -m launch.doctor --setup minerl` makes one."""
    agents: tuple[AgentName, ...] = ("random", "cloned", "imagined")
    episodes: int = 1000
    """Of each agent; all agents get the same worlds."""
    max_steps: int = 72_000
    """Actions after which an episode is cut: an hour of 20 a second."""
    num_envs: int = 4
    """Games side by side, each with some 4 GB and two cores of its own."""
    attempts: int = 3
    """How often an episode whose game broke is begun."""
    films: int | None = None
    """Episodes that are filmed, the first of them; all where not given. An hour takes some hundreds of megabytes."""
    fit: Fit | None = None
    """How frames come to the data's size; as those of the data did where not given."""
    start_seconds: float = 600.0
    """For Minecraft to start and make a world."""
    step_seconds: float = 120.0
    """For a step: after that the game is broken."""
    compile: bool = True
    json: Path | None = None
    """Also write the results here."""

    def options(self, meta: DatasetMeta) -> MineRLOptions:
        return MineRLOptions(
            python=self.python.expanduser(),
            size=meta.frame_size,
            fit=self.fit or _fit_of(self.data),
            start_seconds=self.start_seconds,
            step_seconds=self.step_seconds,
        )


def evaluate_minecraft(config: EvaluateMinecraft) -> None:
    meta = open_dataset(config.data, "frames").meta
    if ActionSpace.from_json(meta.action_space) != MINECRAFT:
        raise ValueError(f"{config.data} has other actions than Minecraft: give imported recordings of it")
    course = _course(config, meta)
    # All before the first is played: a wrong folder must not come to light after hours of the others' episodes.
    contenders: dict[str, Contender] = {name: _contender(name, config, meta, course) for name in config.agents}
    MineRLEnvironment(GAME, config.options(meta)).close()  # tells what its interpreter lacks; Minecraft stays shut
    try:
        results = climb(config.run, contenders, course, config.json)
    except NoGameStarts as error:
        raise ValueError(f"{error}; {MINERL_ADVICE}") from error
    show(results, MINECRAFT_LADDER, PAPER, "Percent of episodes in Minecraft that reached it")
    print(f"results in {config.run / 'results.json'}")


def _course(config: EvaluateMinecraft, meta: DatasetMeta) -> Course:
    options = config.options(meta)
    return Course(
        environment=GAME,
        ladder=MINECRAFT_LADDER,
        numbers={} if set(config.agents) == {"random"} else task_numbers(MINECRAFT_LADDER, meta, ADVICE),
        fps=MineRLEnvironment.fps,
        episodes=config.episodes,
        max_steps=config.max_steps,
        num_envs=config.num_envs,
        processes=config.num_envs,
        attempts=config.attempts,
        films=config.films,
        options=options,
        rules={"frame_size": list(options.size), "fit": options.fit},
    )


def _contender(name: AgentName, config: EvaluateMinecraft, meta: DatasetMeta, course: Course) -> Contender:
    if name == "random":
        return Contender(RandomPolicy(MINECRAFT), "random")
    run: Path = getattr(config, name)
    return trained(run, config.tokenizer, meta, config.data, numbers=course.numbers, compile=config.compile)


def _fit_of(data: Path) -> Fit:
    """As the recordings came to their size; padded where nobody wrote it down."""
    path = data.parent / "import.json"
    fit: Fit = read_json(path)["settings"].get("fit", "pad") if path.exists() else "pad"
    return fit


SIZES: dict[str, dict[str, Any]] = {
    "debug": {"episodes": 1, "num_envs": 1, "max_steps": 20, "compile": False},
    "laptop": {"episodes": 20, "num_envs": 1},
    "base": {"episodes": 100, "num_envs": 4},
    "dreamer4": {"episodes": 1000, "num_envs": 8, "films": 50},
}
PRESETS = {
    name: EvaluateMinecraft(
        run=Path(f"runs/{name}/minecraft"),
        data=Path(f"runs/{name}/data/train"),
        tokenizer=Path(f"runs/{name}/tokenizer"),
        cloned=Path(f"runs/{name}/agent"),
        imagined=Path(f"runs/{name}/imagination"),
        bc_scratch=Path(f"runs/{name}/bc_scratch"),
        **sizes,
    )
    for name, sizes in SIZES.items()
}

if __name__ == "__main__":
    main(PRESETS, evaluate_minecraft, description=__doc__, processes="first")
