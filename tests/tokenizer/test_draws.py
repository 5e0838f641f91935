"""Each row of a step draws by itself: the same numbers, and the same kind of row, whoever draws for it."""

import itertools

import pytest
import torch

from tests.builders import seeded
from tokenizer.draws import Rows, integers, normal, of_rows, split_rows, uniform

CPU = torch.device("cpu")


def rows(first: int, count: int, step: int = 3, seed: int = 5) -> Rows:
    return Rows(seed, step, first, count, CPU)


def drawn(draws: Rows) -> list[torch.Tensor]:
    count = len(draws)
    return [
        normal(draws, (count, 3, 2)),
        uniform(draws, (count, 4), torch.float64),
        integers(draws, 7, (count, 5)),
        normal(draws, (count,)),
    ]


def test_two_ranks_draw_what_one_process_draws() -> None:
    whole, first, second = drawn(rows(0, 8)), drawn(rows(0, 4)), drawn(rows(4, 4))
    for one, *two in zip(whole, first, second, strict=True):
        assert torch.equal(one, torch.cat(two))


def test_rows_steps_and_seeds_draw_different_numbers() -> None:
    values = [
        normal(rows(row, 1, step, seed), (1,)).item() for row in range(10) for step in range(10) for seed in range(5)
    ]
    assert len(set(values)) == 500
    large = torch.cat([normal(rows(row, 1), (1, 1000)) for row in range(20)])
    assert large.mean().abs() < 0.03 and (large.std() - 1).abs() < 0.03 and large.corrcoef().triu(1).abs().max() < 0.15


def test_some_rows_in_another_order_draw_their_own_numbers() -> None:
    whole, other = rows(2, 4), rows(2, 4)
    expected, more = normal(whole, (4, 3)), normal(whole, (4, 3))
    assert torch.equal(normal(other[[3, 1]], (2, 3)), expected[[3, 1]])
    assert torch.equal(normal(other[:1], (1, 3)), expected[:1])
    assert torch.equal(normal(other, (4, 3)), torch.stack([more[0], more[1], expected[2], more[3]]))  # it goes on
    generator = seeded()
    assert of_rows(generator, [0]) is generator
    with pytest.raises(ValueError, match="3 rows to draw for, these are 4"):
        normal(other, (3, 2))


def test_whole_numbers_and_fractions_stay_in_their_range() -> None:
    whole, fractions = integers(rows(0, 50), 3, (50, 20)), uniform(rows(0, 50), (50, 20))
    assert whole.unique().tolist() == [0, 1, 2] and fractions.min() >= 0 and fractions.max() < 1


@pytest.mark.parametrize("shares", [(0.25, 0.3), (0.5, 0.5), (0.1, 0.0), (1.0, 0.2), (0.0, 0.0), (0.0, 1.0)])
def test_kinds_have_their_shares_and_are_the_same_for_any_ranks(shares: tuple[float, float]) -> None:
    wanted = [shares[0], min(shares[1], 1 - shares[0])]
    for step in range(20):
        kinds = split_rows(rows(0, 40, step), 40, *shares)
        assert sorted(itertools.chain(*kinds)) == list(range(40))
        for kind, share in zip(kinds, wanted, strict=False):
            assert abs(len(kind) - 40 * share) < 1 + 1e-6
        for first in range(0, 40, 8):
            part = split_rows(rows(first, 8, step), 8, *shares)
            assert [[first + place for place in kind] for kind in part] == [
                [place for place in kind if first <= place < first + 8] for kind in kinds
            ]


@pytest.mark.parametrize(("share", "count", "least"), [(0.25, 2, 0), (0.3, 4, 1), (0.9, 1, 0), (0.25, 6, 1)])
def test_a_share_of_few_rows_is_right_on_average(share: float, count: int, least: int) -> None:
    """Rounded, a quarter of two rows was none at all: batches of long clips never met the bootstrap."""
    counts = [len(split_rows(rows(0, count, step), count, share)[0]) for step in range(2000)]
    assert set(counts) == {least, least + 1}
    assert sum(counts) / len(counts) == pytest.approx(share * count, abs=0.04)


@pytest.mark.parametrize(("share", "count", "found"), [(0.25, 8, 2), (0.0, 3, 0), (1.0, 3, 3)])
def test_a_share_that_is_whole_rows_is_these_rows_on_every_rank(share: float, count: int, found: int) -> None:
    """So shapes stay static."""
    for step, rank in itertools.product(range(50), range(4)):
        assert len(split_rows(rows(rank * count, count, step), count, share)[0]) == found
    assert {len(split_rows(seeded(seed), count, share)[0]) for seed in range(50)} == {found}


def test_every_place_is_of_every_kind_at_some_step() -> None:
    """The clips of a stream come in an order of their own, but nothing may hang on a row's place."""
    for place in range(8):
        assert any(place in split_rows(rows(0, 8, step), 8, 0.25)[0] for step in range(50))
