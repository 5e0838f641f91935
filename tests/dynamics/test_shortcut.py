"""Shortcut forcing's arithmetic: the grid, the targets by hand, and sampling along a straight line."""

import pytest
import torch
from torch import Tensor

from dynamics.shortcut import Grid, bootstrap_target, corrupt, draw_grid, ramp_weight, sample, shortcut_error
from tests.builders import seeded

K_MAX = 64


@pytest.fixture(scope="module")
def grid() -> Grid:
    """The first 200 rows are bootstrap rows."""
    return draw_grid((400, 50), 200, K_MAX, seeded())


def shares(values: Tensor) -> Tensor:
    return values.unique(return_counts=True)[1] / values.numel()


def test_flow_rows_stand_at_the_finest_step_on_every_level_up_to_clean(grid: Grid) -> None:
    assert (grid.units[200:] == 1).all()
    levels = grid.level[200:]
    assert levels.unique().tolist() == list(range(K_MAX + 1))
    torch.testing.assert_close(shares(levels), torch.full((65,), 1 / 65), atol=0.006, rtol=0)


def test_bootstrap_rows_draw_every_power_of_two_alike(grid: Grid) -> None:
    units = grid.units[:200]
    assert units.unique().tolist() == [1, 2, 4, 8, 16, 32, 64]
    torch.testing.assert_close(shares(units), torch.full((7,), 1 / 7), atol=0.015, rtol=0)


@pytest.mark.parametrize("step", [1, 2, 4, 8, 16, 32, 64])
def test_levels_are_whole_steps_that_leave_room_for_one_more(grid: Grid, step: int) -> None:
    levels = grid.level[:200][grid.units[:200] == step]
    last = K_MAX if step == 1 else K_MAX - step  # only the finest step meets clean frames
    assert levels.unique().tolist() == list(range(0, last + 1, step))
    places = last // step + 1
    torch.testing.assert_close(shares(levels), torch.full((places,), 1 / places), atol=0.06, rtol=0)


def test_each_frame_draws_by_itself(grid: Grid) -> None:
    assert (grid.units[:200].unique(dim=1).shape[1], grid.level[200:].unique(dim=1).shape[1]) == (50, 50)
    assert (grid.level[200:].unique(dim=0).shape[0]) == 200


def test_without_bootstrap_rows_all_is_flow() -> None:
    assert (draw_grid((8, 8), 0, 4, seeded()).units == 1).all()


def test_the_generator_decides_the_grid() -> None:
    one, two, other = (draw_grid((8, 8), 4, K_MAX, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.level, two.level) and torch.equal(one.units, two.units)
    assert not torch.equal(one.level, other.level)


def test_level_zero_is_noise_and_the_last_level_is_data() -> None:
    clean, noise = torch.randn(2, 1, 3, 2, 2).unbind(0)
    found = corrupt(clean, noise, torch.tensor([[0, 8, 2]]), 8)
    assert torch.equal(found[:, 0], noise[:, 0]) and torch.equal(found[:, 1], clean[:, 1])
    torch.testing.assert_close(found[:, 2], 0.75 * noise[:, 2] + 0.25 * clean[:, 2])


def test_the_weight_ramps_from_a_tenth_to_one() -> None:
    torch.testing.assert_close(ramp_weight(torch.tensor([[0, 4, 8]]), 8), torch.tensor([[0.1, 0.55, 1.0]]))


def scalar(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)


def test_a_bootstrap_target_by_hand() -> None:
    """f(z) = 2z from z = 1 at tau = 0 over the whole way: b' = 1, z' = 1.5, b'' = (3 - 1.5) / 0.5 = 3, target 1 + 2."""
    seen = []

    def denoise(noisy: Tensor, level: Tensor, units: Tensor) -> Tensor:
        seen.append((noisy.flatten().tolist(), level.tolist(), units.tolist()))
        return 2 * noisy

    # The second frame: tau = 1/4, d = 1/4: b' = 1 / 0.75, z' = 1 + b'/8, b'' = z' / 0.625. The third stands at d_min.
    grid = Grid(torch.tensor([[0, 2, 5]]), torch.tensor([[8, 2, 1]]))
    target = bootstrap_target(denoise, scalar(1, 1, 1), grid, 8)
    moved = 1 + 1 / 0.75 / 8
    torch.testing.assert_close(target[:, :2], scalar(3, 1 + 0.75 * (1 / 0.75 + moved / 0.625) / 2))
    assert seen[0] == ([1, 1, 1], [[0, 2, 5]], [[4, 1, 1]])
    assert seen[1][0] == pytest.approx([1.5, moved, 1]) and seen[1][1:] == ([[4, 3, 5]], [[4, 1, 1]])


def test_two_half_steps_of_a_straight_flow_equal_a_whole_one() -> None:
    grid = draw_grid((50, 8), 50, K_MAX, seeded())
    clean, noise = torch.randn(2, 50, 8, 2, 3).unbind(0)
    target = bootstrap_target(lambda *_: clean, corrupt(clean, noise, grid.level, K_MAX), grid, K_MAX)
    halves = grid.units > 1  # the others have no target
    torch.testing.assert_close(target[halves], clean[halves], atol=1e-4, rtol=0)


def test_a_clean_frame_gives_a_finite_target() -> None:
    grid = Grid(torch.tensor([[8]]), torch.tensor([[1]]))
    assert torch.isfinite(bootstrap_target(lambda z, *_: z + 1, scalar(1), grid, 8)).all()


def test_the_error_is_against_data_at_the_finest_step_and_against_the_target_elsewhere() -> None:
    estimate, clean = torch.zeros(2, 2, 1, 2), torch.ones(2, 2, 1, 2)
    target = torch.full((1, 2, 1, 2), 3.0)
    grid = Grid(torch.zeros(2, 2, dtype=torch.int64), torch.tensor([[1, 2], [1, 1]]))
    assert shortcut_error(estimate, clean, target, grid).tolist() == [[1, 9], [1, 1]]
    assert shortcut_error(estimate, clean, target[:0], grid).tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("steps", [1, 2, 4, 64])
def test_sampling_with_a_perfect_denoiser_walks_the_straight_line_to_the_data(steps: int) -> None:
    data, noise = torch.randn(2, 2, 1, 3, 4).unbind(0)
    levels: list[int] = []

    def perfect(noisy: Tensor, level: Tensor, units: Tensor) -> Tensor:
        assert (units == K_MAX // steps).all()
        torch.testing.assert_close(noisy, corrupt(data, noise, level, K_MAX), atol=1e-5, rtol=1e-5)
        levels.append(int(level[0, 0]))
        return data

    assert torch.equal(sample(perfect, noise, steps, K_MAX), data)
    assert levels == list(range(0, K_MAX, K_MAX // steps))


@pytest.mark.parametrize("steps", [0, 3, 128])
def test_a_number_of_steps_that_does_not_divide_the_grid_is_an_error(steps: int) -> None:
    with pytest.raises(ValueError, match=f"num_steps={steps} does not divide.* 64 steps"):
        sample(lambda z, *_: z, torch.zeros(1, 1, 1, 1), steps, K_MAX)
