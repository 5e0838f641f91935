"""The environment interface, in the house's time convention.

An `Arrival` is what index t of an episode holds: the frame x_t and what came with it (see `tokenizer.records`).
Adapters convert their game's own convention at this edge; nothing above them sees another one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dynamics.actions import ActionSpace

RESTING = ("brake",)
"""Continuous parts that rest at -1, in whatever game has them: around 0 a car would stand on its brake."""
FAILURE = "failure"
"""In the info of an arrival that is the last because the game broke, not because the episode ended: why."""
OVERSHOOT = 1e-4  # a policy's float arithmetic may leave [-1, 1] by this much


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A frame and what arrived with it."""

    frame: NDArray[np.uint8]
    """RGB, [c, h, w]."""
    action: NDArray[np.float32]
    """The flat action row [a] that led here; zeros on the first frame."""
    labeled: bool
    """Whether `action` is known; false on the first frame."""
    reward: float
    """Earned between the frame before and this one, summed over an action repeat."""
    continues: bool
    """False only where the environment terminated; a time limit leaves it true."""
    is_first: bool
    is_last: bool
    """Terminated or truncated: no step may follow."""
    info: Mapping[str, Any] = field(default_factory=dict)
    task_rewards: tuple[float, ...] = ()
    """What was earned by each of the environment's tasks, `reward` first; of an environment with one task, nothing."""

    def earned(self, task: int) -> float:
        """By the task of this number in the environment's `task_names`. Raises ValueError for one it has not."""
        rewards = self.task_rewards or (self.reward,)
        if not 0 <= task < len(rewards):
            raise ValueError(f"task={task}, this environment has tasks 0 to {len(rewards) - 1}")
        return rewards[task]

    def unpaid(self) -> Self:
        """The same with nothing earned."""
        return replace(self, reward=0.0, task_rewards=(0.0,) * len(self.task_rewards))

    @classmethod
    def first(
        cls, space: ActionSpace, frame: NDArray[np.uint8], info: Mapping[str, Any], *, num_tasks: int = 1
    ) -> Self:
        """An episode's first frame, which no action led to."""
        return cls(
            frame=frame,
            action=np.zeros(space.size, np.float32),
            labeled=False,
            reward=0.0,
            continues=True,
            is_first=True,
            is_last=False,
            info=info,
            task_rewards=(0.0,) * num_tasks,
        )

    @classmethod
    def after(
        cls,
        action: NDArray[np.float32],
        frame: NDArray[np.uint8],
        reward: float,
        info: Mapping[str, Any],
        *,
        terminated: bool,
        truncated: bool,
        task_rewards: tuple[float, ...] = (),
    ) -> Self:
        """What an action led to."""
        return cls(
            frame=frame,
            action=action,
            labeled=True,
            reward=reward,
            continues=not terminated,
            is_first=False,
            is_last=terminated or truncated,
            info=info,
            task_rewards=task_rewards,
        )


@runtime_checkable
class Environment(Protocol):
    """A seeded game of one action space and one frame shape."""

    @property
    def action_space(self) -> ActionSpace: ...

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of a frame."""
        ...

    @property
    def fps(self) -> float:
        """Arrivals per second of game time, action repeat included."""
        ...

    @property
    def task_names(self) -> tuple[str, ...]: ...

    def reset(self, seed: int) -> Arrival:
        """Starts the episode that the seed names; the same seed starts the same episode."""
        ...

    def step(self, action_row: NDArray[Any]) -> Arrival:
        """Raises ValueError for a row that is not of the action space, RuntimeError when no episode is under way."""
        ...

    def close(self) -> None: ...


def checked_row(space: ActionSpace, action_row: NDArray[Any]) -> NDArray[np.float32]:
    """The row as float32 [a], a tiny overshoot of the bounds clipped away; raises ValueError for any other stray."""
    row = np.asarray(action_row, dtype=np.float32)
    if row.shape != (space.size,):
        raise ValueError(f"an action row has shape {(space.size,)}, got {row.shape}")
    clipped = np.clip(row, *space.bounds())
    row = np.where(np.abs(row - clipped) <= OVERSHOOT, clipped, row)
    space.check(row)
    return row
