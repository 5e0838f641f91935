"""Episodes on a ladder, in any environment: the agent is told a task, and another one once it is done.

What happened is in an arrival's `info["events"]`, as counts by name, those of tasks among them; an environment whose
events come one at a time need not say so: each of its tasks then pays 1 at its event, and nothing else.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from agent.acting import Policy, TaskPolicy
from agent.envs.base import FAILURE, Arrival
from agent.envs.vector import VectorEnv
from agent.ladder import Climb, Ladder
from agent.milestones import Ascent, Ending

STARTS = 3
"""Games that may break before their first step while none has come further: then it is the machine, not a world."""


class NoGameStarts(ValueError):
    pass


@runtime_checkable
class Witness(Protocol):
    """Hears of all episodes as they are played."""

    def see(self, seed: int, arrival: Arrival) -> None:
        """Each arrival of an episode; one that begins again does so with its first."""
        ...

    def end(self, ascent: Ascent) -> None:
        """An episode that counts, as soon as it is over; of one whose game broke, as soon as it is known to count."""
        ...

    def stopped(self) -> bool:
        """Whether to give up the episodes that are under way."""
        ...


def evaluate_ladder(
    policy: Policy,
    envs: VectorEnv,
    ladder: Ladder,
    seeds: Sequence[int],
    witness: Witness,
    *,
    numbers: Mapping[str, int],
    max_steps: int,
    attempts: int = 3,
    started: bool = False,
) -> None:
    """One episode from each seed, side by side, until the game ends or after `max_steps` actions.

    An episode whose game breaks is played anew from its seed, once all others are over; after so many attempts it
    counts as failed. `numbers` are those by which the policy knows the ladder's tasks, `started` whether games of
    other seeds came further before. Raises ValueError where there are fewer seeds than environments, and NoGameStarts
    where the games of `STARTS` seeds in a row, or of all seeds, broke before their first step: none of them counts.
    """
    if len(seeds) < envs.num_envs or attempts < 1 or max_steps < 1:
        raise ValueError(
            f"{len(seeds)} seeds for {envs.num_envs} environments, attempts={attempts}, max_steps={max_steps}: needs "
            "a seed for each environment, at least one attempt and one step"
        )
    waiting = deque((seed, 1) for seed in seeds)
    begun = 0
    dead: set[int] = set()
    """Seeds whose games broke at once, since the last one that came further."""
    lost: list[Climber] = []
    while waiting and not witness.stopped():
        batch = [waiting.popleft() for _ in range(min(envs.num_envs, len(waiting)))]
        climbers = [Climber(ladder, seed, attempt) for seed, attempt in batch]
        _play(policy, envs, climbers, witness, numbers, max_steps)
        broken = [climber for climber in climbers if climber.ended == "failed"]
        waiting.extend((climber.seed, climber.attempt + 1) for climber in broken if climber.attempt < attempts)
        lost += [climber for climber in broken if climber.attempt == attempts]
        begun += len(climbers)
        moved = any(climber.steps for climber in climbers)
        started = started or moved
        dead = set() if moved else dead | {climber.seed for climber in broken}
        if len(dead) >= STARTS or not started and broken and (begun >= STARTS or not waiting):
            raise NoGameStarts(f"no game starts{' any more' if started else ''}: {broken[0].reason}")
        while lost and started and (moved or not waiting):
            witness.end(lost.pop(0).ascent())


class Climber:
    """One attempt at an episode."""

    def __init__(self, ladder: Ladder, seed: int, attempt: int) -> None:
        self.climb, self.seed, self.attempt = Climb(ladder), seed, attempt
        self.steps = 0
        self.ended: Ending | None = None
        self.reason = ""

    def take(self, arrival: Arrival, task_names: Sequence[str], max_steps: int) -> bool:
        """Takes in what arrived; says whether there is another task to tell."""
        self.steps += not arrival.is_first
        if FAILURE in arrival.info:
            self.ended, self.reason = "failed", str(arrival.info[FAILURE])
            return False
        changed = self.climb.see(happened(arrival, task_names), self.steps)
        if not arrival.continues:
            self.ended = "death"
        elif arrival.is_last or self.steps >= max_steps:
            self.ended = "time"
        return changed

    def ascent(self) -> Ascent:
        assert self.ended is not None
        climb = self.climb
        return Ascent(
            seed=self.seed,
            steps=self.steps,
            ended=self.ended,
            attempts=self.attempt,
            reason=self.reason,
            rung=climb.rung,
            reached=climb.reached,
        )


def happened(arrival: Arrival, task_names: Sequence[str]) -> Mapping[str, int]:
    """How often each task's event happened in the step to this arrival."""
    if "events" in arrival.info:
        events: Mapping[str, int] = arrival.info["events"]
        return events
    rewards = arrival.task_rewards or (arrival.reward,)
    return {name: round(reward) for name, reward in zip(task_names, rewards, strict=True) if reward > 0}


def _play(
    policy: Policy,
    envs: VectorEnv,
    climbers: Sequence[Climber],
    witness: Witness,
    numbers: Mapping[str, int],
    max_steps: int,
) -> None:
    """Until the last of them has ended; who ended before stands still."""
    policy.reset(climbers[0].seed)
    envs.stop(range(len(climbers), envs.num_envs))
    first = envs.reset_some({place: climber.seed for place, climber in enumerate(climbers)})
    arrivals = first + first[:1] * (envs.num_envs - len(first))  # the policy acts for as many as ever
    changed = True
    while True:
        for place, climber in enumerate(climbers):
            if climber.ended is not None:
                continue
            witness.see(climber.seed, arrivals[place])
            changed |= climber.take(arrivals[place], envs.task_names, max_steps)
            if climber.ended is not None:
                envs.stop([place])
                if climber.ended != "failed":
                    witness.end(climber.ascent())
        if witness.stopped() or all(climber.ended is not None for climber in climbers):
            return
        if changed and isinstance(policy, TaskPolicy):
            told = [numbers[climber.climb.task] for climber in climbers]
            policy.tell(told + [told[0]] * (envs.num_envs - len(told)))
            changed = False
        arrivals = envs.step(np.asarray(policy.act(arrivals)))
