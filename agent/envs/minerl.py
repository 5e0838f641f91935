"""MineRL 1.0 as an `Environment`: Minecraft by keys and mouse, 20 steps a second, in an interpreter of its own.

`MineRLHumanSurvival-v0` pays each of the 20 tasks of `agent.envs.minecraft_events` 1 at its event, and tells in
`info["events"]` how many items it was; `MineRLObtainDiamondShovel-v0` pays as MineRL does. Death ends an episode, and
so does the shovel; a time limit does not: `continues` stays true.

A game that hangs or dies is killed and begun anew at the next reset. The episode that it broke off ends with an arrival
that is the last, goes on as far as anyone knows, and says why under `FAILURE` in its info.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from numpy.typing import NDArray

from agent.envs.base import FAILURE, Arrival, checked_row
from agent.envs.minecraft_actions import MINECRAFT, MINERL_NAMES, to_minerl
from agent.envs.minecraft_events import COUNTERS, TASKS, events
from agent.envs.minerl_game import Game, GameFailed
from tokenizer.video import Fit, fitted

SHAPE = (360, 640, 3)
GameName = Literal["MineRLHumanSurvival-v0", "MineRLObtainDiamondShovel-v0"]
TASKS_OF: dict[str, tuple[str, ...]] = {
    "MineRLHumanSurvival-v0": TASKS,
    "MineRLObtainDiamondShovel-v0": ("obtain_diamond_shovel",),
}
ADVICE = "`python -m launch.doctor --setup minerl` says what is missing, and docs/minerl.md how to get it"


@dataclass(frozen=True, kw_only=True)
class MineRLOptions:
    python: Path
    """Interpreter that has minerl."""
    size: tuple[int, int] = SHAPE[:2]
    """Height and width of the frames."""
    fit: Fit = "pad"
    """How a frame comes to this size; as it did in what the agent was trained on."""
    start_seconds: float = 600.0
    """For Minecraft to start and to make a world."""
    step_seconds: float = 120.0
    tries: int = 3
    """Starts of the game for one reset, before it counts as broken."""

    def __post_init__(self) -> None:
        if min(*self.size, self.start_seconds, self.step_seconds, self.tries) <= 0:
            raise ValueError(f"{self}: sizes, seconds and tries must be positive")


class MineRLEnvironment:
    """One game, in a process of its own."""

    action_space = MINECRAFT
    fps = 20.0

    def __init__(self, name: str, options: MineRLOptions) -> None:
        """Raises ValueError for an interpreter that cannot run MineRL. Minecraft itself starts at the first reset."""
        self.name, self.options = name, options
        self.task_names = TASKS_OF[name]
        self.frame_shape = (3, *options.size)
        self._running = False
        self._last = Arrival.first(MINECRAFT, np.zeros(self.frame_shape, np.uint8), {}, num_tasks=len(self.task_names))
        try:
            self._game: Game | None = self._start()
        except GameFailed as failed:
            lacks = f"lacks the package {failed.missing}" if failed.missing else f"does not start MineRL: {failed}"
            raise ValueError(f"the interpreter {options.python} {lacks}; {ADVICE}") from failed
        except OSError as error:
            raise ValueError(f"{options.python} is no interpreter that runs ({error.strerror}); {ADVICE}") from error

    def _start(self) -> Game:
        options = self.options
        counters = COUNTERS if self.task_names == TASKS else ()
        game = Game(options.python, self.name, SHAPE, counters, seconds=options.start_seconds)
        known, found = {*MINERL_NAMES.values(), "camera"}, set(game.facts["actions"])
        if known != found:
            game.close()
            raise GameFailed(f"it has other actions: lacks {sorted(known - found)}, new are {sorted(found - known)}")
        return game

    def reset(self, seed: int) -> Arrival:
        """A new world; MineRL makes the same one of the same seed. Where no game starts, the arrival is the last."""
        failed = ""
        for _ in range(self.options.tries):
            try:
                self._game = self._game or self._start()
                told = self._game.ask({"do": "reset", "seed": seed}, seconds=self.options.start_seconds)
            except (GameFailed, OSError) as error:  # the latter where memory, disk or handles are short
                failed = str(error)
                self.close()
                continue
            self._counters: dict[str, int] = {}
            self._count(told)
            self._running = True
            self._last = Arrival.first(MINECRAFT, self._frame(self._game), {}, num_tasks=len(self.task_names))
            return self._last
        self._running = False
        return replace(
            Arrival.first(MINECRAFT, self._last.frame, {FAILURE: failed}, num_tasks=len(self.task_names)), is_last=True
        )

    def step(self, action_row: NDArray[Any]) -> Arrival:
        row = checked_row(MINECRAFT, action_row)
        if not self._running or self._game is None:
            raise RuntimeError("no episode is under way: call reset(seed) first")
        action = to_minerl(row)
        order = {"do": "step", "action": {**action, "camera": action["camera"].tolist()}}
        try:
            told = self._game.ask(order, seconds=self.options.step_seconds)
        except GameFailed as failed:
            self.close()
            return self._broken(row, str(failed))
        self._last = self._arrival(row, told, self._game)
        self._running = not self._last.is_last
        return self._last

    def _arrival(self, row: NDArray[np.float32], told: Mapping[str, Any], game: Game) -> Arrival:
        happened = self._count(told)
        paid = tuple(float(happened.get(task, 0) > 0) for task in TASKS)
        timed_out = told["done"] and _timed_out(told, game.facts["limit"])
        survival = self.task_names == TASKS
        return Arrival.after(
            row,
            self._frame(game),
            paid[0] if survival else told["reward"],
            {"events": happened} if survival else {},
            terminated=told["done"] and not timed_out,
            truncated=timed_out,
            task_rewards=paid if survival else (told["reward"],),
        )

    def _broken(self, row: NDArray[np.float32], reason: str) -> Arrival:
        nothing = (0.0,) * len(self.task_names)
        return Arrival.after(
            row, self._last.frame, 0.0, {FAILURE: reason}, terminated=False, truncated=True, task_rewards=nothing
        )

    def _count(self, told: Mapping[str, Any]) -> dict[str, int]:
        """The events since the state before."""
        before, self._counters = self._counters, {**self._counters, **told["counters"]}
        return events(before, self._counters)

    def _frame(self, game: Game) -> NDArray[np.uint8]:
        """A copy: the game draws the next one into the same memory."""
        picture = fitted(av.VideoFrame.from_ndarray(game.pixels, format="rgb24"), self.options.size, self.options.fit)
        return np.array(picture.transpose(2, 0, 1), order="C")

    def close(self) -> None:
        self._running = False
        if self._game is not None:
            self._game.close()
            self._game = None


def _timed_out(told: Mapping[str, Any], limit: int | None) -> bool:
    """gym's clock knows, where it ran out; that of a task leaves only the count of steps."""
    if told["timed_out"] is not None:
        return bool(told["timed_out"])
    return limit is not None and bool(told["steps"] >= limit)
