"""VizDoom's take-cover as an `Environment`: 64x64 RGB, one continuous action, a reward for every tic survived.

Below -1/3 the player steps to the left, above 1/3 to the right, else stands (World Models, sec. 4). Monsters at the far
wall throw fireballs; an episode ends with the player's death, or after 2,100 tics (a minute). Needs `vizdoom`.
"""

import os
from contextlib import chdir
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import vizdoom
from numpy.typing import NDArray
from PIL import Image

from agent.envs.base import Arrival, checked_row
from dynamics.actions import ActionSpace

NAME = "VizdoomTakeCover"
SIZE = 64
TICS_PER_SECOND = 35
MAX_TICS = 2100
THRESHOLD = 1 / 3
ACTIONS = ActionSpace(continuous=("sideways",))


class TakeCoverEnvironment:
    """One game, in a process of the engine's own."""

    action_space = ACTIONS
    frame_shape = (3, SIZE, SIZE)
    task_names = ("survive",)

    def __init__(self, *, action_repeat: int) -> None:
        if action_repeat < 1:
            raise ValueError(f"action_repeat={action_repeat}, needs at least 1")
        self.action_repeat = action_repeat
        self.fps = TICS_PER_SECOND / action_repeat
        self._game = vizdoom.DoomGame()
        self._game.load_config(os.path.join(vizdoom.scenarios_path, "take_cover.cfg"))
        self._game.set_doom_config_path(os.devnull)  # it would write its settings into the working folder
        self._game.set_window_visible(False)
        self._game.set_sound_enabled(False)
        self._game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        self._game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
        self._game.set_episode_timeout(MAX_TICS)
        with TemporaryDirectory() as folder, chdir(folder):  # the engine makes a folder where it starts
            self._game.init()
        self._running = False
        self._pixels = np.zeros((120, 160, 3), np.uint8)

    def reset(self, seed: int) -> Arrival:
        self._game.set_seed(seed)
        self._game.new_episode()
        self._running = True
        return Arrival.first(ACTIONS, self._frame(), {})

    def step(self, action_row: NDArray[Any]) -> Arrival:
        if not self._running:
            raise RuntimeError("no episode is under way: call reset first")
        row = checked_row(ACTIONS, action_row)
        reward = self._game.make_action([bool(row[0] < -THRESHOLD), bool(row[0] > THRESHOLD)], self.action_repeat)
        over = self._game.is_episode_finished()
        died = over and self._game.is_player_dead()
        self._running = not over
        return Arrival.after(row, self._frame(), float(reward), {}, terminated=died, truncated=over and not died)

    def close(self) -> None:
        self._running = False
        self._game.close()

    def _frame(self) -> NDArray[np.uint8]:
        """What is on the screen; after an episode's end there is none, and the last one stays."""
        state = self._game.get_state()
        if state is not None:
            self._pixels = np.asarray(state.screen_buffer)
        small = Image.fromarray(self._pixels).resize((SIZE, SIZE), Image.Resampling.BOX)
        return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))
