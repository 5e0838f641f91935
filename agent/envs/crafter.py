"""Crafter as an `Environment`: 72x72 RGB, one of 17 actions, a task for each of its 22 achievements.

Hafner, "Benchmarking the Spectrum of Agent Capabilities" (2021); needs `crafter`, and numba, without which a world
takes 15 times as long to make. A task pays 1 each time its event happens. An episode ends with the player's death, or
is cut after 10,000 steps. The game has no clock: 5 actions a second are what its own window for people plays.
"""

from typing import Any

import crafter
import numpy as np
from crafter import constants
from numpy.typing import NDArray

from agent.envs.base import Arrival, checked_row
from agent.envs.crafter_sight import ACTIONS, MIDDLE, VIEW, WORLD, Sight
from agent.envs.fast_crafter import PLAYER, FastItemView, FastLocalView, FastWorld, RepeatableWorld
from agent.ladder import CRAFTER_LADDER, increases
from dynamics.actions import ActionSpace

NAME = "Crafter"
SIZE = 72
"""Eight pixels for each of the 9x9 cells that a frame shows, so that a patch of the tokenizer holds one cell. At the
game's own 64 cells have seven pixels and lie across patches: see agent/EXPERIMENTS.md."""
FPS = 5.0
SPACE = ActionSpace(categorical=(("action", len(ACTIONS)),))
CHUNK = (12, 12)


class StockGame(crafter.Env):  # type: ignore[misc]
    """Crafter whose episodes are named by a seed."""

    def __init__(self) -> None:
        super().__init__(area=WORLD, size=(SIZE, SIZE), seed=0)
        self._use(RepeatableWorld(self._area, constants.materials, CHUNK))

    def _use(self, world: Any) -> None:
        self._world: Any = world
        self._local_view._world = self._sem_view._world = world

    def begin(self, seed: int) -> NDArray[np.uint8]:
        """The first frame [h, w, c] of the game's first episode of this seed."""
        self._seed, self._episode = seed, 0
        frame: NDArray[np.uint8] = self.reset()
        return frame

    @property
    def achievements(self) -> dict[str, int]:
        """How often each happened in this episode."""
        counts: dict[str, int] = self._player.achievements
        return counts

    def sight(self) -> Sight:
        """What the frame shows."""
        world, player = self._world, self._player
        x, y = player.pos.tolist()
        ground = np.zeros(VIEW, np.uint8)
        left, top = max(0, MIDDLE[0] - x), max(0, MIDDLE[1] - y)
        inside = np.s_[max(0, x - MIDDLE[0]) : x + MIDDLE[0] + 1, max(0, y - MIDDLE[1]) : y + MIDDLE[1] + 1]
        found, numbers = world._mat_map[inside], world._obj_map[inside]
        ground[left : left + found.shape[0], top : top + found.shape[1]] = found
        return Sight(
            ground=ground,
            things={
                (left + i, top + j): world._objects[numbers[i, j]].texture
                for i, j in np.argwhere(numbers > PLAYER).tolist()
            },
            bag=dict(player.inventory),
            position=(x, y),
            facing=player.facing,
            asleep=player.sleeping,
            daylight=float(world.daylight),
        )


class FastGame(StockGame):
    """Of equal frames, rewards and ends; the map of the whole world is left out of what a step tells."""

    def __init__(self) -> None:
        super().__init__()
        widest = int(max(self._view))
        world = FastWorld(self._area, chunk_size=CHUNK, reach=2 * widest, margin=widest // 2)
        stock = vars(self)
        self._local_view = FastLocalView(world, self._textures, stock["_local_view"]._grid)
        self._item_view = FastItemView(self._textures, stock["_item_view"]._grid)
        self._use(world)
        self._sem_view = dict  # called for a map, it gives an empty one


class CrafterEnvironment:
    """A world a seed. What its frame shows is in an arrival's `info["sight"]`, for scripts."""

    action_space = SPACE
    frame_shape = (3, SIZE, SIZE)
    fps = FPS
    task_names = CRAFTER_LADDER.events

    def __init__(self, *, stock: bool) -> None:
        self._game = StockGame() if stock else FastGame()
        self._running = False

    def reset(self, seed: int) -> Arrival:
        self._running = True
        return Arrival.first(SPACE, _frame(self._game.begin(seed)), self._info({}), num_tasks=len(self.task_names))

    def step(self, action_row: NDArray[Any]) -> Arrival:
        if not self._running:
            raise RuntimeError("no episode is under way: call reset first")
        row = checked_row(SPACE, action_row)
        before = self._game.achievements.copy()
        frame, _, over, told = self._game.step(int(row[0]))
        died = told["discount"] == 0
        self._running = not over
        events = increases(before, self._game.achievements)
        rewards = tuple(float(events.get(task, 0)) for task in self.task_names)
        return Arrival.after(
            row,
            _frame(frame),
            rewards[0],
            self._info(events),
            terminated=died,
            truncated=over and not died,
            task_rewards=rewards,
        )

    def sight(self) -> Sight:
        """What the newest frame shows."""
        return self._sight

    def close(self) -> None:
        self._running = False

    def _info(self, events: dict[str, int]) -> dict[str, Any]:
        self._sight = self._game.sight()
        return {"events": events, "sight": self._sight}


def _frame(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(picture.transpose(2, 0, 1))
