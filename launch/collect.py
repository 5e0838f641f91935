"""Collects a dataset: drives episodes with a scripted or random driver and writes them into shards.

    python -m launch.collect laptop --episodes 200 --out data

Two datasets come of it: OUT/train, and OUT/held_out on other tracks. Run again, it goes on with the shards that are
missing; the same seed gives the same bytes. The tracks' seeds are those of `agent.seeds`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from agent.collecting import ShardOrder, collect_shard, dataset_meta
from agent.drivers import DRIVERS, drivers_for, known_game
from agent.envs.registry import is_known
from agent.ladder import CRAFTER_LADDER
from agent.seeds import HELD_OUT_TRACKS, TRAIN_TRACKS, track_seed
from launch.command import main
from launch.interrupt import Interrupts
from launch.run_folder import claimed_as
from launch.workers import Bar, carry_out
from tokenizer.shard_format import INDEX, DatasetMeta
from tokenizer.shard_writer import finish_dataset, has_shard

CAR_RACING, CRAFTER, TAKE_COVER = "CarRacing-v3", "Crafter", "VizdoomTakeCover"


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    env: str = CAR_RACING
    """Name of the environment; gym:ID is any of gymnasium, such as gym:CartPole-v1."""
    episodes: int = 100
    """Episodes to train on."""
    held_out: int = 8
    """Episodes to judge models on."""
    driver: str = "mixed"
    """Who drives the episodes to train on: mixed, graded, cruising, graded_or_cruising, scripted_mixed or scripted in
    CarRacing, crafter_expert or crafter_graded in Crafter, random or correlated_random anywhere."""
    held_out_driver: str = "scripted_mixed"
    tasks: tuple[str, ...] = ()
    """Tasks that the episodes are of, in turn, by their names in the environment; its first one where not given."""
    every_task: bool = False
    """Each episode is of all of these tasks, or of all that the environment has where none is given, and holds the
    rewards of each."""
    clip_frames: int | None = None
    """Cuts episodes into clips of so many frames, each of which begins with the last one of the clip before."""
    action_repeat: int = 4
    """Simulator steps for each action and frame."""
    max_steps: int | None = None
    """Actions after which an episode is cut; whole episodes where not given."""
    seed: int = 0
    """0 to 99: each has 10,000 tracks of its own, and shares what it needs beyond them with the next."""
    processes: int = 2
    """Worker processes; 0 collects in the command's own."""
    episodes_per_shard: int = 8
    out: Path
    """Folder that gets `train` and `held_out`."""

    def __post_init__(self) -> None:
        for driver in (self.driver, self.held_out_driver):
            if driver not in DRIVERS:
                raise ValueError(f"unknown driver {driver!r}, have {sorted(DRIVERS)}")
            game = known_game(driver)
            if game not in (None, self.env) and is_known(self.env):
                raise ValueError(
                    f"driver {driver!r} knows {game} alone: give --driver and --held-out-driver, one of "
                    f"{', '.join(drivers_for(self.env))}"
                )
        for name in ("episodes", "held_out", "action_repeat", "episodes_per_shard", "max_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}, needs at least 1")
        if self.clip_frames is not None and self.clip_frames < 2:
            raise ValueError(f"clip_frames={self.clip_frames}: a clip shares a frame with the one before, it needs 2")
        if self.processes < 0:
            raise ValueError(f"processes={self.processes} cannot be negative")
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks={self.tasks} names one twice")


LAPTOP = CollectConfig(episodes=120, out=Path("runs/laptop/data"))
DEBUG = replace(
    LAPTOP, episodes=4, held_out=2, max_steps=40, processes=0, episodes_per_shard=2, out=Path("runs/debug/data")
)


def _by_random_policies(config: CollectConfig, out: str, env: str = CAR_RACING) -> CollectConfig:
    """As for World Models."""
    driver = "correlated_random"
    return replace(config, env=env, driver=driver, held_out_driver=driver, out=Path(out))


def _graded(episodes: int, out: str) -> CollectConfig:
    """A fixed offline set of every skill, as `launch.study` judges agents by."""
    return replace(
        LAPTOP, episodes=episodes, held_out=16, driver="graded", held_out_driver="graded", out=Path(f"runs/{out}/data")
    )


_CRAFTER = CollectConfig(
    env=CRAFTER,
    episodes=480,
    held_out=24,
    driver="crafter_graded",
    held_out_driver="crafter_graded",
    tasks=CRAFTER_LADDER.tasks,
    every_task=True,
    clip_frames=64,  # what is cloned for a task are the clips that accomplish it, and little besides
    action_repeat=1,
    max_steps=1000,
    out=Path("runs/crafter/data"),
)
PRESETS = {
    "debug": DEBUG,
    "laptop": LAPTOP,
    "carracing": replace(LAPTOP, episodes=300, held_out=16, out=Path("runs/carracing/data")),
    "offline_100": _graded(100, "offline_100"),
    "offline_300": _graded(300, "offline_300"),
    "tasks": replace(
        _graded(160, "tasks"),
        driver="graded_or_cruising",
        held_out_driver="graded_or_cruising",
        tasks=("drive", "cruise"),
    ),
    "crafter": _CRAFTER,
    "crafter_debug": replace(
        _CRAFTER,
        episodes=4,
        held_out=2,
        max_steps=40,
        clip_frames=16,
        processes=0,
        episodes_per_shard=2,
        out=Path("runs/crafter_debug/data"),
    ),
    "vmc_debug": _by_random_policies(DEBUG, "runs/debug/vmc/data"),
    "vmc_laptop": _by_random_policies(replace(LAPTOP, episodes=200), "runs/laptop/vmc/data"),
    "vmc_paper": _by_random_policies(replace(LAPTOP, episodes=10_000, held_out=100), "runs/paper/vmc/data"),
    "vmc_take_cover_debug": _by_random_policies(DEBUG, "runs/take_cover_debug/vmc/data", TAKE_COVER),
    "vmc_take_cover": _by_random_policies(
        replace(LAPTOP, episodes=1000, held_out=50, episodes_per_shard=50), "runs/take_cover/vmc/data", TAKE_COVER
    ),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One dataset's folder and shards."""

    folder: Path
    meta: DatasetMeta
    orders: tuple[ShardOrder, ...]

    def missing(self) -> list[ShardOrder]:
        return [order for order in self.orders if not has_shard(self.folder, order.number)]

    def is_done(self) -> bool:
        return (self.folder / INDEX).exists() and not self.missing()


def collect(config: CollectConfig) -> None:
    """Collects what is missing. Raises ValueError where the folder holds a dataset of other settings."""
    console = Console()
    plans = [
        _plan(config, "train", config.driver, config.episodes, TRAIN_TRACKS),
        _plan(config, "held_out", config.held_out_driver, config.held_out, HELD_OUT_TRACKS),
    ]
    _claim(config)
    if all(plan.is_done() for plan in plans):
        console.print(f"already done: {config.out}", markup=False, highlight=False, soft_wrap=True)
        return
    todo = [order for plan in plans for order in plan.missing()]
    for plan in plans:
        if plan.missing():
            (plan.folder / INDEX).unlink(missing_ok=True)  # a shard was lost since
    count = _Count(plans)
    with Interrupts() as interrupts, count.bar:
        carry_out(
            todo,
            collect_shard,
            count.episode,
            processes=config.processes,
            stopped=lambda: bool(interrupts.received),
        )
    for plan in plans:
        meta = finish_dataset(plan.folder, plan.meta) if not plan.is_done() else None
        what = "clips" if config.clip_frames else "episodes"
        if meta is not None:
            console.print(
                f"{plan.folder}: {meta.num_samples} {what}, {meta.num_frames} frames, {meta.num_bytes / 1e6:.0f} MB, "
                f"return {meta.return_mean:.0f} +- {meta.return_std:.0f}, best {meta.return_best:.0f}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def _plan(config: CollectConfig, name: str, driver: str, episodes: int, tracks: int) -> Plan:
    seeds = [track_seed(tracks, config.seed, episode) for episode in range(episodes)]
    extra = {"driver": driver, "seeds": seeds, "max_steps": config.max_steps}
    tasks = None if config.every_task and not config.tasks else config.tasks
    meta = dataset_meta(config.env, action_repeat=config.action_repeat, extra=extra, tasks=tasks)
    folder, size = config.out / name, config.episodes_per_shard
    orders = tuple(
        ShardOrder(
            folder=folder,
            number=number,
            meta=meta,
            driver=driver,
            seeds=tuple(seeds[start : start + size]),
            first_episode=start,
            max_steps=config.max_steps,
            every_task=config.every_task,
            clip_frames=config.clip_frames,
        )
        for number, start in enumerate(range(0, episodes, size))
    )
    return Plan(folder=folder, meta=meta, orders=orders)


def _claim(config: CollectConfig) -> None:
    """Raises ValueError where other settings were collected."""
    settings = {name: value for name, value in vars(config).items() if name not in ("out", "processes")}
    settings["tasks"] = list(config.tasks)  # as JSON gives them back
    before = claimed_as(config.out / "collect.json", settings)
    before = {"tasks": [], "every_task": False, "clip_frames": None, **before}
    differing = [f"{name}={before.get(name)!r}" for name, value in settings.items() if before.get(name) != value]
    if differing:
        raise ValueError(f"{config.out} was collected with {', '.join(differing)}: choose another --out")


class _Count:
    """Episodes done and frames a second, for the bar."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        total = sum(len(order.seeds) for plan in plans for order in plan.orders)
        left = sum(len(order.seeds) for plan in plans for order in plan.missing())
        self.bar, self._frames = Bar("episodes", total, total - left), 0

    def episode(self, frames: int, total_reward: float) -> None:
        self._frames += frames
        rate = self._frames / self.bar.seconds
        self.bar.show(self.bar.done + 1, f"{rate:.0f} frames/s  last return {total_reward:.0f}")


if __name__ == "__main__":
    main(PRESETS, collect, description=__doc__, processes="first")
