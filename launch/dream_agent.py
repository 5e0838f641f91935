"""Watch agents drive one real track side by side, and a dream of theirs beside what the game then really did.

    python -m launch.dream_agent laptop

`drives.mp4` shows the cloned and the imagined agent on the same track. For `dream.mp4` the imagined agent drives for
`context` frames, then dreams on by its own policy; the actions that it chose in the dream are then carried out in the
game, from where it stood. `dream_agent.json` says what the dream paid, by the reward head, and what the game did.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from agent.acting import AgentPolicy
from agent.agent import Agent
from agent.envs.base import Arrival
from agent.envs.vector import VectorEnv
from agent.scoring import play
from agent.seeds import EVALUATION_TRACKS
from dynamics.simulator import Simulator
from launch.command import main
from launch.encoding import encode_episode
from launch.models import agent_checkpoint, default_device, for_inference, identity, load_actor, newest
from launch.open_loop import decode
from launch.pictures import save_rows, save_side_by_side
from launch.run_folder import write_json
from launch.training import open_dataset
from tokenizer.autoencoder import Tokenizer, to_float
from tokenizer.metrics import psnr
from tokenizer.records import LatentClip
from tokenizer.shard_format import DatasetMeta

SHOWN = (1, 2, 4, 8, 16, 32, 64)
"""Frames ahead in the strip."""


@dataclass(frozen=True, kw_only=True)
class DreamAgent:
    run: Path
    """Folder that gets videos, strip and numbers."""
    data: Path
    """Folder of the training shards: names the environment."""
    tokenizer: Path
    cloned: Path
    imagined: Path
    track: int = EVALUATION_TRACKS
    """Seed of the track that both drive; dreams begin on it and on those that follow."""
    starts: int = 4
    """Dreams, each on a track of its own."""
    context: int = 40
    """Frames that are driven before the dream begins."""
    horizon: int = 48
    """Dreamed frames."""
    max_steps: int | None = None
    """Actions after which the drives are cut; whole episodes where not given."""
    compile: bool = False
    json: Path | None = None
    """Also write the numbers here."""

    def __post_init__(self) -> None:
        for name in ("starts", "context", "horizon"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}, needs at least 1")


class Driven(NamedTuple):
    """Real frames of several environments, and what came with them."""

    frames: NDArray[np.uint8]
    """[b, t, c, h, w]."""
    actions: NDArray[np.float32]
    labeled: NDArray[np.bool_]
    rewards: NDArray[np.float32]


class Dreamed(NamedTuple):
    latents: Tensor
    """[b, t, n, d], without the context's."""
    actions: Tensor
    rewards: Tensor
    """As the reward head reads them, [b, t]."""


def dream_agent(config: DreamAgent) -> None:
    meta = open_dataset(config.data, "frames").meta
    agents: dict[str, Agent] = {}
    for name in ("cloned", "imagined"):
        eyes, agent = load_actor(getattr(config, name), config.tokenizer, meta, config.data)
        agents[name] = for_inference(agent, default_device(), compile=config.compile)
    tokenizer = for_inference(eyes, default_device(), compile=config.compile)
    drive(config, meta, tokenizer, agents)
    with _envs(meta, config.starts) as envs:
        policy = AgentPolicy(tokenizer, agents["imagined"])
        context = _drive_on(envs, policy, config)
        latents = torch.stack([encode_episode(tokenizer, torch.from_numpy(frames)) for frames in context.frames])
        dreamed = dream(agents["imagined"], context, latents, config.horizon)
        real = _carry_out(envs, dreamed.actions.cpu().numpy())
    pixels = decode(tokenizer, torch.cat([latents, dreamed.latents.cpu()], dim=1), config.context)
    report(config, meta, pixels, dreamed, real)


def drive(config: DreamAgent, meta: DatasetMeta, tokenizer: Tokenizer, agents: Mapping[str, Agent]) -> None:
    """The agents on one track, side by side until the last of them has ended."""
    films = {}
    for name, agent in agents.items():
        with _envs(meta, 1) as envs:
            played = play(AgentPolicy(tokenizer, agent), envs, [config.track], max_steps=config.max_steps)
        films[f"{name}: {played.returns[0]:.0f}"] = to_float(torch.from_numpy(played.first_frames))
    longest = max(map(len, films.values()))
    held = {name: torch.cat([film, film[-1:].expand(longest - len(film), -1, -1, -1)]) for name, film in films.items()}
    save_side_by_side(config.run / "drives.mp4", held, meta.fps)


@torch.no_grad()
def dream(agent: Agent, context: Driven, latents: Tensor, horizon: int) -> Dreamed:
    """Goes on from the context by the agent's own policy."""
    device = agent.token_embed.device
    generator = torch.Generator(device).manual_seed(0)
    count, frames = context.labeled.shape
    task = torch.zeros(count, dtype=torch.int64, device=device)
    clip = LatentClip(
        latents=latents.float(),
        actions=torch.from_numpy(context.actions),
        labeled=torch.from_numpy(context.labeled),
        rewards=torch.from_numpy(context.rewards),
        continues=torch.ones(count, frames, dtype=torch.bool),
        is_first=torch.from_numpy(~context.labeled),
        task=task,
    ).to(device)
    simulator = Simulator(agent.world, agent_tokens=agent.tokens(task), generator=generator)
    hidden = agent.features(simulator.reset(clip)[:, -1])
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(horizon):
        action = agent.policy.sample(agent.policy(hidden), generator, temperature=agent.config.temperature)
        moment = simulator.step(action)
        hidden = agent.features(moment.agent_output)
        found.append((moment.latents, action, agent.reward.mean(agent.reward(hidden)[..., 0, :])))
    return Dreamed(*(torch.stack(parts, dim=1) for parts in zip(*found, strict=True)))


def report(config: DreamAgent, meta: DatasetMeta, pixels: Tensor, dreamed: Dreamed, real: Driven) -> None:
    frames = to_float(torch.from_numpy(real.frames))
    quality, rewards = psnr(pixels, frames).mean(0).tolist(), dreamed.rewards.float().cpu().numpy()
    rows = [_compare(rewards[i], real.rewards[i], config.track + i) for i in range(config.starts)]
    table = Table(title=f"{config.horizon} frames dreamed by the agent's own policy, and the same actions in the game")
    for column in ("track", "dream pays", "game pays", "correlation by frame"):
        table.add_column(column, justify="right")
    for row in rows:
        sums = (f"{sum(row[name]):.1f}" for name in ("dreamed_rewards", "real_rewards"))
        table.add_row(str(row["track"]), *sums, f"{row['correlation']:.2f}")
    Console().print(table)
    shown = [h - 1 for h in SHOWN if h <= config.horizon]
    save_rows(config.run / "dream_strip.png", {"dream": pixels[0, shown], "game": frames[0, shown]})
    films = {f"{config.track + i}: dream above game": torch.cat([pixels[i], frames[i]], -2) for i in range(len(rows))}
    save_side_by_side(config.run / "dream.mp4", films, meta.fps, scale=3)
    made = {
        "tokenizer": identity(newest(config.tokenizer, "Tokenizer")),
        **{name: identity(agent_checkpoint(getattr(config, name))) for name in ("cloned", "imagined")},
    }
    numbers = {"starts": rows, "psnr": quality, "context": config.context, "made_by": made}
    for path in filter(None, (config.run / "dream_agent.json", config.json)):
        write_json(path, numbers)
    print(f"videos, strip and numbers in {config.run}")


def _compare(dreamed: NDArray[np.float32], real: NDArray[np.float32], track: int) -> dict[str, Any]:
    varied = len(real) > 1 and dreamed.std() > 0 and real.std() > 0
    return {
        "track": track,
        "dreamed_rewards": dreamed.tolist(),
        "real_rewards": real.tolist(),
        "correlation": float(np.corrcoef(dreamed, real)[0, 1]) if varied else 0.0,
    }


def _envs(meta: DatasetMeta, count: int) -> VectorEnv:
    return VectorEnv(meta.environment, num_envs=count, processes=0, stock=True, action_repeat=meta.action_repeat)


def _drive_on(envs: VectorEnv, policy: AgentPolicy, config: DreamAgent) -> Driven:
    policy.reset(config.track)
    arrivals = [envs.reset(range(config.track, config.track + config.starts))]
    while len(arrivals) < config.context:
        arrivals.append(envs.step(policy.act(arrivals[-1])))
    if any(arrival.is_last for arrival in arrivals[-1]):
        raise ValueError(f"context={config.context}: an episode had ended by then, give fewer frames")
    return _driven(arrivals)


def _carry_out(envs: VectorEnv, actions: NDArray[np.float32]) -> Driven:
    return _driven([envs.step(rows) for rows in actions.swapaxes(0, 1)])


def _driven(arrivals: Sequence[Sequence[Arrival]]) -> Driven:
    """[t][b] arrivals as [b, t] arrays."""
    by_env = list(zip(*arrivals, strict=True))
    return Driven(
        np.stack([np.stack([a.frame for a in row]) for row in by_env]),
        np.stack([np.stack([a.action for a in row]) for row in by_env]),
        np.array([[a.labeled for a in row] for row in by_env]),
        np.array([[a.reward for a in row] for row in by_env], dtype=np.float32),
    )


SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "debug": ("debug", {"starts": 2, "context": 3, "horizon": 4, "max_steps": 8}),
    "laptop": ("laptop", {}),
    "study": ("study/seed_0", {}),
}
PRESETS = {
    name: DreamAgent(
        run=Path(f"runs/{folder}/dream_agent"),
        data=Path(f"runs/{folder.partition('/')[0]}/data/train"),
        tokenizer=Path(f"runs/{folder.partition('/')[0]}/tokenizer"),
        cloned=Path(f"runs/{folder}/{'cloned' if name == 'study' else 'agent'}"),
        imagined=Path(f"runs/{folder}/{'imagined' if name == 'study' else 'imagination'}"),
        **sizes,
    )
    for name, (folder, sizes) in SIZES.items()
}

if __name__ == "__main__":
    main(PRESETS, dream_agent, description=__doc__, processes="first")
