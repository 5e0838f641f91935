"""Intervals over held-out drives, of which several windows are seen."""

import numpy as np
import pytest
import torch

from launch.resampling import draw_clips, mean_of_draws, summarise_draws


def test_an_interval_has_the_spread_of_the_draws_about_the_value_itself() -> None:
    found = summarise_draws(np.concatenate([[10.0], np.linspace(100.0, 200.0, 1001)]))
    assert found["value"] == 10 and found["ci95"] == pytest.approx([10 - 47.5, 10 + 47.5])


def test_an_interval_of_a_ratio_holds_its_own_value() -> None:
    """A few draws with a denominator near zero pulled the mean of all draws far above the value."""
    drawn = np.concatenate([np.linspace(0.2, 0.4, 999), [5000.0, 9000.0]])
    low, high = summarise_draws(np.concatenate([[0.3], drawn]))["ci95"]
    assert low < 0.3 < high


def test_windows_of_an_episode_are_drawn_together() -> None:
    draws = draw_clips([3, 3, 7, 7, 7])
    assert draws[0].tolist() == [0, 1, 2, 3, 4] and len(draws) > 200
    kinds = {tuple(draw.tolist()) for draw in draws[1:]}
    assert kinds == {(0, 1, 0, 1), (0, 1, 2, 3, 4), (2, 3, 4, 0, 1), (2, 3, 4, 2, 3, 4)}
    assert all(torch.equal(*pair) for pair in zip(draws, draw_clips([3, 3, 7, 7, 7]), strict=True))


def test_alike_windows_of_few_episodes_say_less_than_as_many_episodes() -> None:
    values = [0.0] * 8 + [1.0] * 8
    (low, high), (wide_low, wide_high) = (
        mean_of_draws(values, draw_clips(episodes))["ci95"] for episodes in (range(16), [0] * 8 + [1] * 8)
    )
    assert (wide_low, wide_high) == (0.0, 1.0) and 0.2 < low < 0.5 < high < 0.8
