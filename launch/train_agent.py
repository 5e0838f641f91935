"""Train the agent by behaviour cloning: policy, reward and end heads inside the world model, its video loss kept on.

python -m launch.train_agent laptop
"""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from agent.agent import Agent, AgentConfig
from agent.relevance import relevant_clips
from launch.command import main
from launch.loop import LoopConfig
from launch.models import check_same_tokenizer, load_world
from launch.presets import MODELS
from launch.training import Source, TrainOnLatents, run_training


@dataclass(frozen=True, kw_only=True)
class TrainAgent(TrainOnLatents):
    """Half of a batch is uniform; the other half, from the better half of the clips by return, is what is cloned."""

    dynamics: Path
    """Run folder of the world model to start from."""
    model: AgentConfig = AgentConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_size", "long_batch_size"):
            rows = getattr(self, name)
            if rows is not None and (rows < 2 or rows % 2):
                raise ValueError(f"{name}={rows} is odd, and half of a batch is uniform")


def train_agent(config: TrainAgent) -> None:
    def build(source: Source) -> nn.Module:
        world = load_world(config.dynamics).requires_grad_(True)
        check_same_tokenizer(world.config.tokenizer, source.meta.tokenizer, model=config.dynamics, other=config.encoder)
        return Agent(replace(config.model, dynamics=world.config, num_tasks=len(source.meta.tasks)), world)

    run_training(config, build, kind="latents", tokenizer=config.tokenizer, relevant=relevant_clips)


PRESETS = {
    "debug": TrainAgent(
        run=Path("runs/debug/agent"),
        data=("runs/debug/latents/train",),
        dynamics=Path("runs/debug/dynamics"),
        batch_size=4,
        length=10,
        model=MODELS["debug"].agent,
        loop=LoopConfig(steps=4, warmup_steps=1, log_every=1, save_every=2, learning_rate=1e-3),
    ),
    "laptop": TrainAgent(
        run=Path("runs/laptop/agent"),
        data=("runs/laptop/latents/train",),
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

GIVEN = {AgentConfig: ["dynamics", "num_tasks"]}
"""What the command itself fills in, from the data or from the run that it starts from."""

if __name__ == "__main__":
    main(PRESETS, train_agent, description=__doc__, given=GIVEN)
