"""The cached simulator against full passes of the model, with the same noise from the same generator."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dynamics.shortcut import Grid, sample
from dynamics.simulator import Moment, Simulator
from dynamics.world_model import WorldModel
from tests.builders import DYNAMICS, MIXED, action_rows, latent_clip, randomised, seeded
from tokenizer.records import LatentClip

CONTEXT, STEPS, WORLDS = 5, 5, 2  # the window is 3: both reach past it
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def make_world(context_level: int = 8) -> WorldModel:
    """At level 8 of 8 a context is fed without noise."""
    world = randomised(WorldModel(replace(DYNAMICS, context_level=context_level)))
    world.latent_std.fill_(0.1)
    world.latent_mean.fill_(0.05)
    return world


@pytest.fixture
def world() -> WorldModel:
    return make_world()


@pytest.fixture
def clip() -> LatentClip:
    clip = latent_clip(WORLDS, CONTEXT + STEPS)
    return replace(clip, latents=clip.latents * 0.5)


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(WORLDS, 2, 16)


def until(clip: LatentClip, count: int) -> LatentClip:
    named = {name: getattr(clip, name)[:, :count] for name in ("latents", "actions", "labeled", "rewards")}
    return replace(clip, **named, continues=clip.continues[:, :count], is_first=clip.is_first[:, :count])


def uncached(
    world: WorldModel, noisy: Tensor, clip: LatentClip, tokens: Tensor | None, last: Grid | None = None
) -> tuple[Tensor, Tensor]:
    """A full pass over frames at the level of contexts, but for the last one where `last` tells another."""
    batch, time = noisy.shape[:2]
    grid = world.context_grid((batch, time))
    if last is not None:
        grid.level[:, -1:], grid.units[:, -1:] = last
    spread = None if tokens is None else tokens[:, None].expand(-1, time, -1, -1)
    labeled = clip.labeled[:, :time].clone()
    return world.denoise(noisy, grid, clip.actions[:, :time], labeled, spread)


@pytest.mark.parametrize("context", [1, 3, CONTEXT])
@torch.no_grad()
def test_observed_frames_equal_full_passes_past_the_window(
    world: WorldModel, clip: LatentClip, tokens: Tensor, context: int
) -> None:
    simulator = Simulator(world, agent_tokens=tokens, generator=seeded())
    outputs = [simulator.reset(until(clip, context))]
    for t in range(context, CONTEXT + STEPS):
        moment = simulator.observe(clip.latents[:, t], clip.actions[:, t])
        torch.testing.assert_close(moment.latents, clip.latents[:, t])
        outputs.append(moment.agent_output[:, None])
    expected = uncached(world, world.standardise(clip.latents), clip, tokens)[1]
    torch.testing.assert_close(torch.cat(outputs, dim=1), expected, **CLOSE)


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("with_tokens", [True, False])
@pytest.mark.parametrize("context_level", [8, 6])
@pytest.mark.parametrize("num_steps", [1, 4])
@torch.no_grad()
def test_generated_frames_equal_full_passes_past_the_window(
    clip: LatentClip, tokens: Tensor, num_steps: int, context_level: int, with_tokens: bool, differentiable: bool
) -> None:
    world = make_world(context_level)
    agent_tokens = tokens if with_tokens else None
    simulator = Simulator(
        world, agent_tokens=agent_tokens, num_steps=num_steps, generator=seeded(4), differentiable=differentiable
    )
    simulator.reset(until(clip, CONTEXT))

    generator = seeded(4)
    past = world.corrupt_context(world.standardise(until(clip, CONTEXT).latents), generator)
    for t in range(CONTEXT, CONTEXT + STEPS):
        moment = simulator.step(clip.actions[:, t])

        def denoise(noisy: Tensor, level: Tensor, units: Tensor) -> Tensor:
            frames = torch.cat([past, noisy], dim=1)  # noqa: B023
            return uncached(world, frames, clip, None, Grid(level, units))[0][:, -1:]

        noise = torch.randn(WORLDS, 1, 2, 3, generator=generator)
        clean = sample(denoise, noise, num_steps, 8)
        past = torch.cat([past, world.corrupt_context(clean, generator)], dim=1)
        torch.testing.assert_close(moment.latents, world.restore(clean)[:, 0], **CLOSE)
        expected = uncached(world, past, clip, agent_tokens)[1][:, -1]
        torch.testing.assert_close(moment.agent_output, expected, **CLOSE)


def dream(simulator: Simulator, clip: LatentClip, actions: Tensor) -> list[Moment]:
    simulator.reset(until(clip, CONTEXT))
    return [simulator.step(actions[:, t]) for t in range(actions.shape[1])]


def test_a_differentiable_dream_is_equal_and_leads_from_latents_to_earlier_actions(
    world: WorldModel, clip: LatentClip, tokens: Tensor
) -> None:
    actions = clip.actions[:, CONTEXT:].clone().requires_grad_()
    plain = dream(Simulator(world, agent_tokens=tokens, generator=seeded()), clip, actions)
    open_ = dream(Simulator(world, agent_tokens=tokens, generator=seeded(), differentiable=True), clip, actions)
    for one, two in zip(plain, open_, strict=True):
        torch.testing.assert_close(one.latents, two.latents)
        torch.testing.assert_close(one.agent_output, two.agent_output)
        assert not one.latents.requires_grad and not one.agent_output.requires_grad
    (gradient,) = torch.autograd.grad(open_[2].latents.sum(), actions, retain_graph=True)
    steering = gradient[..., :2].abs().sum((0, 2))
    assert (steering[:3] > 0).all() and (steering[3:] == 0).all()
    (gradient,) = torch.autograd.grad(open_[2].agent_output.square().sum(), actions)
    assert (gradient[:, :3, :2].abs().sum((0, 2)) > 0).all()


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("num_steps", [1, 4])
@pytest.mark.parametrize("with_tokens", [True, False])
def test_a_dream_of_known_actions_equals_its_steps_and_leaves_the_same_past(
    clip: LatentClip, tokens: Tensor, with_tokens: bool, num_steps: int, differentiable: bool
) -> None:
    world = make_world(context_level=6)
    agent_tokens = tokens if with_tokens else None
    actions, labeled = clip.actions[:, CONTEXT:], torch.tensor([[True], [False]]).expand(-1, STEPS)
    one, two = (
        Simulator(
            world, agent_tokens=agent_tokens, num_steps=num_steps, generator=seeded(4), differentiable=differentiable
        )
        for _ in range(2)
    )
    for simulator in (one, two):
        simulator.reset(until(clip, CONTEXT))
    moments = [one.step(actions[:, t], labeled[:, t]) for t in range(STEPS)]
    latents, output = two.dream(actions, labeled)
    torch.testing.assert_close(latents, torch.stack([m.latents for m in moments], 1), **CLOSE)
    torch.testing.assert_close(output, torch.stack([m.agent_output for m in moments], 1), **CLOSE)
    torch.testing.assert_close(two.step(actions[:, 0]).latents, one.step(actions[:, 0]).latents, **CLOSE)


def test_a_generated_frame_costs_its_denoising_passes_and_a_commit_that_a_dream_shares(
    world: WorldModel, clip: LatentClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames: list[int] = []
    inner = world.transformer.pass_over

    def counted(x: Tensor, *rest: Any) -> Any:
        frames.append(x.shape[1])
        return inner(x, *rest)

    monkeypatch.setattr(world.transformer, "pass_over", counted)
    simulator = Simulator(world, num_steps=4, generator=seeded())
    simulator.reset(until(clip, CONTEXT))
    simulator.step(clip.actions[:, 0])
    assert frames == [1] * 5
    frames.clear()
    simulator.dream(clip.actions[:, :3])
    assert frames == [1] * 4 + ([2] + [1] * 3) * 2 + [1]


def test_an_action_that_is_not_labeled_has_no_influence_on_the_frame(world: WorldModel, clip: LatentClip) -> None:
    def frame(seed: int, labeled: bool) -> Tensor:
        simulator = Simulator(world, generator=seeded())
        simulator.reset(until(clip, CONTEXT))
        return simulator.step(action_rows(MIXED, WORLDS, seed=seed), torch.full((WORLDS,), labeled)).latents

    assert torch.equal(frame(1, False), frame(2, False)) and not torch.equal(frame(1, True), frame(2, True))


def test_the_gradient_of_a_dream_is_that_of_finite_differences(world: WorldModel, clip: LatentClip) -> None:
    def last(steer: Tensor) -> Tensor:
        actions = clip.actions[:, CONTEXT : CONTEXT + 3].clone()
        actions[:, 0, 0] = steer
        simulator = Simulator(world, generator=seeded(), differentiable=True)
        return dream(simulator, clip, actions)[-1].latents.sum()

    steer = torch.zeros(WORLDS, requires_grad=True)
    (gradient,) = torch.autograd.grad(last(steer), steer)
    step = 2e-3
    with torch.no_grad():
        numeric = (last(steer + step) - last(steer - step)) / (2 * step)
    torch.testing.assert_close(gradient.sum(), numeric, atol=5e-3, rtol=0.02)


def test_the_action_decides_what_happens(world: WorldModel, clip: LatentClip) -> None:
    one, two = (
        dream(Simulator(world, generator=seeded()), clip, action_rows(MIXED, WORLDS, 1, seed=seed))[0].latents
        for seed in (1, 2)
    )
    assert (one - two).abs().max() > 1e-3


def test_a_step_before_reset_is_a_clear_error(world: WorldModel) -> None:
    simulator = Simulator(world, generator=seeded())
    with pytest.raises(ValueError, match=r"call reset\(context\)"):
        simulator.step(torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"call reset\(context\)"):
        simulator.observe(torch.zeros(1, 2, 3), torch.zeros(1, 4))


def test_worlds_of_a_batch_do_not_influence_each_other(world: WorldModel, clip: LatentClip, tokens: Tensor) -> None:
    latents, actions = clip.latents.clone(), clip.actions.clone()
    latents[1] *= -1
    actions[1] = action_rows(MIXED, CONTEXT + STEPS, seed=9)
    other, other_tokens = replace(clip, latents=latents, actions=actions), torch.stack([tokens[0], -tokens[1]])
    one = dream(Simulator(world, agent_tokens=tokens, generator=seeded()), clip, clip.actions[:, CONTEXT:])
    two = dream(Simulator(world, agent_tokens=other_tokens, generator=seeded()), other, actions[:, CONTEXT:])
    for before, after in zip(one, two, strict=True):
        for field in range(2):
            torch.testing.assert_close(before[field][0], after[field][0])
            assert (before[field][1] - after[field][1]).abs().max() > 1e-3


def test_a_second_reset_forgets_the_first(world: WorldModel, clip: LatentClip) -> None:
    used, fresh = Simulator(world, generator=seeded(1)), Simulator(world, generator=seeded(2))
    dream(used, replace(clip, latents=-clip.latents), clip.actions[:, CONTEXT:])
    used.generator = seeded(2)
    for one, two in zip(*(dream(s, clip, clip.actions[:, CONTEXT:]) for s in (used, fresh)), strict=True):
        assert torch.equal(one.latents, two.latents)


def test_the_same_seed_dreams_the_same_and_another_does_not(world: WorldModel, clip: LatentClip) -> None:
    one, two, other = (
        dream(Simulator(world, generator=seeded(seed)), clip, clip.actions[:, CONTEXT:])[-1].latents
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_an_observed_action_that_is_unknown_has_no_influence(
    world: WorldModel, clip: LatentClip, tokens: Tensor
) -> None:
    def output(seed: int, labeled: bool) -> Tensor:
        simulator = Simulator(world, agent_tokens=tokens, generator=seeded())
        simulator.reset(until(clip, CONTEXT))
        known = torch.full((WORLDS,), labeled)
        return simulator.observe(clip.latents[:, CONTEXT], action_rows(MIXED, WORLDS, seed=seed), known).agent_output

    assert torch.equal(output(1, False), output(2, False)) and not torch.equal(output(1, True), output(2, True))
