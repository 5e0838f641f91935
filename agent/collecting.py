"""Collecting episodes with a driver, one shard of a dataset at a time.

Every episode is a function of its track's seed and the driver's name alone, and a shard of its episodes: the same seeds
give the same bytes, in whatever process and order they are collected.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from agent.drivers import Driver, make_driver
from agent.envs.base import FAILURE, Arrival, Environment
from agent.envs.registry import make_env
from tokenizer.shard_format import DatasetMeta, clip_key, of_task
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
    """[t] of one task, or [t, k] of each of the environment's."""
    continues: NDArray[np.bool_]
    seed: int
    task: int
    """Whose rewards they are, or are by default, by its number in the environment."""
    finished: bool
    """Whether it ran to its own end, not to `max_steps`."""

    @property
    def total_reward(self) -> float:
        return float(of_task(self.rewards, self.task).sum(dtype=np.float64))

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    def clips(self, size: int) -> Iterator[tuple[int, Self]]:
        """Cut into parts of up to so many frames, each with the number of its first frame, which is the last one of the
        part before: what arrived with it is told there and not again."""
        start = 0
        while True:
            part = np.s_[start : start + size]
            rewards, actions, labeled = self.rewards[part].copy(), self.actions[part].copy(), self.labeled[part].copy()
            if start:
                rewards[0], actions[0], labeled[0] = 0, 0, False
            yield (
                start,
                replace(
                    self,
                    frames=self.frames[part],
                    actions=actions,
                    labeled=labeled,
                    rewards=rewards,
                    continues=self.continues[part],
                ),
            )
            if start + size >= self.num_frames:
                return
            start += size - 1


def collect_episode(
    env: Environment, driver: Driver, *, seed: int, task: int | None = 0, max_steps: int | None = None
) -> Episode:
    """Drives one episode from its first frame to its end, to where the driver gives up, or for `max_steps` actions.

    Its rewards are those of this task; of all tasks where it is None. Raises ValueError where the game itself fails:
    what was driven until then is no episode of this seed."""
    driver.reset(np.random.default_rng([seed, 1]))
    arrivals = [env.reset(seed)]
    while not arrivals[-1].is_last and (max_steps is None or len(arrivals) <= max_steps):
        row = driver.act(env)
        if row is None:
            break
        arrivals.append(env.step(row))
    if FAILURE in arrivals[-1].info:
        why = arrivals[-1].info[FAILURE]
        raise ValueError(f"the game failed in frame {len(arrivals) - 1} of seed {seed}: {why}")
    return _episode(arrivals, seed, task)


def _episode(arrivals: Sequence[Arrival], seed: int, task: int | None) -> Episode:
    rewards = [a.task_rewards or (a.reward,) if task is None else a.earned(task) for a in arrivals]
    return Episode(
        frames=np.stack([a.frame for a in arrivals]),
        actions=np.stack([a.action for a in arrivals]),
        labeled=np.array([a.labeled for a in arrivals]),
        rewards=np.array(rewards, dtype=np.float32),
        continues=np.array([a.continues for a in arrivals]),
        seed=seed,
        task=task or 0,
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
    every_task: bool = False
    """Whether each drive's rewards are those of all of the dataset's tasks."""
    clip_frames: int | None = None
    """Into parts of how many frames an episode is cut (see `Episode.clips`); whole where not given."""


def collect_shard(order: ShardOrder, progress: Callable[[int, float], None]) -> None:
    """Collects a shard's episodes and writes it; `progress` hears of each episode's number of frames and return."""
    meta = order.meta
    env = make_env(meta.environment, stock=False, action_repeat=meta.action_repeat)
    numbers = [env.task_names.index(name) for name in meta.tasks]
    try:
        with ShardWriter(order.folder, order.number, meta) as shard:
            for number, seed in enumerate(order.seeds, start=order.first_episode):
                task = number % len(meta.tasks)
                driver = make_driver(order.driver, np.random.default_rng([seed, 0]))
                scored = None if order.every_task else numbers[task]
                episode = collect_episode(env, driver, seed=seed, task=scored, max_steps=order.max_steps)
                if order.every_task:
                    episode = replace(episode, rewards=episode.rewards[:, numbers], task=0)
                else:
                    episode = replace(episode, task=task)
                _write(shard, episode, order)
                progress(episode.num_frames, episode.total_reward)
    finally:
        env.close()


def _write(shard: ShardWriter, episode: Episode, order: ShardOrder) -> None:
    """With `task` by its number in the dataset."""
    extras = {"seed": episode.seed, "return": episode.total_reward, "finished": episode.finished}
    for start, clip in episode.clips(order.clip_frames or episode.num_frames):
        shard.write(
            episode_key(episode.seed, start if order.clip_frames else None),
            frames=clip.frames,
            actions=clip.actions,
            labeled=clip.labeled,
            rewards=clip.rewards,
            continues=clip.continues,
            task=clip.task,
            start=start,
            source=f"driver:{order.driver}",
            extras=extras,
        )


def episode_key(seed: int, start: int | None = None) -> str:
    """Of the sample that holds the episode on this seed's track, or the clip of it that begins at this frame."""
    episode = f"episode-{seed:08d}"
    return episode if start is None else clip_key(episode, start)


def dataset_meta(
    environment: str, *, action_repeat: int, extra: dict[str, Any], tasks: Sequence[str] | None = ()
) -> DatasetMeta:
    """What a dataset of this environment says of itself; its task is the environment's first where none is named, and
    its tasks are all of the environment's where `tasks` is None.

    Raises ValueError for an unknown environment or a task that it has not.
    """
    env = make_env(environment, stock=False, action_repeat=action_repeat)
    try:
        tasks = env.task_names if tasks is None else tasks
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
