"""Rollouts of controllers by worker processes, each with V, M and environments of its own that stay for the next ones.

What is judged does not depend on the workers: a rollout is a function of its candidate and its seed (but for rounding,
which the size of a batch may change), and those of a worker that dies are begun again by another one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from agent.controller import ControllerConfig
from agent.envs.vector import VectorEnv
from agent.evolution import Rollout, Rollouts, Vectors, roll_out
from agent.senses import Senses
from agent.worlds import DreamWorld, LatentWorld, RealWorld
from dynamics.mdn_rnn import MDNRNN
from launch.models import fingerprint, for_inference, load_mdn_rnn, load_vae
from launch.workers import Tell, Workers
from tokenizer.records import LatentClip
from tokenizer.shards import Dataset


@dataclass(frozen=True, kw_only=True)
class WorldSpec:
    """What a worker makes a world of."""

    environment: str
    action_repeat: int
    num_envs: int
    """Side by side, in each worker."""
    vae: Path
    """Run folder of V."""
    vae_mark: str
    """Its fingerprint, in case that it is trained on."""
    mdn_rnn: Path | None
    """Run folder of M, where the controller sees it."""
    mdn_rnn_mark: str = ""
    dream: "DreamSpec | None" = None
    """In its place, not the environment but M's dream of it."""

    def make(self) -> LatentWorld:
        if self.dream is not None:
            mdn_rnn = self._load_m()
            assert mdn_rnn is not None
            return DreamWorld(
                mdn_rnn,
                first_latents(self.dream.latents),
                num_envs=self.num_envs,
                max_steps=self.dream.max_steps,
                temperature=self.dream.temperature,
                living_reward=float(self.action_repeat),
            )
        vae = load_vae(self.vae)
        _check_mark(vae, self.vae_mark, self.vae)
        senses = Senses(for_inference(vae, torch.device("cpu"), compile=False), self._load_m())
        envs = VectorEnv(
            self.environment,
            num_envs=self.num_envs,
            processes=0,
            stock=False,
            action_repeat=self.action_repeat,
        )
        return RealWorld(envs, senses)

    def _load_m(self) -> MDNRNN | None:
        if self.mdn_rnn is None:
            return None
        mdn_rnn = load_mdn_rnn(self.mdn_rnn)
        _check_mark(mdn_rnn, self.mdn_rnn_mark, self.mdn_rnn)
        return for_inference(mdn_rnn, torch.device("cpu"), compile=False, half=False)


def _check_mark(model: nn.Module, mark: str, run: Path) -> None:
    if fingerprint(model) != mark:
        raise ValueError(f"{run} was trained on while a controller was evolved with it: evolve one for it in a new run")


@dataclass(frozen=True, kw_only=True)
class DreamSpec:
    latents: Path
    """Folder of latent shards, with whose episodes' first frames dreams begin."""
    max_steps: int
    temperature: float


def first_latents(folder: Path) -> Tensor:
    """Of the first frames of all episodes, [m, n, d]."""
    dataset = Dataset.open(folder)
    first = [index for index, sample in enumerate(dataset.samples) if sample.start == 0]
    if not first:
        raise ValueError(f"{folder} holds no clip from the start of an episode, where dreams begin")
    clips = [dataset.read_window(index, 0, 1) for index in first]
    return torch.stack([clip.latents[0].float() for clip in clips if isinstance(clip, LatentClip)])


@dataclass(frozen=True, kw_only=True)
class Order:
    """Some rollouts for a worker."""

    world: WorldSpec
    controller: ControllerConfig
    vectors: Vectors
    rollouts: tuple[Rollout, ...]
    max_steps: int | None
    patience: int


STEPS_BETWEEN_WORDS = 200
ROUNDS = 4
"""Rollouts of an order for each of a worker's environments, at most: what is lost with it, or awaited at Ctrl-C."""


def work(order: Order, tell: Tell) -> Rollouts:
    """Tells the steps of its environments as they are done."""
    done = 0

    def progress(steps: int) -> None:
        nonlocal done
        done += steps
        if done >= STEPS_BETWEEN_WORDS:
            tell(done)
            done = 0

    found = roll_out(
        world_of(order.world),
        order.controller,
        order.vectors,
        order.rollouts,
        max_steps=order.max_steps,
        patience=order.patience,
        progress=progress,
    )
    tell(done)
    return found


@lru_cache(maxsize=1)
def world_of(spec: WorldSpec) -> LatentWorld:
    """One for all orders of a process."""
    return spec.make()


class Judged(NamedTuple):
    """Of each candidate."""

    returns: Float64[np.ndarray, "n rollouts"]
    num_steps: int
    """Of environments, in all."""


class Judge:
    """Plays every candidate on the same seeds, by a machine's workers."""

    def __init__(
        self,
        world: WorldSpec,
        controller: ControllerConfig,
        *,
        processes: int,
        max_steps: int | None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.world, self.controller = world, controller
        self.max_steps = max_steps
        self.rank, self.world_size = rank, world_size
        self.workers = Workers(processes, restarts=3)

    def rollouts(
        self, vectors: Vectors, seeds: Sequence[int], *, patience: int, tell: Tell, stopped: Callable[[], bool]
    ) -> list[tuple[int, float, int]] | None:
        """(number, return, length) of this rank's share; None where it was stopped before all of them.

        Rollout i is candidate i // len(seeds) on seed i % len(seeds).
        Neighbours go to different workers, so that none gets all of the candidates that live long.
        """
        everything = [Rollout(candidate, seed) for candidate in range(len(vectors)) for seed in seeds]
        mine = list(range(len(everything)))[self.rank :: self.world_size]
        processes = max(1, self.workers.processes)
        parts = processes * -(-len(mine) // (processes * ROUNDS * self.world.num_envs))
        shares = [share for share in (mine[part::parts] for part in range(parts)) if share]
        orders = [
            Order(
                world=self.world,
                controller=self.controller,
                vectors=vectors,
                rollouts=tuple(everything[number] for number in share),
                max_steps=self.max_steps,
                patience=patience,
            )
            for share in shares
        ]
        try:
            found = self.workers.carry_out(orders, work, tell, stopped=stopped)
        except KeyboardInterrupt:
            if not stopped():
                raise
            return None
        return [
            (number, float(result.returns[i]), int(result.lengths[i]))
            for share, result in zip(shares, found, strict=True)
            for i, number in enumerate(share)
        ]


def judged(found: Sequence[tuple[int, float, int]], num_candidates: int) -> Judged:
    """The rollouts of all ranks put together."""
    in_order = sorted(found)
    returns = np.array([value for _, value, _ in in_order], dtype=np.float64).reshape(num_candidates, -1)
    return Judged(returns, sum(length for _, _, length in in_order))
