"""Ladders of tasks: what an agent is told to do next, and which milestones an episode reached (Dreamer 4, sec. 4).

A ladder is told what happened in each step, as counts by the names of events, and goes on to its next task once the
current one has happened so many times. Which game it belongs to is data.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Rung(NamedTuple):
    task: str
    times: int | None
    """Its event has to happen until the next task is told; without end where None."""


@dataclass(frozen=True, kw_only=True)
class Ladder:
    rungs: tuple[Rung, ...]
    milestones: Mapping[str, str]
    """Name -> the event whose first time reaches it: a task's, or another of the game."""
    counts_all: bool = False
    """Whether what happened in the episode before a rung was told counts for it as well."""

    def __post_init__(self) -> None:
        for place, (task, times) in enumerate(self.rungs, start=1):
            if times is None and place < len(self.rungs) or times is not None and times < 1:
                raise ValueError(f"rung {place} asks for {task} {times} times: only the last one may be without end")
        if not self.rungs:
            raise ValueError("a ladder needs at least one rung")

    @property
    def rules(self) -> str:
        """What is told and when, in one line: episodes by the same rules may stand in one table."""
        told = ", ".join(f"{times or 'endlessly'} x {task}" for task, times in self.rungs)
        return f"{told}; {'all' if self.counts_all else 'what was told'} counts"

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task that may be told, once."""
        return tuple(dict.fromkeys(rung.task for rung in self.rungs))

    @property
    def events(self) -> tuple[str, ...]:
        """Every task that may be told and every event that reaches a milestone, once."""
        return tuple(dict.fromkeys([*self.tasks, *self.milestones.values()]))


class Climb:
    """One episode on a ladder."""

    def __init__(self, ladder: Ladder) -> None:
        self.ladder = ladder
        self.rung = 0
        """Number of the current rung."""
        self.counts: Counter[str] = Counter()
        """Of the events that count for it."""
        self.reached: dict[str, int] = {}
        """Milestone -> the step at which it was first reached."""

    @property
    def task(self) -> str:
        return self.ladder.rungs[self.rung].task

    def see(self, events: Mapping[str, int], step: int) -> bool:
        """Takes in what happened in a step; says whether another task is current now.

        Where only what was told counts a step finishes one rung at most: what it brought beyond that was not asked for.
        The last rung stays.
        """
        before, last = self.task, len(self.ladder.rungs) - 1
        for milestone, event in self.ladder.milestones.items():
            if events.get(event, 0) > 0:
                self.reached.setdefault(milestone, step)
        self.counts.update(events)
        while self.rung < last and self.counts[self.task] >= (self.ladder.rungs[self.rung].times or 0):
            self.rung += 1
            if not self.ladder.counts_all:
                self.counts.clear()
        return self.task != before


def increases(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """How far each counter of a game rose; one that fell, as after a death, did not."""
    return {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}


MINECRAFT_LADDER = Ladder(
    rungs=(
        Rung("mine_log", 10),
        Rung("craft_planks", 20),
        Rung("craft_crafting_table", 1),
        Rung("place_crafting_table", 1),
        Rung("craft_stick", 4),
        Rung("craft_wooden_pickaxe", 1),
        Rung("use_wooden_pickaxe", 1),
        Rung("mine_cobblestone", 3),
        Rung("craft_planks", 4),
        Rung("craft_crafting_table", 1),
        Rung("place_crafting_table", 1),
        Rung("craft_stick", 4),
        Rung("craft_stone_pickaxe", 1),
        Rung("use_stone_pickaxe", 1),
        Rung("mine_iron_ore", 3),
        Rung("mine_cobblestone", 8),
        Rung("craft_planks", 4),
        Rung("craft_crafting_table", 1),
        Rung("place_crafting_table", 1),
        Rung("craft_furnace", 1),
        Rung("craft_iron_ingot", 3),
        Rung("craft_stick", 2),
        Rung("craft_iron_pickaxe", 1),
        Rung("use_iron_pickaxe", 1),
        Rung("mine_diamond", None),
    ),
    milestones={
        "log": "mine_log",
        "planks": "craft_planks",
        "stick": "craft_stick",
        "crafting table": "craft_crafting_table",
        "wooden pickaxe": "craft_wooden_pickaxe",
        "cobblestone": "obtain_cobblestone",
        "stone pickaxe": "craft_stone_pickaxe",
        "iron ore": "obtain_iron_ore",
        "furnace": "craft_furnace",
        "iron ingot": "craft_iron_ingot",
        "iron pickaxe": "craft_iron_pickaxe",
        "diamond": "obtain_diamond",
    },
)
"""Counts are of items: a log gives four planks. Each crafting table is made anew where it is needed. Milestones are
what was obtained: ore that the wrong tool breaks is mined, and gives nothing."""

CRAFTER_LADDER = Ladder(
    rungs=(
        Rung("collect_wood", 5),
        Rung("place_table", 1),
        Rung("make_wood_pickaxe", 1),
        Rung("collect_stone", 5),
        Rung("make_stone_pickaxe", 1),
        Rung("collect_coal", 1),
        Rung("place_furnace", 1),
        Rung("collect_iron", 1),
        Rung("make_iron_pickaxe", 1),
        Rung("collect_diamond", None),
    ),
    milestones={
        event: event
        for event in (
            *("collect_wood", "place_table", "make_wood_pickaxe", "collect_stone", "make_stone_pickaxe"),
            *("collect_coal", "place_furnace", "collect_iron", "make_iron_pickaxe", "collect_diamond"),
            *("collect_drink", "collect_sapling", "defeat_skeleton", "defeat_zombie", "eat_cow", "eat_plant"),
            *("make_iron_sword", "make_stone_sword", "make_wood_sword", "place_plant", "place_stone", "wake_up"),
        )
    },
    counts_all=True,
)
"""The counts are what later rungs use up: 2 wood for the table and 1 for each pickaxe; 4 stone for the furnace, 1 for
the stone pickaxe. The bag holds 9 of each. Nothing need be made twice: who set up a table while gathering wood is not
told to set up another. Milestones are all of the game's achievements, those of the rungs first."""
