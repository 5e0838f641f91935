"""Judge agents in Crafter as in Minecraft: worlds that no training used, told one task after another, up to a diamond.

    python -m launch.evaluate_crafter crafter
    python -m launch.evaluate_crafter crafter --agents random expert --episodes 100

The success rates of the ladder's tasks and of the game's other achievements are counted with their times, and make up
the Crafter score. `expert` is a script that acts by what the frames show, `random` any action: they need no training.
Each episode is kept in the run's folder as soon as it is over, so an interrupted command goes on. Needs Crafter:
pip install crafter numba.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agent.acting import RandomPolicy
from agent.crafter_drivers import ExpertPolicy
from agent.envs.base import Environment
from agent.envs.registry import make_env
from agent.ladder import CRAFTER_LADDER
from agent.milestones import crafter_score
from dynamics.actions import ActionSpace
from launch.climbs import Contender, Course, climb, show, task_numbers, trained
from launch.command import main
from launch.training import open_dataset
from tokenizer.shard_format import DatasetMeta

GAME = "Crafter"
COLLECT = "`python -m launch.collect crafter` makes such data"
ADVICE = "give data that were collected with --every-task"
SCRIPTS = ("random", "expert")
EXPERT = "expert 1"
"""Names the script: a change of how it plays asks for another number."""
AgentName = Literal["random", "expert", "bc_scratch", "cloned", "imagined"]


@dataclass(frozen=True, kw_only=True)
class EvaluateCrafter:
    run: Path
    """Folder that gets the episodes, the videos and results.json."""
    data: Path
    """Folder of the training shards: says which number each task has. Random and expert play without."""
    tokenizer: Path
    bc_scratch: Path
    cloned: Path
    imagined: Path
    agents: tuple[AgentName, ...] = ("random", "expert", "bc_scratch", "cloned", "imagined")
    episodes: int = 100
    """Of each agent; all agents get the same worlds."""
    max_steps: int = 10_000
    """Actions after which an episode is cut; the game itself cuts it after 10,000."""
    num_envs: int = 10
    """Games side by side."""
    processes: int = 2
    """Processes that step them; 0 steps them in the command's own."""
    films: int | None = 4
    """Episodes that are filmed, the first of them."""
    compile: bool = True
    json: Path | None = None
    """Also write the results here."""


def evaluate_crafter(config: EvaluateCrafter) -> None:
    env = make_env(GAME, stock=True, action_repeat=1)
    trained = [name for name in config.agents if name not in SCRIPTS]
    meta = _data(config, env) if trained else None
    course = Course(
        environment=GAME,
        ladder=CRAFTER_LADDER,
        numbers={} if meta is None else task_numbers(CRAFTER_LADDER, meta, ADVICE),
        fps=env.fps,
        episodes=config.episodes,
        max_steps=config.max_steps,
        num_envs=config.num_envs,
        processes=config.processes,
        films=config.films,
        scores={"crafter_score": crafter_score},
    )
    # All before the first is played: a wrong folder must not come to light after an hour of the others' episodes.
    contenders: dict[str, Contender] = {
        name: _contender(name, config, env.action_space, meta, course) for name in config.agents
    }
    results = climb(config.run, contenders, course, config.json)
    show(results, CRAFTER_LADDER, {}, "Percent of episodes in Crafter that reached it")
    print("Crafter score: " + ", ".join(f"{name} {row['crafter_score']:.1f} %" for name, row in results.items()))
    print(f"results in {config.run / 'results.json'}")


def _data(config: EvaluateCrafter, env: Environment) -> DatasetMeta:
    meta = open_dataset(config.data, "frames").meta
    if ActionSpace.from_json(meta.action_space) != env.action_space:
        raise ValueError(f"{config.data} has other actions than Crafter: {COLLECT}")
    if meta.frame_size != env.frame_shape[1:]:
        size, own = ("x".join(map(str, pixels)) for pixels in (meta.frame_size, env.frame_shape[1:]))
        raise ValueError(f"{config.data} has frames of {size}, and Crafter makes frames of {own} here: {COLLECT}")
    return meta


def _contender(
    name: AgentName, config: EvaluateCrafter, space: ActionSpace, meta: DatasetMeta | None, course: Course
) -> Contender:
    if name == "random":
        return Contender(RandomPolicy(space), "random")
    if name == "expert":
        return Contender(ExpertPolicy(), EXPERT)
    assert meta is not None
    run: Path = getattr(config, name)
    return trained(run, config.tokenizer, meta, config.data, numbers=course.numbers, compile=config.compile)


SIZES: dict[str, dict[str, Any]] = {
    "crafter_debug": {"episodes": 2, "num_envs": 2, "processes": 0, "max_steps": 20, "compile": False},
    "crafter": {},
}
PRESETS = {
    name: EvaluateCrafter(
        run=Path(f"runs/{name}/evaluation"),
        data=Path(f"runs/{name}/data/train"),
        tokenizer=Path(f"runs/{name}/tokenizer"),
        bc_scratch=Path(f"runs/{name}/bc_scratch"),
        cloned=Path(f"runs/{name}/agent"),
        imagined=Path(f"runs/{name}/imagination"),
        **sizes,
    )
    for name, sizes in SIZES.items()
}

if __name__ == "__main__":
    main(PRESETS, evaluate_crafter, description=__doc__, processes="first")
