"""Imagination training's arithmetic: lambda-returns (eq. 10) and PMPO (eq. 11).

Axes: b dreams, t steps of a dream. Step t chose the action that led to frame t+1.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenizer.losses import mean_where


def lambda_return(
    reward: Float[Tensor, "b t"],
    value: Float[Tensor, "b t"],
    goes_on: Float[Tensor, "b t"],
    *,
    discount: float,
    decay: float,
) -> Float[Tensor, "b t"]:
    """R_t = r_{t+1} + gamma c_{t+1} [(1 - lambda) v_{t+1} + lambda R_{t+1}], and beyond the last step R = v.

    All three inputs hold at [:, t] what belongs to frame t+1.
    """
    after = value[:, -1]
    returns = []
    for t in reversed(range(reward.shape[1])):
        after = reward[:, t] + discount * goes_on[:, t] * ((1 - decay) * value[:, t] + decay * after)
        returns.append(after)
    return torch.stack(returns[::-1], dim=1)


def pmpo_loss(
    log_prob: Float[Tensor, "b t"],
    advantage: Float[Tensor, "b t"],
    kl: Float[Tensor, "b t"],
    counts: Bool[Tensor, "b t"],
    signs: Bool[Tensor, "b t"] | None = None,
    *,
    alpha: float,
    beta: float,
) -> Float[Tensor, ""]:
    """(1 - alpha) mean_{A<0} ln pi - alpha mean_{A>=0} ln pi + beta mean KL[pi || prior].

    Each set is averaged by itself over batch and time; an empty set adds nothing. Steps where `counts` is false (after
    the end of an episode) are in neither, nor are those where `signs` is false, whose KL counts all the same.
    """
    told = counts if signs is None else counts & signs
    good = mean_where(log_prob, (advantage >= 0) & told)
    bad = mean_where(log_prob, (advantage < 0) & told)
    return (1 - alpha) * bad - alpha * good + beta * mean_where(kl, counts)


def far_from_zero(advantage: Float[Tensor, "b t"], counts: Bool[Tensor, "b t"], least: float) -> Bool[Tensor, "b t"]:
    """Where |A| is at least `least` times its root mean square over the steps that count."""
    return advantage.abs() >= least * mean_where(advantage.square(), counts).sqrt()
