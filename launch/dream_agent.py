"""Watch agents drive one real track side by side, and a dream of theirs beside what the game then really did.

    python -m launch.dream_agent laptop
    python -m launch.dream_agent laptop --agent cloned --track 2000007

`drives.mp4` shows the cloned and the imagined agent on the same track. For `dream.mp4` one of them drives for
`context` frames, then dreams on by its own policy; the actions that it chose in the dream are then carried out in the
game, from where it stood. `dream_agent.json` says what the dream paid, by the reward head, and what the game did.
Sums, correlations and PSNR are of the frames until the game's episode ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from agent.acting import AgentPolicy
from agent.agent import Agent
from agent.dreaming import Dream
from agent.envs.vector import VectorEnv
from agent.scoring import play
from agent.seeds import EVALUATION_TRACKS
from launch.agent_dreams import Driven, carry_out, compare, dream_on, drive_on
from launch.command import main
from launch.encoding import encode_episode
from launch.memory import fits
from launch.models import agent_checkpoint, check_can_dream, default_device, for_inference, identity, load_actor, newest
from launch.open_loop import HORIZONS, decode
from launch.pictures import save_rows, save_side_by_side
from launch.run_folder import write_json
from launch.tasks import scored_task
from launch.training import open_dataset
from tokenizer.autoencoder import Tokenizer, to_float
from tokenizer.metrics import psnr
from tokenizer.shard_format import DatasetMeta

GAP = 1
"""White pixels between panels, enlarged with them."""
AGENTS = ("cloned", "imagined")


@dataclass(frozen=True, kw_only=True)
class DreamAgent:
    run: Path
    """Folder that gets videos, strip and numbers."""
    data: Path
    """Folder of the training shards: names the environment."""
    tokenizer: Path
    cloned: Path
    imagined: Path
    agent: Literal["cloned", "imagined"] = "imagined"
    """The one that dreams."""
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
    seed: int = 0
    """Of what the dreaming agent draws."""
    compile: bool = False
    json: Path | None = None
    """Also write the numbers here."""

    def __post_init__(self) -> None:
        for name, least in {"track": 0, "starts": 1, "context": 1, "horizon": 1, "max_steps": 1, "seed": 0}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value}, needs at least {least}")

    @property
    def tracks(self) -> range:
        """Of the dreams."""
        return range(self.track, self.track + self.starts)


def dream_agent(config: DreamAgent) -> None:
    meta = open_dataset(config.data, "frames").meta
    device = default_device()
    agents: dict[str, Agent] = {}
    for name in AGENTS:
        eyes, agent = load_actor(getattr(config, name), config.tokenizer, meta, config.data, told={meta.tasks[0]: 0})
        agents[name] = for_inference(agent, device, compile=config.compile)
    check_can_dream(agents[config.agent], getattr(config, config.agent))
    tokenizer = for_inference(eyes, device, compile=config.compile)
    driven = drive(config, meta, tokenizer, agents)
    with fits(f"{config.starts} dreams of {config.horizon} frames", "lower --starts, --context or --horizon"):
        report(config, meta, driven, *dream(config, meta, tokenizer, agents[config.agent]))


def drive(config: DreamAgent, meta: DatasetMeta, tokenizer: Tokenizer, agents: Mapping[str, Agent]) -> dict[str, float]:
    """Films the agents on one track, side by side until the last of them has ended; what each of them earned."""
    films, earned = {}, {}
    for name, agent in agents.items():
        with _envs(meta, 1) as envs:
            task = scored_task("", meta, envs.task_names)
            played = play(AgentPolicy(tokenizer, agent), envs, [config.track], task=task, max_steps=config.max_steps)
        earned[name] = played.returns[0]
        films[f"{name}: {earned[name]:.0f}"] = to_float(torch.from_numpy(played.first_frames))
    longest = max(map(len, films.values()))
    held = {name: torch.cat([film, film[-1:].expand(longest - len(film), -1, -1, -1)]) for name, film in films.items()}
    save_side_by_side(config.run / "drives.mp4", _apart(held), meta.fps)
    return earned


def dream(
    config: DreamAgent, meta: DatasetMeta, tokenizer: Tokenizer, agent: Agent
) -> tuple[Tensor, Driven, Dream, Driven]:
    """The dreams' pixels [b, t, c, h, w], the drives before them, the dreams, and their actions in the game."""
    with _envs(meta, config.starts) as envs:
        policy = AgentPolicy(tokenizer, agent)
        task = scored_task("", meta, envs.task_names)
        context = drive_on(envs, policy, config.tracks, config.context, seed=config.seed, task=task)
        latents = torch.stack([encode_episode(tokenizer, torch.from_numpy(frames)) for frames in context.frames])
        dreamed = dream_on(agent, context, latents, config.horizon, policy.generator)
        real = carry_out(envs, dreamed.actions, task=task)
    pixels = decode(tokenizer, torch.cat([latents, dreamed.latents.cpu()], dim=1), config.context)
    return pixels, context, dreamed, real


def report(
    config: DreamAgent,
    meta: DatasetMeta,
    drives: Mapping[str, float],
    pixels: Tensor,
    context: Driven,
    dreamed: Dream,
    real: Driven,
) -> None:
    """Table, videos, strip and numbers."""
    frames = to_float(torch.from_numpy(real.frames))
    quality, rewards = psnr(pixels, frames).numpy(), dreamed.reward.double().cpu().numpy()
    chosen, rows = dreamed.actions.float().cpu(), []
    for i, (track, lived) in enumerate(zip(config.tracks, real.lengths, strict=True)):
        paid = compare(rewards[i], real.rewards[i, :lived])
        driven = {"context_actions": context.actions[i, 1:].tolist(), "actions": chosen[i, :lived].tolist()}
        rows.append({"track": track, **paid, "psnr": quality[i, :lived].tolist(), **driven})
    show(config, rows)
    pictures(config, meta, pixels, frames)
    longest = max(real.lengths)
    made = {name: identity(agent_checkpoint(getattr(config, name))) for name in AGENTS}
    numbers = {
        "drives": {"track": config.track, **drives},
        "agent": config.agent,
        "starts": rows,
        "psnr": [float(np.mean([row["psnr"][h] for row in rows if h < row["compared"]])) for h in range(longest)],
        "context": config.context,
        "horizon": config.horizon,
        "seed": config.seed,
        "made_by": {"tokenizer": identity(newest(config.tokenizer, "Tokenizer")), **made},
    }
    for path in filter(None, (config.run / "dream_agent.json", config.json)):
        write_json(path, numbers)
    print(f"videos, strip and numbers in {config.run}")


def show(config: DreamAgent, rows: list[dict[str, Any]]) -> None:
    table = Table(title=f"{config.horizon} frames dreamed by the {config.agent} agent, and its actions in the game")
    for column in ("track", "dream pays", "game pays", "correlation by frame", "PSNR (dB)", "frames compared"):
        table.add_column(column, justify="right")
    for row in rows:
        correlation = "none" if row["correlation"] is None else f"{row['correlation']:.2f}"
        sums = (f"{row[name]:.1f}" for name in ("dreamed_sum", "real_sum"))
        table.add_row(str(row["track"]), *sums, correlation, f"{np.mean(row['psnr']):.1f}", str(row["compared"]))
    Console().print(table)


def pictures(config: DreamAgent, meta: DatasetMeta, pixels: Tensor, frames: Tensor) -> None:
    """Each start's dream above the game."""
    shown = [h - 1 for h in HORIZONS if h <= config.horizon]
    strip: dict[str, Tensor] = {}
    films: dict[str, Tensor] = {}
    for track, dreamed, real in zip(config.tracks, pixels, frames, strict=True):
        strip |= {f"{track} dream": dreamed[shown], f"{track} game": real[shown]}
        films[f"{track}: dream above game"] = torch.cat([F.pad(dreamed, (0, 0, 0, GAP), value=1.0), real], dim=-2)
    save_rows(config.run / "dream_strip.png", strip)
    save_side_by_side(config.run / "dream.mp4", _apart(films), meta.fps, panels=2)


def _apart(films: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With a gap after each but the last."""
    last = list(films)[-1]
    return {name: film if name == last else F.pad(film, (0, GAP), value=1.0) for name, film in films.items()}


def _envs(meta: DatasetMeta, count: int) -> VectorEnv:
    return VectorEnv(meta.environment, num_envs=count, processes=0, stock=True, action_repeat=meta.action_repeat)


SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "debug": ("debug", {"starts": 2, "context": 3, "horizon": 4, "max_steps": 8}),
    "laptop": ("laptop", {}),
    "study": ("study/seed_0", {}),
    "study_large": ("study_large/seed_0", {}),
}
PRESETS = {
    name: DreamAgent(
        run=Path(f"runs/{folder}/dream_agent"),
        data=Path(f"runs/{folder.partition('/')[0]}/data/train"),
        tokenizer=Path(f"runs/{folder.partition('/')[0]}/tokenizer"),
        cloned=Path(f"runs/{folder}/{'cloned' if '/' in folder else 'agent'}"),
        imagined=Path(f"runs/{folder}/{'imagined' if '/' in folder else 'imagination'}"),
        **sizes,
    )
    for name, (folder, sizes) in SIZES.items()
}

if __name__ == "__main__":
    main(PRESETS, dream_agent, description=__doc__, processes="first")
