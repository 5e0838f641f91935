"""Train the agent by behaviour cloning: policy, reward and end heads inside the world model, its video loss kept on.

    python -m launch.train_agent laptop
    python -m launch.train_agent laptop --from-scratch --model.learns policy --run runs/laptop/bc_scratch
    python -m launch.train_agent laptop --relevant-share 0.15 --run runs/laptop/filtered

The second clones without what the world model knows, the third only the best drives. With --held-out alarms tell when
the world model erodes or the reward head is off, and the checkpoint that is best on held-out episodes is kept.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from agent.agent import Agent, AgentConfig
from agent.relevance import relevant_clips
from dynamics.world_model import WorldModel
from launch.command import main
from launch.loop import LoopConfig
from launch.models import check_fits, load_world
from launch.preset_loops import LOOPS
from launch.presets import MODELS
from launch.training import Source, run_training
from launch.watching import CLIPS_OF_MANY_TASKS, TrainAndWatch, Watch
from tokenizer.shard_format import CorruptSample
from tokenizer.shards import Dataset
from tokenizer.stream import too_short, window_places

LOOKED_AT = 64
"""Clips whose actions are looked for before a training."""


@dataclass(frozen=True, kw_only=True)
class TrainAgent(TrainAndWatch):
    """Half of a batch is uniform; the other half, from the better clips by return, is what is cloned."""

    dynamics: Path
    """Run folder of the world model to start from."""
    from_scratch: bool = False
    """Whether the world model's weights are drawn anew: the same network that has learned nothing yet."""
    relevant_share: float = 0.5
    """The best of the clips by return, of each task, that are cloned."""
    past_ends: bool = False
    """Whether windows begin at any frame and are filled up with another clip behind an end, of which nothing is
    learned: so ends, which are rare, are met as often as they come, at any place, and no clip is too short. Without it
    windows lie within clips, and few reach an end."""
    model: AgentConfig = AgentConfig()

    @property
    def joins_episodes(self) -> bool:
        return self.past_ends

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_size", "long_batch_size"):
            rows = getattr(self, name)
            if rows is not None and (rows < 2 or rows % 2):
                raise ValueError(f"{name}={rows} is odd, and half of a batch is uniform")
        if not 0 < self.relevant_share <= 1:
            raise ValueError(f"relevant_share={self.relevant_share} is not in (0, 1]")


def train_agent(config: TrainAgent) -> None:
    relevant = partial(relevant_clips, share=config.relevant_share)
    watch = None
    if config.watched is not None:
        watch = Watch(config, score=lambda measures: -measures["policy_nll"], relevant=relevant)

    def build(source: Source) -> nn.Module:
        if config.past_ends and all(sample.length < config.length for sample in source.dataset.samples):
            raise too_short(source.dataset, config.length)  # a stream past ends would fill any length up
        world = load_world(config.dynamics).requires_grad_(True)
        check_fits(world.config, source.meta, model=config.dynamics, other=config.encoder)
        if not knows_actions(source.dataset, config.length):
            name = source.dataset.name
            raise ValueError(f"no action is known in {LOOKED_AT} clips of {name}: there is nothing to clone")
        if config.from_scratch:
            world = _fresh(world)
        if watch is not None:
            watch.begin(world, tasks=source.meta.tasks, model=config.dynamics)
        return Agent(replace(config.model, dynamics=world.config, tasks=source.meta.tasks), world)

    run_training(config, build, kind="latents", tokenizer=config.tokenizer, relevant=relevant, evaluate=watch)


def knows_actions(dataset: Dataset, length: int) -> bool:
    """Whether any is known in some of the clips that a training will see, of those that have actions.

    Raises CorruptSample where none of them can be read.
    """
    dataset = dataset.only([sample for sample in dataset.samples if sample.has_actions] or dataset.samples)
    longest = max(sample.length for sample in dataset.samples)
    damage, read = None, 0
    for index, first in window_places(dataset, window := min(length, longest), LOOKED_AT):
        try:
            if dataset.read_window(index, first, window).labeled.any():
                return True
            read += 1
        except CorruptSample as error:
            damage = error
    if damage is not None and not read:
        raise damage
    return False


def _fresh(world: WorldModel) -> WorldModel:
    """The same network as it is made, with the standardisation of its latents."""
    fresh = WorldModel(world.config)
    for name in ("latent_mean", "latent_std"):
        getattr(fresh, name).copy_(getattr(world, name))
    return fresh


PRESETS = {
    "debug": TrainAgent(
        run=Path("runs/debug/agent"),
        data=("runs/debug/latents/train",),
        held_out_clips=2,
        dynamics=Path("runs/debug/dynamics"),
        batch_size=4,
        length=10,
        past_ends=True,
        model=MODELS["debug"].agent,
        loop=LoopConfig(steps=4, warmup_steps=1, log_every=1, save_every=2, learning_rate=1e-3),
    ),
    "laptop": TrainAgent(
        run=Path("runs/laptop/agent"),
        data=("runs/laptop/latents/train",),
        evaluate_every=200,
        dynamics=Path("runs/laptop/dynamics"),
        batch_size=8,
        length=24,
        model=MODELS["laptop"].agent,
        loop=LoopConfig(
            steps=700,
            warmup_steps=50,
            log_every=20,
            save_every=200,
            learning_rate=1.5e-3,
            optimizer="muon",
            ema_decay=0.99,
            compile=True,
        ),
    ),
}
PRESETS["study"] = replace(
    PRESETS["laptop"],
    run=Path("runs/study/agent"),
    data=("runs/study/latents/train",),
    dynamics=Path("runs/study/dynamics"),
    length=20,
    evaluate_every=300,
    model=MODELS["study"].agent,
    loop=replace(PRESETS["laptop"].loop, steps=900, save_every=300),
)
PRESETS["study_large"] = replace(
    PRESETS["study"],
    run=Path("runs/study_large/agent"),
    data=("runs/study_large/latents/train",),
    dynamics=Path("runs/study_large/dynamics"),
    batch_size=32,
    num_workers=2,
    model=MODELS["study_large"].agent,
)
PRESETS["crafter"] = replace(
    PRESETS["study"],
    run=Path("runs/crafter/agent"),
    data=("runs/crafter/latents/train",),
    dynamics=Path("runs/crafter/dynamics"),
    batch_size=16,
    evaluate_every=400,
    held_out_clips=CLIPS_OF_MANY_TASKS,
    model=MODELS["crafter"].agent,
    loop=replace(PRESETS["study"].loop, steps=1200, save_every=400),
)
PRESETS["crafter_debug"] = replace(
    PRESETS["debug"],
    run=Path("runs/crafter_debug/agent"),
    data=("runs/crafter_debug/latents/train",),
    dynamics=Path("runs/crafter_debug/dynamics"),
)
PRESETS["base"] = TrainAgent(
    run=Path("runs/base/agent"),
    past_ends=True,
    data=("runs/base/latents/train",),
    dynamics=Path("runs/base/dynamics"),
    batch_size=MODELS["base"].dynamics_clips.batch,
    length=MODELS["base"].dynamics_clips.frames,
    num_workers=4,
    evaluate_every=1000,
    held_out_clips=CLIPS_OF_MANY_TASKS,
    model=MODELS["base"].agent,
    loop=replace(LOOPS["base"], steps=10_000),
)
PRESETS["dreamer4"] = replace(
    PRESETS["base"],
    run=Path("runs/dreamer4/agent"),
    data=("runs/dreamer4/latents/train",),
    dynamics=Path("runs/dreamer4/dynamics"),
    batch_size=MODELS["dreamer4"].dynamics_clips.batch,
    length=MODELS["dreamer4"].dynamics_clips.frames,
    model=MODELS["dreamer4"].agent,
    loop=replace(LOOPS["dreamer4"], steps=20_000),
)

GIVEN = {AgentConfig: ["dynamics", "tasks"]}
"""What the command itself fills in, from the data or from the run that it starts from."""

if __name__ == "__main__":
    main(PRESETS, train_agent, description=__doc__, given=GIVEN)
