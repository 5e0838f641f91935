"""Any gymnasium environment as an `Environment`, by its ID: 64x64 RGB, whatever its actions are, an action repeat.

Frames are the observations where these are RGB pictures, else what the environment draws. Needs gymnasium, and what the
environment itself needs. This file is also the example to follow for a game with an interface of its own.
"""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.envs.base import Arrival, checked_row
from dynamics.actions import ActionSpace

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame greets on stdout, where commands print their tables
import gymnasium  # noqa: E402
from gymnasium import spaces  # noqa: E402

SIZE = 64


class GymnasiumEnvironment:
    """One game of `gymnasium.make(game)`."""

    frame_shape = (3, SIZE, SIZE)

    def __init__(self, game: str, *, action_repeat: int) -> None:
        """Raises ValueError where there is no such environment, or its actions are of no kind that a row can hold."""
        if action_repeat < 1:
            raise ValueError(f"action_repeat={action_repeat}, needs at least 1")
        try:
            self._env: gymnasium.Env[Any, Any] = gymnasium.make(game, render_mode="rgb_array")
        except gymnasium.error.Error as error:
            raise ValueError(f"gymnasium has no environment {game!r} that draws: {error}") from error
        self.action_space = flat_space(self._env.action_space, game)
        self.action_repeat = action_repeat
        self.task_names = (game.rpartition("/")[2],)
        self.fps = float(self._env.metadata.get("render_fps") or 30) / action_repeat
        seen = self._env.observation_space
        self._pictures = isinstance(seen, spaces.Box) and seen.dtype == np.uint8 and seen.shape[2:] == (3,)
        self._running = False

    def reset(self, seed: int) -> Arrival:
        observation, info = self._env.reset(seed=seed)
        self._running = True
        return Arrival.first(self.action_space, self._frame(observation), info)

    def step(self, action_row: NDArray[Any]) -> Arrival:
        row = checked_row(self.action_space, action_row)
        if not self._running:
            raise RuntimeError("no episode is under way: call reset(seed) first")
        action, reward = native_action(self._env.action_space, row), 0.0
        for _ in range(self.action_repeat):
            observation, earned, terminated, truncated, info = self._env.step(action)
            reward += float(earned)
            if terminated or truncated:
                break
        self._running = not (terminated or truncated)
        return Arrival.after(row, self._frame(observation), reward, info, terminated=terminated, truncated=truncated)

    def close(self) -> None:
        self._env.close()

    def _frame(self, observation: Any) -> NDArray[np.uint8]:
        picture = observation if self._pictures else self._env.render()
        small = Image.fromarray(np.asarray(picture)).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX)
        return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))


def flat_space(space: "spaces.Space[Any]", game: str) -> ActionSpace:
    """What a row of numbers says of an action. Raises ValueError where it cannot hold one."""
    if isinstance(space, spaces.Discrete):
        return ActionSpace(categorical=(("action", int(space.n)),))
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return ActionSpace(categorical=tuple((f"action{i}", int(count)) for i, count in enumerate(space.nvec)))
    if isinstance(space, spaces.MultiBinary) and isinstance(space.n, int | np.integer):
        return ActionSpace(binary=tuple(f"action{i}" for i in range(int(space.n))))
    if isinstance(space, spaces.Box) and space.is_bounded() and np.issubdtype(space.dtype, np.floating):
        return ActionSpace(continuous=tuple(f"action{i}" for i in range(int(np.prod(space.shape)))))
    raise ValueError(
        f"{game} has actions {space}: a row can hold a bounded Box of floats, Discrete, MultiDiscrete or MultiBinary; "
        "wrap the environment so that it has one of these"
    )


def native_action(space: "spaces.Space[Any]", row: NDArray[np.float32]) -> Any:
    """What the environment takes for a row."""
    if isinstance(space, spaces.Box):
        scaled = space.low + (row.reshape(space.shape) + 1) / 2 * (space.high - space.low)
        return np.clip(scaled, space.low, space.high).astype(space.dtype)
    whole = row.round().astype(np.int64)
    if isinstance(space, spaces.Discrete):
        return int(whole[0]) + int(space.start)
    return (whole + getattr(space, "start", 0)).astype(space.dtype)
