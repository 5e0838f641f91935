"""The dynamics: who sees whom, which action leads where, and the shortcut loss against a slow reference."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dynamics.shortcut import Grid, draw_grid
from dynamics.world_model import DynamicsConfig, WorldModel
from tests.builders import DYNAMICS, MIXED, SMALL, action_rows, in_order, latent_clip, randomised, seeded
from tokenizer.draws import Rows
from tokenizer.records import LatentClip

FRAMES = 6


@pytest.fixture
def world() -> WorldModel:
    return randomised(WorldModel(DYNAMICS))


@pytest.fixture
def clip() -> LatentClip:
    return latent_clip(2, FRAMES)


def a_grid(batch: int = 2) -> Grid:
    return draw_grid((batch, FRAMES), batch, DYNAMICS.max_steps, seeded(3))


def denoise(world: WorldModel, clip: LatentClip, tokens: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return world.denoise(clip.latents, a_grid(len(clip.task)), clip.actions, clip.labeled, tokens)


def agent_tokens(count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(2, FRAMES, count, 16, generator=seeded(seed))


def changed(one: Tensor, other: Tensor) -> list[bool]:
    """Which frames differ."""
    found: list[bool] = ((one - other).abs().amax((0, 2, 3)) > 1e-5).tolist()
    return found


def test_nothing_sees_the_agent_tokens(world: WorldModel, clip: LatentClip) -> None:
    tokens = agent_tokens().requires_grad_()
    estimate, _ = denoise(world, clip, tokens)
    (gradient,) = torch.autograd.grad(estimate.square().sum(), tokens)
    assert torch.equal(gradient, torch.zeros_like(gradient))
    assert torch.equal(estimate, denoise(world, clip, agent_tokens(seed=1))[0])
    torch.testing.assert_close(estimate, denoise(world, clip)[0], atol=1e-5, rtol=1e-5)
    assert denoise(world, clip)[1].shape == (2, FRAMES, 0, 16)


def test_agent_tokens_see_latents_and_action_of_their_frame_and_each_other(world: WorldModel, clip: LatentClip) -> None:
    tokens = agent_tokens()
    output = denoise(world, clip, tokens)[1]
    latents, actions = clip.latents.clone(), clip.actions.clone()
    latents[:, 3] += 1
    actions[:, 3] = action_rows(MIXED, 2, seed=9)
    assert changed(output, denoise(world, replace(clip, latents=latents), tokens)[1])[:4] == [False] * 3 + [True]
    assert changed(output, denoise(world, replace(clip, actions=actions), tokens)[1])[:4] == [False] * 3 + [True]
    tokens = tokens.clone()
    tokens[:, 3, 1] += 1
    other = denoise(world, clip, tokens)[1]
    assert changed(output[:, :, :1], other[:, :, :1])[:4] == [False] * 3 + [True]


def test_no_frame_sees_the_future(world: WorldModel, clip: LatentClip) -> None:
    other = clip.latents.clone()
    other[:, 3:] += 1
    found = changed(denoise(world, clip)[0], denoise(world, replace(clip, latents=other))[0])
    assert found == [False] * 3 + [True] * 3


def test_an_action_bears_on_its_own_frame_and_later_ones_alone(world: WorldModel, clip: LatentClip) -> None:
    other = clip.actions.clone()
    other[:, 2] = action_rows(MIXED, 2, seed=9)
    found = changed(denoise(world, clip)[0], denoise(world, replace(clip, actions=other))[0])
    assert found[:4] == [False, False, True, True]


def test_signal_level_and_step_size_bear_on_their_frame(world: WorldModel, clip: LatentClip) -> None:
    level, units = torch.full((2, FRAMES), 4), torch.ones(2, FRAMES, dtype=torch.int64)
    before = world.denoise(clip.latents, Grid(level, units), clip.actions, clip.labeled)[0]
    coarse, clean = units.clone(), level.clone()
    coarse[:, 3], clean[:, 3] = 4, 8
    for grid in (Grid(level, coarse), Grid(clean, units)):
        found = changed(before, world.denoise(clip.latents, grid, clip.actions, clip.labeled)[0])
        assert found[:4] == [False] * 3 + [True]


def test_an_unlabeled_frame_is_independent_of_its_action_row(world: WorldModel, clip: LatentClip) -> None:
    unknown = replace(clip, labeled=torch.zeros_like(clip.labeled))
    other = replace(unknown, actions=action_rows(MIXED, 2, FRAMES, seed=9))
    assert torch.equal(denoise(world, unknown)[0], denoise(world, other)[0])
    assert not torch.equal(denoise(world, unknown)[0], denoise(world, clip)[0])


def test_unlabeled_video_trains_all_but_the_action_tables(world: WorldModel) -> None:
    clip = latent_clip(4, FRAMES)
    loss, _ = world(replace(clip, labeled=torch.zeros_like(clip.labeled)), seeded())
    loss.backward()
    assert torch.isfinite(loss)
    assert world.action_embed.base.grad is not None and world.action_embed.base.grad.abs().sum() > 0
    for name, parameter in world.named_parameters():
        silent = name in ("action_embed.continuous.weight", "action_embed.discrete.weight")
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert bool(parameter.grad.abs().sum() > 0) != silent, name


def test_registers_are_optional(clip: LatentClip) -> None:
    bare = randomised(WorldModel(replace(DYNAMICS, num_registers=0)))
    estimate, output = denoise(bare, clip, agent_tokens())
    assert estimate.shape == clip.latents.shape and output.shape == (2, FRAMES, 2, 16)
    torch.testing.assert_close(estimate, denoise(bare, clip)[0], atol=1e-5, rtol=1e-5)


def reference_loss(student: WorldModel, teacher: WorldModel, clip: LatentClip, rows: int, seed: int) -> Tensor:
    """Eq. 7 and 8, written out frame by frame as the paper has them."""
    k_max, clip = student.config.max_steps, in_order(student, clip, seeded(seed))
    generator = seeded(seed)
    grid = draw_grid((len(clip.task), clip.num_frames), rows, k_max, generator)
    noise = torch.randn(clip.latents.shape, generator=generator)
    data = student.standardise(clip.latents)
    noisy = noise.clone()
    for b, t in grid.level.new_ones(grid.level.shape).nonzero().tolist():
        tau = int(grid.level[b, t]) / k_max
        noisy[b, t] = (1 - tau) * noise[b, t] + tau * data[b, t]
    estimate, _ = student.denoise(noisy, grid, clip.actions, clip.labeled)
    total = torch.zeros(())
    for b in range(len(clip.task)):
        half = grid.units[b].clone()
        for t in range(clip.num_frames):
            half[t] = half[t] // 2 if half[t] > 1 else 1
        with torch.no_grad():
            actions, labeled = clip.actions[b : b + 1], clip.labeled[b : b + 1]
            first = teacher.denoise(noisy[b : b + 1], Grid(grid.level[b][None], half[None]), actions, labeled)[0][0]
            moved, level = noisy[b].clone(), grid.level[b].clone()
            slopes: dict[int, Tensor] = {}
            for t in range(clip.num_frames):
                if grid.units[b, t] > 1:
                    tau, d = int(grid.level[b, t]) / k_max, int(grid.units[b, t]) / k_max
                    slopes[t] = (first[t] - noisy[b, t]) / (1 - tau)
                    moved[t] = noisy[b, t] + slopes[t] * d / 2
                    level[t] = k_max * (tau + d / 2)
            second = teacher.denoise(moved[None], Grid(level[None], half[None]), actions, labeled)[0][0]
        for t in range(clip.num_frames):
            tau, d = int(grid.level[b, t]) / k_max, int(grid.units[b, t]) / k_max
            if t in slopes:
                slope = (slopes[t] + (second[t] - moved[t]) / (1 - tau - d / 2)) / 2
                error = (1 - tau) ** 2 * ((estimate[b, t] - noisy[b, t]) / (1 - tau) - slope).square().mean()
            else:
                error = (estimate[b, t] - data[b, t]).square().mean()
            total = total + (0.9 * tau + 0.1) * error
    return total / grid.level.numel()


@pytest.mark.parametrize(("share", "rows"), [(0.0, 0), (0.25, 1), (0.75, 3), (1.0, 4)])
def test_the_loss_and_its_gradient_equal_a_reference_written_out_frame_by_frame(share: float, rows: int) -> None:
    world = randomised(WorldModel(replace(DYNAMICS, bootstrap_share=share)))
    clip = latent_clip(4, FRAMES)
    world.fit_standardisation(clip.latents)
    units = draw_grid((4, FRAMES), rows, 8, seeded(5)).units[:rows]
    assert rows < 3 or units.unique().tolist() == [1, 2, 4, 8]  # all kinds are met, also beside each other
    teacher = deepcopy(world).requires_grad_(False)
    expected = reference_loss(world, teacher, clip, rows, 5)
    loss, metrics = world(clip, seeded(5))
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(metrics["video_loss"], expected.detach(), atol=1e-5, rtol=1e-4)
    wanted = torch.autograd.grad(expected, list(world.parameters()))
    for got, want in zip(torch.autograd.grad(loss, list(world.parameters())), wanted, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)


def test_nothing_is_learned_of_an_episode_that_fills_a_clip_up(world: WorldModel) -> None:
    clip = latent_clip(4, 6)
    clip.is_first[:, 3], clip.is_first[0] = True, False  # all but the first, which goes on
    other = replace(clip, latents=clip.latents.clone(), actions=clip.actions.clone())
    other.latents[1:, 3:], other.actions[1:, 3:] = 0.3, 0.0
    loss, metrics = world(clip, seeded())
    filled, same = world(other, seeded())
    torch.testing.assert_close(filled, loss)
    torch.testing.assert_close(same, metrics)
    other.latents[0, 3:] = 0.3
    assert not torch.isclose(world(other, seeded())[0], loss)


def test_no_gradient_flows_through_the_target(world: WorldModel, clip: LatentClip) -> None:
    latents = clip.latents.clone().requires_grad_()
    target = world.targets(latents, a_grid(), clip)
    assert not target.requires_grad and not torch.equal(target, latents)


def test_standardised_latents_have_no_mean_and_unit_spread_in_each_channel() -> None:
    world = WorldModel(DYNAMICS)
    scale, offset = torch.rand(2, 3) * 0.2 + 0.01, torch.rand(2, 3) - 0.5
    latents = (torch.randn(50, 8, 2, 3) * scale + offset).clamp(-1, 1)
    world.fit_standardisation(latents)
    found = world.standardise(latents)
    torch.testing.assert_close(found.mean((0, 1)), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.flatten(0, 1).std(0), torch.ones(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(world.restore(found), latents)
    assert world.restore(found * 100).abs().max() == 1  # within the tokenizer's range
    assert "latent_mean" in world.state_dict() and "latent_std" in world.state_dict()


def test_a_dead_channel_is_not_blown_up() -> None:
    world = WorldModel(DYNAMICS)
    world.fit_standardisation(torch.full((4, 4, 2, 3), 0.2))
    assert world.standardise(torch.full((1, 1, 2, 3), 0.2)).abs().max() < 1e-3


def test_contexts_are_a_tenth_noise_and_not_nine(world: WorldModel) -> None:
    clean = torch.full((1, 500, 2, 3), 5.0)
    found = world.corrupt_context(clean, seeded())
    assert abs(found.mean() - 5 * 6 / 8) < 0.03 and abs(found.std() - 2 / 8) < 0.02
    grid = world.context_grid((1, 2))
    assert grid.level.tolist() == [[6, 6]] and grid.units.tolist() == [[1, 1]]
    assert DynamicsConfig().context_level / DynamicsConfig().max_steps == pytest.approx(0.9, abs=0.01)


def test_it_overfits_one_batch() -> None:
    world = WorldModel(replace(DYNAMICS, transformer=replace(SMALL, dim=32, mlp_hidden=64)))
    clip = latent_clip(2, FRAMES)
    clip = replace(clip, labeled=torch.ones_like(clip.labeled))  # the first action tells the clips apart
    world.fit_standardisation(clip.latents)
    optimizer = torch.optim.AdamW(world.parameters(), lr=5e-3, weight_decay=0.0)
    losses = []
    for step in range(300):
        loss, _ = world(clip, Rows(0, step, 0, 2, torch.device("cpu")))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-20:]) < sum(losses[:20]) / 4


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"max_steps": 48}, "max_steps=48"),
        ({"context_level": 0}, "context_level=0"),
        ({"num_steps": 3}, "num_steps=3"),
        ({"bootstrap_share": 1.5}, "bootstrap_share=1.5"),
    ],
)
def test_a_grid_that_does_not_work_out_is_named(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DynamicsConfig(**wrong)  # type: ignore[arg-type]
