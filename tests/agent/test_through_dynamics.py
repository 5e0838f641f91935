"""Dreamer V1's actor: actions that have a gradient, and returns whose gradient runs through the dynamics."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from agent.agent import Agent, AgentConfig
from agent.dreaming import Dream
from agent.heads import HeadConfig, PolicyHead, quantile
from agent.imagination import Imagination, ImaginationConfig
from agent.pmpo import lambda_return
from dynamics.actions import ActionSpace
from tests.builders import DYNAMICS, latent_clip, randomised, seeded
from tokenizer.draws import Draws
from tokenizer.records import LatentClip

STEERED = ActionSpace(continuous=("steer", "gas"))
HEADS = HeadConfig(hidden=8, distances=1, action_bins=5, value_bins=15)


def make(beta: float = 0.0, value_warmup: int = 0) -> Imagination:
    dynamics = replace(DYNAMICS, actions=STEERED)
    agent = randomised(Agent(AgentConfig(dynamics=dynamics, heads=HEADS)))
    config = ImaginationConfig(
        actor="dynamics", horizon=2, num_steps=1, value_warmup=value_warmup, beta=beta, discount=0.9, decay=0.8
    )
    model = Imagination(config, agent)
    with torch.no_grad():
        model.value.out_head.weight.normal_(std=0.3, generator=seeded(5))
        model.value.out_head.bias.normal_(std=0.3, generator=seeded(6))
    return model


def test_a_drawn_value_takes_the_chance_that_was_drawn() -> None:
    """Bins -1, 0, 1 reach to -0.5 and 0.5: half of the middle's chance lies below 0."""
    chances, centres = torch.tensor([[0.2, 0.6, 0.2]]), torch.tensor([-1.0, 0.0, 1.0])
    for level, expected in ((0.0, -1.0), (0.1, -0.75), (0.2, -0.5), (0.5, 0.0), (0.8, 0.5), (1.0, 1.0)):
        found = quantile(chances, centres, torch.tensor([level]))
        torch.testing.assert_close(found, torch.tensor([expected]), atol=1e-6, rtol=0)


def test_the_gradient_of_a_drawn_value_is_that_of_finite_differences() -> None:
    logits = torch.randn(4, 5, generator=seeded(), dtype=torch.float64, requires_grad=True)
    centres = torch.linspace(-1, 1, 5, dtype=torch.float64)
    level = torch.tensor([0.13, 0.41, 0.66, 0.93], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: quantile(x.softmax(-1), centres, level), logits)


def test_what_is_drawn_with_a_gradient_has_the_chances_of_the_policy() -> None:
    head = randomised(PolicyHead(6, STEERED, HEADS), std=0.6)
    hidden = head(torch.randn(1, 6, generator=seeded()).expand(20_000, -1))
    with torch.no_grad():
        rows, others = head.rsample(hidden, seeded(1)), head.sample(hidden, seeded(2))
    edges = torch.tensor([-0.75, -0.25, 0.25, 0.75])
    for part in range(2):
        drawn, usual = (torch.bucketize(x[:, part].contiguous(), edges) for x in (rows, others))
        counts = torch.stack([torch.bincount(x, minlength=5) / len(x) for x in (drawn, usual)])
        torch.testing.assert_close(counts[0], counts[1], atol=0.03, rtol=0)
    assert rows.abs().max() <= 1


def test_actions_without_a_gradient_are_refused() -> None:
    dynamics = replace(DYNAMICS, actions=ActionSpace(continuous=("steer",), binary=("jump",)))
    agent = Agent(AgentConfig(dynamics=dynamics, heads=HEADS))
    with pytest.raises(ValueError, match="needs continuous actions.*jump.*choose 'pmpo'"):
        Imagination(ImaginationConfig(actor="dynamics"), agent)
    with pytest.raises(ValueError, match="only continuous actions have a gradient"):
        agent.policy.rsample(torch.zeros(1, 8), seeded())


def mean_return(model: Imagination) -> Tensor:
    dream = model.dream(latent_clip(3, 3, space=STEERED), seeded(4), differentiable=True)
    value = model.slow_value.mean(model.slow_value(dream.features)[..., 0, :])
    return lambda_return(dream.reward, value[:, 1:], dream.goes_on, discount=0.9, decay=0.8).mean()


def test_the_gradient_of_the_return_is_that_of_finite_differences() -> None:
    """Through actions, dynamics, reward, end and value head, for the last layer of the policy."""
    model = make()
    model._follow_value()
    weight = model.policy.out_heads[0]
    (gradient,) = torch.autograd.grad(mean_return(model), weight)
    direction = torch.randn(weight.shape, generator=seeded(8))
    step = 2e-3
    with torch.no_grad():
        weight.add_(step * direction)
        above = mean_return(model)
        weight.sub_(2 * step * direction)
        below = mean_return(model)
    slope, expected = (gradient * direction).sum(), (above - below) / (2 * step)
    assert expected.abs() > 1e-3
    torch.testing.assert_close(slope, expected.detach(), rtol=5e-2, atol=0)


def test_the_policy_climbs_the_return_and_nothing_else_of_the_agent_moves() -> None:
    model = make()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    contexts = latent_clip(3, 3, space=STEERED)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model._follow_value()
    first = mean_return(model).detach()
    for _ in range(20):
        loss, _ = model(contexts, seeded(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        for slow, name in ((p, f"value.{n}") for n, p in model.slow_value.named_parameters()):
            slow.copy_(before[name])
    assert mean_return(model) > first
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert all(name.startswith(("agent.policy.", "value.", "slow_value.")) for name in changed)
    assert any(name.startswith("agent.policy.") for name in changed)


def test_while_the_value_warms_up_nothing_is_traced_back_through_the_dynamics(monkeypatch: pytest.MonkeyPatch) -> None:
    model, traced = make(value_warmup=1), list[Tensor]()
    dream = model.dream

    def noted(context: LatentClip, generator: Draws, *, differentiable: bool = False) -> Dream:
        found = dream(context, generator, differentiable=differentiable)
        found.reward.register_hook(traced.append)
        return found

    monkeypatch.setattr(model, "dream", noted)
    for step in range(2):
        model.zero_grad()
        model(latent_clip(3, 3, space=STEERED), seeded(step))[0].backward()
        grads = [parameter.grad for parameter in model.policy.parameters()]
        assert all(grad is not None for grad in grads)
        assert any(grad is not None and grad.any() for grad in grads) == (step == 1)
        assert bool(traced) == (step == 1)
