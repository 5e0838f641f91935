"""Muon is torch's in another order of the same products."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from launch import optimizers
from launch.optimizers import Muon, OptimizerConfig, make_optimizers, orthogonalised
from tests.builders import seeded

SHAPES = ((24, 8), (8, 24), (24, 8), (16, 16))
COEFFICIENTS = (3.4445, -4.775, 2.0315)


def matrices() -> list[nn.Parameter]:
    generator = seeded()
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def trained(muon: torch.optim.Muon, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    generator = seeded(1)
    for _ in range(4):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator)
        muon.step()
    return [p.detach() for p in parameters]


@pytest.mark.parametrize("half", [True, False])
def test_it_takes_the_steps_of_torchs(half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "has_bf16", lambda: half)
    ours, theirs, start = matrices(), matrices(), matrices()
    options = {"lr": 0.1, "weight_decay": 0.1}
    mine = trained(Muon(ours, **options), ours)
    reference = trained(torch.optim.Muon(theirs, **options, adjust_lr_fn="match_rms_adamw"), theirs)
    for one, other, before in zip(mine, reference, start, strict=True):
        assert (one - other).norm() < 0.03 * (other - before).norm()  # bf16 has 8 bits


def test_singular_values_end_near_one_in_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "has_bf16", lambda: False)
    found = orthogonalised(torch.randn(3, 24, 8, generator=seeded()), COEFFICIENTS, 5, 1e-7)
    values = torch.linalg.svdvals(found)
    assert found.dtype == torch.float32 and values.min() > 0.5 and values.max() < 1.5


def test_what_has_no_gradient_stays_as_it_is() -> None:
    parameters = matrices()
    muon = Muon(parameters, lr=0.1)
    parameters[0].grad = torch.ones(SHAPES[0])
    before = [p.detach().clone() for p in parameters]
    muon.step()
    assert [torch.equal(p, old) for p, old in zip(parameters, before, strict=True)] == [False, True, True, True]


def test_hidden_matrices_are_muons_and_the_rest_is_adamws() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(3, 4)
            self.hidden = nn.Linear(4, 4)

    model = Net()
    muon, adamw = make_optimizers(model, OptimizerConfig(optimizer="muon"))
    assert isinstance(muon, Muon) and muon.param_groups[0]["params"] == [model.hidden.weight]
    assert {id(p) for group in adamw.param_groups for p in group["params"]} == {
        id(model.embed.weight),
        id(model.hidden.bias),
    }
