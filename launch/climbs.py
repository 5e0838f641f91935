"""Episodes on a ladder as commands play them: each is kept as soon as it is over, filmed, and never played again."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from agent.acting import Policy
from agent.climbing import evaluate_ladder
from agent.envs.base import FAILURE, Arrival
from agent.envs.vector import VectorEnv
from agent.ladder import Ladder
from agent.milestones import Ascent, Ending, table
from agent.seeds import EVALUATION_TRACKS
from launch.interrupt import Interrupts
from launch.memory import fits
from launch.models import agent_checkpoint, identity, load_policy
from launch.run_folder import alone_in, write_json
from tokenizer.shard_format import DatasetMeta, read_json
from tokenizer.video import Film

SECONDS_BETWEEN_LINES = 60.0


class Keeper:
    """What one agent played: FOLDER/episodes/SEED.json, beside FOLDER/videos/SEED.mp4 of the first `films` seeds."""

    def __init__(
        self,
        folder: Path,
        made_by: Mapping[str, Any],
        seeds: range,
        *,
        attempts: int,
        fps: float,
        films: int | None,
        interrupts: Interrupts,
    ) -> None:
        self.folder, self.made_by, self.seeds, self.fps = folder, dict(made_by), seeds, fps
        self.attempts = attempts
        self.filmed = seeds if films is None else seeds[:films]
        self.interrupts = interrupts
        self.ascents = {seed: ascent for seed in seeds if (ascent := self._kept(seed)) is not None}
        self._films: dict[int, Film | None] = {}
        """None: whole, of an episode whose game broke, and which may be begun anew."""
        self._steps, self._began, self._said = 0, time.monotonic(), time.monotonic()

    @property
    def missing(self) -> list[int]:
        return [seed for seed in self.seeds if seed not in self.ascents]

    def _kept(self, seed: int) -> Ascent | None:
        """Of an earlier run, where the same agent played by the same rules; who failed may have more attempts now."""
        path = self._place(seed, "episodes", "json")
        kept = read_json(path) if path.exists() else {}
        if kept.get("made_by") != self.made_by:
            return None
        ascent = Ascent(**kept["ascent"])
        return None if ascent.ended == "failed" and ascent.attempts < self.attempts else ascent

    def _place(self, seed: int, kind: str, suffix: str) -> Path:
        return self.folder / kind / f"{seed:08d}.{suffix}"

    def see(self, seed: int, arrival: Arrival) -> None:
        self._steps += 1
        if seed in self.filmed:
            self._film(seed, arrival)
        if time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            rate = self._steps / (self._said - self._began)
            print(f"{self.folder.name}: {self._steps} steps, {rate:.1f} a second, {len(self.missing)} episodes left")

    def _film(self, seed: int, arrival: Arrival) -> None:
        path = self._unfinished(seed)
        if arrival.is_first:
            self._give_up(seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            _, height, width = arrival.frame.shape
            self._films[seed] = Film(path, (height, width), self.fps, crf=28)
        film = self._films[seed]
        assert film is not None
        film.add(arrival.frame)
        if FAILURE in arrival.info:  # it may be long until it is begun anew
            film.close()
            self._films[seed] = None

    def _unfinished(self, seed: int) -> Path:
        return self._place(seed, "videos", "mp4.part")

    def _give_up(self, seed: int) -> None:
        if seed in self._films:
            self._finish(seed)
            self._unfinished(seed).unlink()

    def _finish(self, seed: int) -> None:
        film = self._films.pop(seed)
        if film is not None:
            film.close()

    def end(self, ascent: Ascent) -> None:
        if ascent.seed in self._films:
            self._finish(ascent.seed)
            os.replace(self._unfinished(ascent.seed), self._place(ascent.seed, "videos", "mp4"))
        write_json(self._place(ascent.seed, "episodes", "json"), {"made_by": self.made_by, "ascent": asdict(ascent)})
        self.ascents[ascent.seed] = ascent
        last = max(ascent.reached, key=lambda name: ascent.reached[name], default="nothing")
        why = f" ({ascent.reason})" if ascent.ended == "failed" else ""
        words: dict[Ending, str] = {"time": "time was up", "death": "the game ended", "failed": "the game broke"}
        print(
            f"{self.folder.name}: episode {ascent.seed} came to {last} in {ascent.steps} steps, then "
            f"{words[ascent.ended]}{why}",
            flush=True,
        )

    def stopped(self) -> bool:
        return bool(self.interrupts.received)

    def close(self) -> None:
        """Gives up what is under way."""
        for seed in list(self._films):
            self._give_up(seed)


@dataclass(frozen=True, kw_only=True)
class Course:
    """What all agents of a table play."""

    environment: str
    ladder: Ladder
    numbers: Mapping[str, int]
    """Those by which agents know the ladder's tasks."""
    fps: float
    episodes: int
    max_steps: int
    num_envs: int
    processes: int
    attempts: int = 1
    """How often an episode whose game broke is begun."""
    films: int | None = None
    """Episodes that are filmed, the first of them; all where not given."""
    options: object | None = None
    """Of the environment (see `agent.envs.registry.make_env`)."""
    rules: Mapping[str, Any] = field(default_factory=dict)
    """What else must be the same for an episode to count."""
    scores: Mapping[str, Callable[[Sequence[float]], float]] = field(default_factory=dict)
    """Name -> what is made of the milestones' rates, and stands in an agent's row."""

    def __post_init__(self) -> None:
        for name in ("episodes", "max_steps", "num_envs", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}, needs at least 1")
        for name in ("films", "processes"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}={value} must not be negative")


class Contender(NamedTuple):
    policy: Policy
    model: str
    """Names it: an agent of another name plays anew."""


def trained(
    run: Path, tokenizer: Path, meta: DatasetMeta, data: Path, *, numbers: Mapping[str, int], compile: bool
) -> Contender:
    """The agent of a run; `numbers` are those of the ladder's tasks. Raises ValueError as `load_policy`."""
    policy = load_policy(run, tokenizer, meta, data, told=numbers, compile=compile)
    return Contender(policy, identity(agent_checkpoint(run)))


def climb(run: Path, contenders: Mapping[str, Contender], course: Course, json: Path | None) -> dict[str, Any]:
    """Plays what is missing of each agent's episodes; the rows of the table, which RUN/results.json and `json` get.

    Rows of agents that are not asked for now stay, as long as their episodes were as long, on the same ladder.
    """
    path = run / "results.json"
    with alone_in(run):
        rows = read_json(path) if path.exists() else {}
        if not all(isinstance(row, dict) and "max_steps" in row for row in rows.values()):
            raise ValueError(f"{path} is of another command: name another folder with --run")
        rules = {"ladder": course.ladder.rules, "max_steps": course.max_steps}
        results = {name: row for name, row in rows.items() if rules.items() <= row.items()}
        for name, contender in contenders.items():
            ascents = _ascents(run / name, contender, course)
            row = table(ascents, course.ladder, fps=course.fps)
            rates = [found["rate"] for found in row["milestones"].values()]
            scores = {score: of(rates) for score, of in course.scores.items()}
            results[name] = {**row, **scores, **rules, "model": contender.model}
            for file in filter(None, (path, json)):
                write_json(file, results)
    return results


def _ascents(folder: Path, contender: Contender, course: Course) -> list[Ascent]:
    seeds = range(EVALUATION_TRACKS, EVALUATION_TRACKS + course.episodes)
    made_by = {
        "model": contender.model,
        "environment": course.environment,
        "ladder": course.ladder.rules,
        "max_steps": course.max_steps,
        **course.rules,
    }
    with Interrupts() as interrupts:
        keeper = Keeper(
            folder,
            made_by,
            seeds,
            attempts=course.attempts,
            fps=course.fps,
            films=course.films,
            interrupts=interrupts,
        )
        if keeper.missing:
            _play(contender.policy, keeper, course)
        if interrupts.received:
            raise KeyboardInterrupt
    return [keeper.ascents[seed] for seed in seeds]


def _play(policy: Policy, keeper: Keeper, course: Course) -> None:
    count = min(course.num_envs, len(keeper.missing))
    with (
        fits(f"{count} episodes side by side", "lower --num-envs; episodes that are there are kept"),
        VectorEnv(
            course.environment,
            num_envs=count,
            processes=min(count, course.processes),
            stock=True,
            action_repeat=1,
            options=course.options,
        ) as envs,
    ):
        try:
            evaluate_ladder(
                policy,
                envs,
                course.ladder,
                keeper.missing,
                keeper,
                numbers=course.numbers,
                max_steps=course.max_steps,
                attempts=course.attempts,
                started=any(ascent.ended != "failed" for ascent in keeper.ascents.values()),
            )
        finally:
            keeper.close()


def task_numbers(ladder: Ladder, meta: DatasetMeta, advice: str) -> dict[str, int]:
    """The ladder's tasks by their numbers in the data. Raises ValueError with this advice where one is missing."""
    missing = [task for task in ladder.tasks if task not in meta.tasks]
    if missing:
        raise ValueError(
            f"the data know no task {missing[0]!r}, which the ladder tells, only {', '.join(meta.tasks)}: {advice}"
        )
    return {task: meta.tasks.index(task) for task in ladder.tasks}


def show(results: Mapping[str, Any], ladder: Ladder, others: Mapping[str, Mapping[str, float]], title: str) -> None:
    """The table for people: percent of episodes with its interval and median minutes, beside what others report."""
    table = Table(title=title)
    table.add_column("milestone")
    for name, row in results.items():
        table.add_column(f"{name}\n{row['episodes']} episodes", justify="right")
    for name in others:
        table.add_column(name, justify="right")
    for milestone in ladder.milestones:
        ours = [_cell(row["milestones"][milestone]) for row in results.values()]
        theirs = [f"{shares[milestone]:.1f}" if milestone in shares else "" for shares in others.values()]
        table.add_row(milestone, *ours, *theirs)
    console = Console()
    console.print(table)
    for name, row in results.items():
        told = [f"{rung.task} in {count}" for rung, count in zip(ladder.rungs, row["told"], strict=True) if count]
        console.print(f"{name} was told {', '.join(told) or 'nothing'}", soft_wrap=True)
        if row["broken_games"]:
            why = ", ".join(f"{count} x {reason}" for reason, count in row["reasons"].items())
            console.print(
                f"{name}: games broke {row['broken_games']} times, {row['ended']['failed']} of {row['episodes']} "
                f"episodes each time they were begun ({why}): these count as episodes that reached nothing",
                soft_wrap=True,
            )


def _cell(row: Mapping[str, Any]) -> str:
    if row["rate"] is None:
        return ""
    low, high = row["ci95"]
    minutes = "" if row["median_minutes"] is None else f", {row['median_minutes']:.1f} min"
    return f"{100 * row['rate']:.1f} [{100 * low:.1f}, {100 * high:.1f}]{minutes}"
