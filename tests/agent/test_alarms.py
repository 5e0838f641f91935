"""Alarms: silent on an agent that learned its world, and each heard when the thing that it names is spoilt."""

from copy import deepcopy
from dataclasses import fields, replace

import pytest
import torch

from agent import alarms
from agent.agent import Agent
from agent.alarms import dream_measures, excess, head_measures, video_error, warnings
from agent.imagination import Imagination, ImaginationConfig
from tests.agent.conftest import toy_episodes
from tests.builders import seeded
from tokenizer.records import LatentClip


@pytest.fixture(scope="module")
def held_out() -> LatentClip:
    return toy_episodes(64, 6, seeded(77))


def heard(measures: dict[str, float]) -> set[str]:
    return {sentence.partition(" ")[0] for sentence in warnings(measures)}


def test_a_world_model_with_noise_in_its_weights_is_told_by_its_video_error(
    learned: Agent, held_out: LatentClip
) -> None:
    before = video_error(learned.world, held_out, seeded())
    assert video_error(deepcopy(learned).world, held_out, seeded()) == before
    spoilt = deepcopy(learned).world
    with torch.no_grad():
        for parameter in spoilt.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=seeded(1)))
    ratio = video_error(spoilt, held_out, seeded()) / before
    assert heard({"video_error_ratio": 1.0}) == set()
    assert heard({"video_error_ratio": ratio}) == {"video_error_ratio"}
    assert "the world model erodes" in warnings({"video_error_ratio": ratio})[0]


def test_heads_that_learned_the_game_raise_no_alarm(learned: Agent, held_out: LatentClip) -> None:
    measures = head_measures(learned, held_out, seeded())
    assert heard(measures) == set(), measures
    assert measures["reward_correlation"] > 0.9


def test_a_reward_head_that_reads_more_than_the_game_pays_is_told(learned: Agent, held_out: LatentClip) -> None:
    agent = deepcopy(learned)
    with torch.no_grad():
        agent.reward.bins.mul_(2)
    measures = head_measures(agent, held_out, seeded())
    assert heard(measures) == {"reward_bias"}
    assert measures["reward_bias"] == pytest.approx(1.0, abs=0.2)


def test_video_without_actions_says_nothing_of_the_heads(learned: Agent, held_out: LatentClip) -> None:
    assert head_measures(learned, replace(held_out, labeled=held_out.labeled & False), seeded()) == {}


def test_a_reward_head_that_reads_noise_is_told(learned: Agent, held_out: LatentClip) -> None:
    agent = deepcopy(learned)
    with torch.no_grad():
        agent.reward.trunk[0].weight.normal_(generator=seeded(3))
    assert "reward_correlation" in heard(head_measures(agent, held_out, seeded()))


def test_an_end_head_that_sees_ends_everywhere_is_told(learned: Agent, held_out: LatentClip) -> None:
    agent = deepcopy(learned)
    with torch.no_grad():
        agent.end.out_head.bias.fill_(-30)
    assert heard(head_measures(agent, held_out, seeded())) == {"end_excess"}


def test_an_end_head_that_sees_no_end_is_told_and_one_that_sees_most_is_not(
    learned: Agent, held_out: LatentClip
) -> None:
    """Its mean over all frames tells nothing: ends are one in hundreds."""
    agent = deepcopy(learned)
    single = [LatentClip(**{f.name: getattr(held_out, f.name)[i] for f in fields(held_out)}) for i in range(4)]
    clips = [single[0].window(0, 3), *single[1:]]
    for bias, told in ((30.0, {"end_missed"}), (-1.0, set())):
        with torch.no_grad():
            agent.end.out_head.weight.zero_()
            agent.end.out_head.bias.fill_(bias)
        assert heard({"end_missed": alarms.end_missed(agent, clips, seeded())}) == told


def test_dreams_that_pay_more_than_the_game_ever_did_are_told(learned: Agent, held_out: LatentClip) -> None:
    """The most that the toy pays is a coin a frame, its drives half a coin."""
    model = Imagination(ImaginationConfig(horizon=4, num_steps=1), deepcopy(learned))
    honest = dream_measures(model, held_out, 1.0, seeded())
    assert "imagined_excess" not in heard(honest) and "kl_to_prior" not in heard(honest)
    assert 0.3 < honest["imagined_reward"] < 0.7
    with torch.no_grad():
        model.agent.reward.bins.mul_(4)
    assert "imagined_excess" in heard(dream_measures(model, held_out, 1.0, seeded()))


def test_a_policy_far_from_its_prior_and_a_value_that_is_off_are_told(learned: Agent, held_out: LatentClip) -> None:
    model = Imagination(ImaginationConfig(horizon=4, num_steps=1, discount=0.5), deepcopy(learned))
    with torch.no_grad():
        for weight in model.policy.out_heads:
            weight.mul_(-30)
        model.value.out_head.bias[model.value.bins.sub(20).abs().argmin()] = 20
    told = heard(dream_measures(model, held_out, 1.0, seeded()))
    assert {"kl_to_prior", "value_bias_share", "positive_share"} <= told


def test_dreams_that_pay_where_the_game_does_not_are_told() -> None:
    """A policy that no longer drove earned -1 in the game and 4 a frame in its dreams."""
    assert alarms.over_real(4.0, 2.0) == 2 and alarms.over_real(-1.0, -2.0) == 1
    assert heard({"imagined_over_real": alarms.over_real(4.0, -0.01)}) == {"imagined_over_real"}
    assert heard({"imagined_over_real": alarms.over_real(2.0, 2.1)}) == set()
    assert heard({"imagined_excess": alarms.over_real(-0.2, 4.0)}) == set(), "they pay less, not more"


def test_how_far_measures_are_off_is_counted_in_widths_of_their_ranges() -> None:
    assert excess({"reward_bias": 0.25, "kl_to_prior": 0.5, "policy_nll": 99.0}) == 0
    assert excess({"reward_bias": -0.5, "kl_to_prior": 1.5}) == pytest.approx(0.5 + 0.5)  # widths of 0.5 and 1
    assert excess({"reward_bias": 0.0, "kl_to_prior": float("nan")}) == float("inf")


def test_every_range_says_what_to_do() -> None:
    for name, (low, high, why) in alarms.RANGES.items():
        assert low < high and len(why) > 20, name
