"""What a set of episodes on a ladder says: how often each milestone was reached, how surely, and how fast."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from agent.ladder import Ladder

Z = 1.959964  # the normal distribution's 97.5th percentile

Ending = Literal["time", "death", "failed"]
"""By the time limit, by the game's own end, or because the game broke."""


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """One episode on a ladder."""

    seed: int
    steps: int
    ended: Ending
    attempts: int
    """How often it was begun: a game that breaks is played again from its seed."""
    reason: str = ""
    """Why the game broke the last time."""
    rung: int
    """Number of the rung that it came to, from 0."""
    reached: dict[str, int] = field(default_factory=dict)
    """Milestone -> step."""


def table(ascents: Sequence[Ascent], ladder: Ladder, *, fps: float) -> dict[str, Any]:
    """Milestones with their share of all episodes, its 95 % interval (Wilson), and the median time of those that did.

    An episode whose game broke each time counts as one that reached nothing. `told` says of each rung how many
    episodes came to it.
    """
    whole = [ascent for ascent in ascents if ascent.ended != "failed"]
    return {
        "episodes": len(ascents),
        "ended": {**dict.fromkeys(("time", "death", "failed"), 0), **Counter(ascent.ended for ascent in ascents)},
        "broken_games": sum(ascent.attempts - (ascent.ended != "failed") for ascent in ascents),
        "reasons": dict(Counter(ascent.reason for ascent in ascents if ascent.reason)),
        "told": [sum(ascent.rung >= rung for ascent in whole) for rung in range(len(ladder.rungs))],
        "milestones": {
            name: _row([a.reached[name] for a in whole if name in a.reached], len(ascents), fps)
            for name in ladder.milestones
        },
    }


def crafter_score(rates: Sequence[float]) -> float:
    """Of success rates in [0, 1], in percent: their geometric mean, by which rare successes count for more (Hafner
    2021, sec. 4.2)."""
    return math.expm1(sum(math.log1p(100 * rate) for rate in rates) / len(rates))


def _row(steps: Sequence[int], episodes: int, fps: float) -> dict[str, Any]:
    return {
        "reached": len(steps),
        "rate": len(steps) / episodes if episodes else None,
        "ci95": list(wilson(len(steps), episodes)),
        "median_steps": median(steps) if steps else None,
        "median_minutes": median(steps) / fps / 60 if steps else None,
    }


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a probability; all of it where nothing was tried."""
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    if not trials:
        return 0.0, 1.0
    share, weight = successes / trials, Z * Z / trials
    middle = (share + weight / 2) / (1 + weight)
    half = Z / (1 + weight) * math.sqrt(share * (1 - share) / trials + weight / trials / 4)
    return max(0.0, middle - half), min(1.0, middle + half)
