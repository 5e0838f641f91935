"""What the real game shows under given actions: dreams that outlast every recording are held against it.

Axes: t frames, a the flat action row, c h w one RGB frame.
"""

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from agent.collecting import episode_key
from agent.envs.base import Environment
from agent.envs.registry import ENVS, make_env
from tokenizer.shard_format import DatasetMeta


class Replay:
    """The game of a dataset, on the tracks of its episodes."""

    def __init__(self, meta: DatasetMeta) -> None:
        """Raises ValueError where the dataset does not say which game it was and which seeds were played."""
        self._seeds = {episode_key(seed): int(seed) for seed in meta.extra.get("seeds", ())}
        if meta.environment not in ENVS or not self._seeds:
            raise ValueError(f"drives of {meta.environment!r} without the seeds of their tracks cannot be played again")
        self._env: Environment = make_env(meta.environment, stock=False, action_repeat=meta.action_repeat, endless=True)

    def play(self, key: str, actions: Float32[ndarray, "t a"]) -> UInt8[ndarray, "t c h w"]:
        """The frames that these actions lead to from the start of an episode, whose first action is none.

        The game goes on where its episode would have ended.
        """
        frames = [self._env.reset(self._seeds[key]).frame]
        frames += [self._env.step(row).frame for row in actions[1:]]
        return np.stack(frames)

    def close(self) -> None:
        self._env.close()
