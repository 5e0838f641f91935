"""Collecting episodes with a driver, one shard of a dataset at a time.

Every episode is a function of its track's seed and the driver's name alone, and a shard of its episodes: the same seeds
give the same bytes, in whatever process and order they are collected.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.drivers import Driver, make_driver
from agent.envs.base import Arrival, Environment
from agent.envs.registry import make_env
from tokenizer.shard_format import DatasetMeta
from tokenizer.shard_writer import ShardWriter


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One episode in the house's time convention (see `tokenizer.records`)."""

    frames: NDArray[np.uint8]
    """RGB, [t, c, h, w]."""
    actions: NDArray[np.float32]
    """As executed, [t, a]."""
    labeled: NDArray[np.bool_]
    rewards: NDArray[np.float32]
    continues: NDArray[np.bool_]
    seed: int
    task: int
    """Whose rewards they are, by its number in the environment."""
    finished: bool
    """Whether it ran to its own end, not to `max_steps`."""

    @property
    def total_reward(self) -> float:
        return float(self.rewards.sum(dtype=np.float64))

    @property
    def num_frames(self) -> int:
        return len(self.frames)


def collect_episode(
    env: Environment, driver: Driver, *, seed: int, task: int = 0, max_steps: int | None = None
) -> Episode:
    """Drives one episode from its first frame to its end, or for `max_steps` actions if that is less."""
    driver.reset(np.random.default_rng([seed, 1]))
    arrivals = [env.reset(seed)]
    while not arrivals[-1].is_last and (max_steps is None or len(arrivals) <= max_steps):
        arrivals.append(env.step(driver.act(env)))
    return _episode(arrivals, seed, task)


def _episode(arrivals: Sequence[Arrival], seed: int, task: int) -> Episode:
    return Episode(
        frames=np.stack([a.frame for a in arrivals]),
        actions=np.stack([a.action for a in arrivals]),
        labeled=np.array([a.labeled for a in arrivals]),
        rewards=np.array([a.earned(task) for a in arrivals], dtype=np.float32),
        continues=np.array([a.continues for a in arrivals]),
        seed=seed,
        task=task,
        finished=arrivals[-1].is_last,
    )


@dataclass(frozen=True, kw_only=True)
class ShardOrder:
    """One shard to collect; goes to a worker process."""

    folder: Path
    number: int
    meta: DatasetMeta
    driver: str
    seeds: tuple[int, ...]
    """Of the tracks, an episode each."""
    first_episode: int = 0
    """Number of the first of them in the dataset, whose tasks come in turn."""
    max_steps: int | None = None


def collect_shard(order: ShardOrder, progress: Callable[[int, float], None]) -> None:
    """Collects a shard's episodes and writes it; `progress` hears of each episode's number of frames and return."""
    meta = order.meta
    env = make_env(meta.environment, stock=False, action_repeat=meta.action_repeat)
    try:
        with ShardWriter(order.folder, order.number, meta) as shard:
            for number, seed in enumerate(order.seeds, start=order.first_episode):
                task = number % len(meta.tasks)
                driver = make_driver(order.driver, np.random.default_rng([seed, 0]))
                episode = collect_episode(
                    env, driver, seed=seed, task=env.task_names.index(meta.tasks[task]), max_steps=order.max_steps
                )
                shard.write(
                    episode_key(seed),
                    frames=episode.frames,
                    actions=episode.actions,
                    labeled=episode.labeled,
                    rewards=episode.rewards,
                    continues=episode.continues,
                    task=task,
                    source=f"driver:{order.driver}",
                    extras={"seed": seed, "return": episode.total_reward, "finished": episode.finished},
                )
                progress(episode.num_frames, episode.total_reward)
    finally:
        env.close()


def episode_key(seed: int) -> str:
    """Of the sample that holds the episode on this seed's track."""
    return f"episode-{seed:08d}"


def dataset_meta(
    environment: str, *, action_repeat: int, extra: dict[str, Any], tasks: Sequence[str] = ()
) -> DatasetMeta:
    """What a dataset of this environment says of itself; its task is the environment's first where none is named.

    Raises ValueError for an unknown environment or a task that it has not.
    """
    env = make_env(environment, stock=False, action_repeat=action_repeat)
    try:
        unknown = [task for task in tasks if task not in env.task_names]
        if unknown:
            raise ValueError(f"unknown task {unknown[0]!r}, {environment} has {list(env.task_names)}")
        return DatasetMeta(
            environment=environment,
            frame_size=env.frame_shape[1:],
            fps=env.fps,
            action_space=env.action_space.to_json(),
            tasks=tuple(tasks) or env.task_names[:1],
            action_repeat=action_repeat,
            extra=extra,
        )
    finally:
        env.close()
