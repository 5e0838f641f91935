"""Evolve C of World Models by CMA-ES, in the real environment or in M's dream of it.

    python -m launch.evolve laptop
    python -m launch.evolve laptop --inputs z --run runs/laptop/vmc/v_only
    python -m launch.evolve laptop --world dream --run runs/laptop/vmc/dream
    accelerate launch --config_file launch/configs/ddp.yaml -m launch.evolve paper

All processes of a machine play rollouts, and under a launcher those of all machines: every candidate on the same
tracks, which are others in each generation. Each generation is saved; the same command goes on after the last.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from agent.controller import ControllerConfig, Inputs
from agent.envs.base import RESTING
from agent.evolution import EvolutionConfig, Vectors
from agent.seeds import BLOCK, CHAMPION_TRACKS, EVOLUTION_TRACKS
from dynamics.actions import ActionSpace
from dynamics.mdn_rnn import MDNRNN
from launch import checkpoint
from launch.command import main
from launch.curves import plot_evolution
from launch.distributed import Tracker, accelerated, cores, parallelism
from launch.evolved import Champion, Evolved, load_evolved, save_evolved
from launch.interrupt import Interrupts
from launch.loop import agreed, every
from launch.models import check_same_tokenizer, fingerprint, load_mdn_rnn, load_vae
from launch.presets import Clips
from launch.report import Report
from launch.rolling_out import DreamSpec, Judge, Judged, WorldSpec, judged
from launch.run_folder import claimed
from launch.training import open_dataset
from launch.vmc_agents import check_latents_of
from tokenizer.shards import Dataset

SECONDS_BETWEEN_WORDS = 60.0
SIDE_BY_SIDE, DREAMS_SIDE_BY_SIDE = 16, 128
"""Rollouts of a process, where not told."""


@dataclass(frozen=True, kw_only=True)
class Evolve:
    run: Path
    """Folder of this run; the same command goes on where it stopped."""
    latents: Path
    """Folder of latent shards: names the environment and its actions, and dreams begin with its first frames."""
    vae: Path
    """Run folder of V."""
    mdn_rnn: Path
    """Run folder of M; not read where the controller sees z alone."""
    inputs: Inputs = "z_h"
    """What the controller sees: z (V only), z_h, or z_h_c, with h and c of M's state."""
    hidden: int = 0
    """Units of a tanh layer in the controller; 0 has none, the paper's V with a hidden layer 40."""
    bias: bool = True
    """Whether the controller has one."""
    world: Literal["real", "dream"] = "real"
    """Where candidates are judged: in the environment, or in M's dream of it."""
    temperature: float = 1.0
    """Of dreams: above 1 they are less certain, and harder to exploit."""
    generations: int = 1800
    """Of the whole run; raised later, it goes on."""
    rollouts: int = 16
    """Of each candidate, in each generation."""
    evolution: Annotated[EvolutionConfig, tyro.conf.arg(name="")] = EvolutionConfig()
    max_steps: int | None = None
    """Actions after which a rollout is cut; a dream, which has no end of its own, where not given after those of the
    longest episode of the data."""
    patience: int = 0
    """Actions in a row that earn nothing after which a rollout is given up as hopeless, and what it still had counts as
    those; 0 gives none up."""
    champion_every: int = 25
    """Generations between comparisons of the distribution's mean with the controller that is kept."""
    champion_rollouts: int = 64
    """Episodes of each comparison, always the same."""
    num_envs: int | None = None
    """Rollouts side by side in each process, in one pass of V and M; where not given 16, and 128 in dreams."""
    processes: int | None = None
    """Worker processes of each rank; one for each core where not given, 0 plays in the command's own."""
    keep: int = 2
    """Newest checkpoints that are kept."""
    tracker: Tracker = "tensorboard"
    """Where the curves are drawn, under the run's logs folder."""

    def __post_init__(self) -> None:
        counts = ("generations", "rollouts", "champion_every", "champion_rollouts", "num_envs", "keep", "max_steps")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}, needs at least 1")
        for name in ("patience", "hidden", "processes"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}={value} must not be negative")
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} must be above 0")
        if self.patience and self.max_steps is None:
            raise ValueError(f"patience={self.patience} needs --max-steps, to know what a given up rollout still had")
        if self.world == "dream" and self.inputs == "z":
            raise ValueError("inputs=z leaves out M, whose dream it is to be judged in: give --inputs z_h")


def evolve(config: Evolve) -> None:
    if parallelism() != "DDP":
        raise ValueError("rollouts share no weights: start with --config_file launch/configs/ddp.yaml")
    with (
        accelerated("fp32", config.run, config.tracker) as accelerator,
        claimed(config.run, config, main_process=accelerator.is_main_process),
    ):
        world, controller = prepare(config, open_dataset(config.latents, "latents"))
        processes = cores() if config.processes is None else config.processes
        judge = Judge(
            world,
            controller,
            processes=processes,
            max_steps=config.max_steps,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )
        with judge.workers:
            _run(config, controller, judge, accelerator)


def prepare(config: Evolve, dataset: Dataset) -> tuple[WorldSpec, ControllerConfig]:
    """The world that candidates are judged in, and what they are. Raises ValueError where V, M and data do not fit."""
    meta, vae = dataset.meta, load_vae(config.vae)
    mark = fingerprint(vae)
    check_latents_of(config.vae, mark, dataset)
    actions = ActionSpace.from_json(meta.action_space)
    mdn_rnn = None if config.inputs == "z" else load_mdn_rnn(config.mdn_rnn)
    if mdn_rnn is not None:
        check_same_tokenizer(mdn_rnn.config.tokenizer, mark, model=config.mdn_rnn, other=config.vae)
        _check_actions(mdn_rnn, actions, config)
    controller = ControllerConfig(
        latent_dim=vae.config.latent_dim,
        state_dim=0 if mdn_rnn is None else mdn_rnn.config.hidden,
        inputs=config.inputs,
        hidden=config.hidden,
        bias=config.bias,
        actions=actions,
        resting=tuple(name for name in actions.continuous if name in RESTING),
        tokenizer=mark,
        mdn_rnn="" if mdn_rnn is None else fingerprint(mdn_rnn),
    )
    dream = None
    if config.world == "dream":
        assert mdn_rnn is not None
        if mdn_rnn.reward_head is None and mdn_rnn.end_head is None:
            raise ValueError(
                f"the dream of {config.mdn_rnn} has neither rewards nor an end, so that all controllers are equal in "
                "it: train M with --model.reward-head or --model.end-head"
            )
        longest = max(sample.start + sample.length for sample in dataset.samples) - 1
        dream = DreamSpec(latents=config.latents, max_steps=config.max_steps or longest, temperature=config.temperature)
    world = WorldSpec(
        environment=meta.environment,
        action_repeat=meta.action_repeat,
        num_envs=config.num_envs or (SIDE_BY_SIDE if dream is None else DREAMS_SIDE_BY_SIDE),
        vae=config.vae,
        vae_mark=mark,
        mdn_rnn=None if mdn_rnn is None else config.mdn_rnn,
        mdn_rnn_mark=controller.mdn_rnn,
        dream=dream,
    )
    return world, controller


def _check_actions(mdn_rnn: MDNRNN, actions: ActionSpace, config: Evolve) -> None:
    if mdn_rnn.config.actions != actions:
        raise ValueError(
            f"M in {config.mdn_rnn} knows actions {mdn_rnn.config.actions}, those of {config.latents} are {actions}: "
            "give the latents that it was trained on"
        )


def _run(config: Evolve, controller: ControllerConfig, judge: Judge, accelerator: Accelerator) -> None:
    path = agreed(checkpoint.latest(config.run))
    done = 0 if path is None else int(checkpoint.load_state(path)["step"])
    if done >= config.generations:
        accelerator.print(f"already done: {config.run} has {done} generations; raise --generations to go on")
        return
    evolution, champion, seconds = load_evolved(path, config.evolution, controller)
    first = done + 1
    report = Report(
        config.run,
        accelerator,
        first_step=first,
        last_step=config.generations,
        seconds=seconds,
        headline="mean_return",
    )
    with report, Interrupts() as interrupts:
        report.say(
            f"{'resuming' if path else 'starting'} at generation {first} of {config.generations} in {config.run}: "
            f"{controller.num_parameters} parameters, {config.evolution.population} candidates x {config.rollouts} "
            f"rollouts on {judge.workers.processes} workers x {accelerator.num_processes} ranks"
        )

        def play(vectors: Vectors, seeds: list[int], patience: int) -> Judged:
            """By all ranks together, of the main one's candidates."""
            shared: list[Any] = broadcast_object_list([vectors])
            mine = judge.rollouts(
                shared[0],
                seeds,
                patience=patience,
                tell=_Telling(report),
                stopped=lambda: bool(interrupts.received),
            )
            interrupted, found = _of_all_ranks(mine, interrupts, len(vectors))
            if interrupted:
                report.say(f"stopped; {report.step} generations are saved, run the same command again to go on")
                raise SystemExit(128 + interrupted)
            report.saw(Clips(1, found.num_steps // accelerator.num_processes))
            return found

        for generation in range(first, config.generations + 1):
            found = play(evolution.candidates, tracks(config, generation), config.patience)
            fitness = found.returns.mean(axis=1)
            evolution.tell(fitness)
            report.count(generation)
            values = {
                "best_return": float(fitness.max()),
                "mean_return": float(fitness.mean()),
                "std_return": float(fitness.std()),
                "sigma": evolution.sigma,
            }
            if every(generation, config.champion_every, last=config.generations):
                seeds = [CHAMPION_TRACKS + i for i in range(config.champion_rollouts)]
                mean = float(play(evolution.mean[None], seeds, 0).returns.mean())
                if mean > champion.mean:
                    champion = Champion(vector=evolution.mean, generation=generation, mean=mean)
                values |= {"mean_candidate_return": mean, "champion_return": champion.mean}
            elif champion.mean == -math.inf:
                champion = Champion(vector=evolution.mean, generation=generation)
            report.log({name: torch.tensor(value, device=accelerator.device) for name, value in values.items()})
            if accelerator.is_main_process:
                evolved = Evolved(evolution, champion, report.seconds)
                save_evolved(config.run, controller, evolved, keep=config.keep)
                if "champion_return" in values:
                    plot_evolution(config.run / "evolution.png", config.run)
        report.say(
            f"kept: the mean of generation {champion.generation}, return {champion.mean:.0f} on "
            f"{config.champion_rollouts} other tracks"
        )


def _of_all_ranks(
    mine: Sequence[tuple[int, float, int]] | None, interrupts: Interrupts, num_candidates: int
) -> tuple[int, Judged]:
    """The signal that any rank received, on which all act together, and without one what all ranks played."""
    parts: list[Any] = gather_object([(interrupts.received, mine)])
    signals = [received for received, _ in parts if received]
    found = [rollout for _, part in parts for rollout in part or ()]
    return max(signals, default=0), judged([] if signals else found, num_candidates)


class _Telling:
    """A line now and then about a generation that takes long."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self._steps, self._begun, self._next = 0, time.perf_counter(), SECONDS_BETWEEN_WORDS

    def __call__(self, steps: int) -> None:
        self._steps += steps
        seconds = time.perf_counter() - self._begun
        if seconds > self._next:
            self._next = seconds + SECONDS_BETWEEN_WORDS
            self.report.say(
                f"generation {self.report.step + 1}: {self._steps / seconds:.0f} environment steps/s on this rank"
            )


def tracks(config: Evolve, generation: int) -> list[int]:
    """The seeds of a generation, which all its candidates share."""
    first = 10_000 * config.evolution.seed + (generation - 1) * config.rollouts
    return [EVOLUTION_TRACKS + (first + i) % BLOCK for i in range(config.rollouts)]


_LAPTOP = Evolve(
    run=Path("runs/laptop/vmc/controller"),
    latents=Path("runs/laptop/vmc/latents/train"),
    vae=Path("runs/laptop/vmc/vae"),
    mdn_rnn=Path("runs/laptop/vmc/mdn_rnn"),
    generations=70,
    rollouts=2,
    evolution=EvolutionConfig(population=32),
    max_steps=250,
    patience=25,
    champion_every=10,
    champion_rollouts=16,
)
_TAKE_COVER = Evolve(
    run=Path("runs/take_cover/vmc/controller"),
    latents=Path("runs/take_cover/vmc/latents/train"),
    vae=Path("runs/take_cover/vmc/vae"),
    mdn_rnn=Path("runs/take_cover/vmc/mdn_rnn"),
    inputs="z_h_c",
    bias=False,
    world="dream",
    temperature=1.15,
    generations=60,
    rollouts=8,
    max_steps=525,
    champion_every=10,
    champion_rollouts=64,
)
PRESETS = {
    "debug": replace(
        _LAPTOP,
        run=Path("runs/debug/vmc/controller"),
        latents=Path("runs/debug/vmc/latents/train"),
        vae=Path("runs/debug/vmc/vae"),
        mdn_rnn=Path("runs/debug/vmc/mdn_rnn"),
        generations=2,
        evolution=EvolutionConfig(population=4),
        max_steps=5,
        champion_every=1,
        champion_rollouts=2,
        num_envs=3,
        processes=0,
    ),
    "laptop": _LAPTOP,
    "take_cover": _TAKE_COVER,
    "paper": replace(
        _LAPTOP,
        run=Path("runs/paper/vmc/controller"),
        latents=Path("runs/paper/vmc/latents/train"),
        vae=Path("runs/paper/vmc/vae"),
        mdn_rnn=Path("runs/paper/vmc/mdn_rnn"),
        generations=1800,
        rollouts=16,
        evolution=EvolutionConfig(population=64),
        max_steps=None,
        patience=0,
        champion_every=25,
        champion_rollouts=1024,
    ),
}

if __name__ == "__main__":
    main(PRESETS, evolve, description=__doc__)
