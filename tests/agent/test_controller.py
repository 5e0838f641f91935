"""C of World Models: its size, and that each row of a batch acts by its own parameters."""

import pytest
import torch

from agent.controller import Controller, ControllerConfig, act, to_rows
from dynamics.actions import ActionSpace
from tests.builders import MIXED, seeded

CAR = ControllerConfig()
DOOM = ControllerConfig(
    latent_dim=64, state_dim=512, inputs="z_h_c", bias=False, actions=ActionSpace(continuous=("sideways",))
)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (CAR, 867),
        (DOOM, 1088),
        (ControllerConfig(inputs="z"), 32 * 3 + 3),
        (ControllerConfig(inputs="z", hidden=40), 32 * 40 + 40 + 40 * 3 + 3),
    ],
)
def test_it_has_the_papers_parameters(config: ControllerConfig, count: int) -> None:
    assert config.num_parameters == count
    assert sum(parameter.numel() for parameter in Controller(config).parameters()) == count


def test_it_is_linear_in_z_and_h_and_leaves_c_out() -> None:
    vector, features = torch.randn(867, generator=seeded()), torch.randn(4, 32 + 512, generator=seeded(1))
    rows = act(CAR, vector.expand(4, -1), features)
    weights, bias = vector[:864].unflatten(0, (3, 288)), vector[864:]
    torch.testing.assert_close(rows, torch.tanh(features[:, :288] @ weights.T + bias))


def test_a_hidden_layer_is_one_of_tanh() -> None:
    config = ControllerConfig(latent_dim=2, inputs="z", hidden=3, actions=ActionSpace(continuous=("x",)))
    vector, z = torch.randn(13, generator=seeded()), torch.randn(5, 2, generator=seeded(1))
    inner = torch.tanh(z @ vector[:6].unflatten(0, (3, 2)).T + vector[6:9])
    rows = act(config, vector.expand(5, -1), z)
    torch.testing.assert_close(rows, torch.tanh(inner @ vector[9:12].unflatten(0, (1, 3)).T + vector[12:]))


def test_every_row_acts_by_its_own_parameters() -> None:
    vectors, features = torch.randn(3, 867, generator=seeded()), torch.randn(3, 288, generator=seeded(1))
    together = act(CAR, vectors, features)
    for row in range(3):
        torch.testing.assert_close(together[row : row + 1], act(CAR, vectors[row : row + 1], features[row : row + 1]))
    assert not together[0].allclose(act(CAR, vectors[1:2], features[:1])[0])


def test_a_resting_part_is_off_until_its_output_is_above_zero() -> None:
    """With parameters of zeros the car would stand on its brake, and all first candidates would earn the same."""
    config = ControllerConfig(resting=("brake",))
    outputs = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -3.0], [0.0, 0.0, 30.0]])
    assert to_rows(config, outputs).tolist() == [[0, 0, -1], [0, 0, -1], [0, 0, 1]]


def test_discrete_parts_take_the_largest_and_the_positive() -> None:
    outputs = torch.tensor([[0.0, 0.0, 1.0, 3.0, 2.0, 0.1], [0.0, 0.0, 5.0, 3.0, 2.0, -0.1]])
    rows = to_rows(ControllerConfig(actions=MIXED), outputs)
    assert rows.tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]


def test_a_resting_part_must_be_one_of_the_space() -> None:
    with pytest.raises(ValueError, match="resting=.'clutch'.* have .'steering', 'gas', 'brake'"):
        ControllerConfig(resting=("clutch",))
