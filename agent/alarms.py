"""What goes wrong unseen while agents train, and from where on it is said in words (Dreamer 4, sec. 3.3 and 4).

A world model may erode while heads are finetuned in it; reward and end heads may be off; and a policy may find dreams
that pay without the game paying. All of it is measured on real episodes that nothing was trained on.

Axes: b clips, t frames, f features of the heads.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from agent.agent import Agent
from agent.dreaming import Dream
from agent.imagination import Imagination
from dynamics.shortcut import corrupt
from dynamics.world_model import WorldModel
from tokenizer.draws import Draws, normal
from tokenizer.losses import mean_where
from tokenizer.records import LatentClip

Measures = dict[str, float]


class Range(NamedTuple):
    """Values of a measure that nobody needs to hear of."""

    low: float
    high: float
    why: str
    """What a value outside means, and what to do."""


RANGES = {
    "video_error_ratio": Range(
        0.0,
        1.15,
        "the world model erodes: keep the video loss on, or lower the learning rate",
    ),
    "reward_bias": Range(
        -0.25, 0.25, "the reward head's sums are not the game's: train it longer before imagination trusts it"
    ),
    "reward_correlation": Range(
        0.5, 1.0, "the reward head hardly tells good frames from bad: train it longer before imagination trusts it"
    ),
    "end_excess": Range(-0.05, 0.05, "the end head sees ends where there are none: dreams end early"),
    "end_missed": Range(
        0.0, 0.9, "the end head does not see where episodes end, and dreams go on behind it: clone with --past-ends"
    ),
    "value_bias_share": Range(
        -0.5, 0.5, "the value head does not follow the returns: warm it up longer, or lower the learning rate"
    ),
    "imagined_excess": Range(
        0.0,
        1.0,
        "dreams pay more than the game ever did: the policy may exploit the reward head; raise beta or stop earlier",
    ),
    "imagined_over_real": Range(
        0.0,
        1.25,
        "dreams pay more than the game pays the same policy: it exploits the reward head or the world model",
    ),
    "kl_to_prior": Range(0.0, 1.0, "the policy has left what was demonstrated: raise beta or stop earlier"),
    "positive_share": Range(0.1, 0.9, "nearly all advantages have one sign: the value head is off"),
}


def warnings(measures: Mapping[str, float]) -> list[str]:
    """A sentence for each measure that has left its range."""
    return [
        f"{name} is {measures[name]:.3g}, outside [{low:g}, {high:g}]: {why}"
        for name, (low, high, why) in RANGES.items()
        if name in measures and not low <= measures[name] <= high
    ]


def excess(measures: Mapping[str, float]) -> float:
    """How far measures have left their ranges, in widths of these, in sum; 0 where there is nothing to warn of, and
    without end where a measure is no number."""
    off = sum(
        max(low - measures[name], measures[name] - high, 0.0) / (high - low)
        for name, (low, high, _) in RANGES.items()
        if name in measures
    )
    return math.inf if math.isnan(off) else off


@torch.no_grad()
def video_error(world: WorldModel, clips: LatentClip, generator: Draws) -> float:
    """Mean squared error of clean standardised latents, denoised at the finest step from evenly spread levels."""
    clean = world.standardise(clips.latents)
    count, frames = clean.shape[:2]
    grid = world.context_grid((count, frames))
    levels = torch.arange(count * frames, device=clean.device).reshape(frames, count).T * 7 % world.config.max_steps
    grid = grid._replace(level=levels)
    noisy = corrupt(clean, normal(generator, clean.shape), levels, world.config.max_steps)
    estimate, _ = world.denoise(noisy, grid, clips.actions, clips.labeled)
    return float((estimate.float() - clean).square().mean())


@torch.no_grad()
def policy_nll(agent: Agent, clips: LatentClip, generator: Draws) -> float:
    """-ln p of the actions to come, a distance."""
    return float(agent.policy_loss(agent.read(clips, generator), clips)) / agent.config.heads.distances


@torch.no_grad()
def head_measures(agent: Agent, clips: LatentClip, generator: Draws) -> Measures:
    """Of the reward and the end head, on real frames; none where the clips are video without actions."""
    known = clips.labeled  # the first frame of an episode has no reward to come with it
    if not known.any():
        return {}
    hidden = agent.read(clips, generator)
    reward = agent.reward.mean(agent.reward(hidden)[..., 0, :])
    goes_on = agent.end(hidden)[..., 0].sigmoid()
    real, told = clips.rewards[known], reward[known]
    return {
        "reward_bias": _ratio(float((told - real).mean()), float(real.abs().mean())),
        "reward_correlation": _correlation(told, real),
        "reward_error": float((told - real).square().mean().sqrt()),
        "end_excess": float((1 - goes_on[known]).mean() - (~clips.continues[known]).float().mean()),
    }


@torch.no_grad()
def end_missed(agent: Agent, endings: Sequence[LatentClip], generator: Draws) -> float:
    """How likely the end head finds it that episodes go on at the last frames of single clips, where they ended."""
    going_on = [agent.end(agent.read(LatentClip.stack([clip]), generator))[0, -1, 0].sigmoid() for clip in endings]
    return float(torch.stack(going_on).mean())


@torch.no_grad()
def dream_measures(model: Imagination, contexts: LatentClip, best_reward: float, generator: Draws) -> Measures:
    """Of dreams by the policy as it is; `best_reward` is the most that the game paid a frame in any real episode."""
    dream = model.dream(contexts, generator)
    counts = dream.counts
    value, returns = model.returns(dream.features, dream.reward, dream.goes_on)
    advantage = returns - value[:, :-1]
    _, kl = model.judge_policy(dream)
    spread = float(mean_where(returns.abs(), counts))
    imagined = imagined_reward(dream)
    return {
        "imagined_reward": imagined,
        "imagined_excess": over_real(imagined, best_reward),
        "value_bias_share": _ratio(-float(mean_where(advantage, counts)), spread),
        "kl_to_prior": float(mean_where(kl, counts)),
        "positive_share": float(mean_where((advantage >= 0).float(), counts)),
    }


def over_real(imagined: float, real: float) -> float:
    """How many times the game's reward of a frame dreams pay, 0 where they pay nothing or take.

    Without end where the game pays nothing and they do; 1 where neither does.
    """
    if real < 1e-6:
        return math.inf if imagined > 1e-3 else 1.0
    return max(imagined, 0.0) / real


def imagined_reward(dream: Dream) -> float:
    """A frame's, on average."""
    return float(mean_where(dream.reward, dream.counts))


def _ratio(value: float, other: float) -> float:
    """Beside next to nothing, nothing or everything."""
    if abs(other) < 1e-6:
        return 0.0 if abs(value) < 1e-3 else float("inf")
    return value / other


def _correlation(one: Tensor, other: Tensor) -> float:
    """1 where the second does not vary: there is nothing to tell apart."""
    if len(other) < 2 or float(other.std()) < 1e-6:
        return 1.0
    a, b = (values.float() - values.float().mean() for values in (one, other))
    # As means of products: under autocast torch.corrcoef multiplies matrices in 16 bits.
    return float((a * b).mean() / (a.square().mean() * b.square().mean()).sqrt().clamp_min(1e-9))
