"""Action spaces and their embedding: any mix of parts in one flat row."""

import numpy as np
import pytest
import torch

from dynamics.actions import ActionEmbedding, ActionSpace
from tests.builders import MIXED, action_rows, randomised

SPACES = [
    MIXED,
    ActionSpace(continuous=("steer",)),
    ActionSpace(categorical=(("mouse", 3), ("slot", 5))),
    ActionSpace(binary=("jump", "run")),
    ActionSpace(continuous=("steer",), binary=("jump",)),
    ActionSpace(categorical=(("mouse", 121),), binary=tuple(f"key{i}" for i in range(23))),
]


@pytest.mark.parametrize("space", SPACES)
def test_split_and_join_invert(space: ActionSpace) -> None:
    rows = action_rows(space, 4, 7)
    parts = space.split(rows)
    assert [part.shape[-1] for part in parts] == [len(space.continuous), len(space.categorical), len(space.binary)]
    assert torch.equal(space.join(parts), rows)


def test_a_row_is_continuous_then_categorical_then_binary() -> None:
    parts = MIXED.split(torch.tensor([0.25, -1.0, 2.0, 1.0]))
    assert (
        parts.continuous.tolist() == [0.25, -1.0] and parts.categorical.tolist() == [2] and parts.binary.tolist() == [1]
    )
    assert MIXED.names == ("steer", "gas", "mouse", "jump") and MIXED.size == 4


@pytest.mark.parametrize("space", SPACES)
def test_random_rows_are_of_the_space_and_reach_all_of_it(space: ActionSpace) -> None:
    rng = np.random.default_rng(0)
    rows = np.stack([space.sample(rng) for _ in range(2000)])
    space.check(rows)
    low, high = space.bounds()
    spread = (high - low) * 0.03
    assert (rows.min(0) <= low + spread).all() and (rows.max(0) >= high - spread).all()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([0, 1.5, 2, 1], r"'gas' is 1\.5, allowed: -1 to 1$"),
        ([0, 0, 3, 1], r"'mouse' is 3\.0, allowed: 0 to 2, whole numbers"),
        ([0, 0, 0.5, 1], r"'mouse' is 0\.5"),
        ([0, 0, 0, -1], r"'jump' is -1\.0, allowed: 0 to 1"),
        ([0, 0, float("nan"), 0], "'mouse' is nan"),
        ([0, 0, 0], r"have \(3,\) values, this space has 4: \('steer', 'gas', 'mouse', 'jump'\)"),
    ],
)
def test_a_row_of_another_space_is_refused_by_part_and_value(row: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MIXED.check(np.array([row], dtype=np.float32))
    MIXED.check(np.array([[0, 1, 2, 1], [-1, 0.5, 0, 0]], dtype=np.float32))


def test_a_space_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one part"):
        ActionSpace()
    with pytest.raises(ValueError, match="share a name"):
        ActionSpace(continuous=("a",), binary=("a",))
    with pytest.raises(ValueError, match="'mouse' has 1 classes"):
        ActionSpace(categorical=(("mouse", 1),))


@pytest.mark.parametrize("space", SPACES)
def test_json_holds_all_of_a_space(space: ActionSpace) -> None:
    assert ActionSpace.from_json(space.to_json()) == space


@pytest.mark.parametrize("space", SPACES)
def test_an_unknown_action_is_the_base_alone_whatever_its_row(space: ActionSpace) -> None:
    embed = randomised(ActionEmbedding(space, 8))
    known = torch.tensor([[True, False, False]])
    one, two = (embed(action_rows(space, 1, 3, seed=seed), known) for seed in (1, 2))
    assert torch.equal(one[0, 1:], embed.base.expand(2, -1)) and torch.equal(two[0, 1:], embed.base.expand(2, -1))
    assert not torch.equal(one[0, 0], embed.base) and not torch.equal(one[0, 0], two[0, 0])


@pytest.mark.parametrize("space", SPACES)
def test_each_value_of_each_part_has_its_own_embedding(space: ActionSpace) -> None:
    embed = randomised(ActionEmbedding(space, 8))
    row = torch.zeros(space.size)
    rows = [row]
    for part, high in enumerate(space.bounds()[1].astype(int)):
        for value in range(1, high + 1):
            rows.append(row.clone())
            rows[-1][part] = value
    found = embed(torch.stack(rows)[None], torch.ones(1, len(rows), dtype=torch.bool))[0]
    assert torch.cdist(found, found).fill_diagonal_(1).min() > 1e-2


def test_the_parts_are_summed() -> None:
    embed = randomised(ActionEmbedding(MIXED, 8))
    rows = torch.tensor(
        [[[0.5, -0.5, 2, 1], [0.5, 0, 0, 0], [0, -0.5, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1], [0, 0, 0, 0]]]
    )
    whole, *parts, nothing = embed(rows, torch.ones(1, 6, dtype=torch.bool))[0]
    torch.testing.assert_close(whole - nothing, sum(part - nothing for part in parts))
