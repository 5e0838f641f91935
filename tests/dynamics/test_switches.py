"""The switches of the design cascade: each changes what it says, and the cached pass follows."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dynamics.shortcut import Grid, corrupt, draw_grid, sample
from dynamics.world_model import DynamicsConfig, WorldModel
from tests.builders import DYNAMICS, SMALL, in_order, latent_clip, randomised, seeded
from tokenizer.records import LatentClip

FRAMES = 6
VARIANTS: dict[str, dict[str, Any]] = {
    "v": {"prediction": "v"},
    "diffusion": {"objective": "diffusion"},
    "dense": {"transformer": replace(SMALL, time_attention="dense")},
    "every layer over time": {"transformer": replace(SMALL, time_every=1, num_kv_heads=2)},
    "one token": {"num_tokens": 1},
    "six tokens": {"num_tokens": 6},
}


def make(**changes: Any) -> WorldModel:
    return randomised(WorldModel(replace(DYNAMICS, **changes)))


def drawn(world: WorldModel, clip: LatentClip, rows: int, seed: int = 0) -> tuple[Tensor, Tensor, Grid]:
    """Clean and noisy latents and their grid, as `forward` draws them for rows in its order."""
    generator = seeded(seed)
    grid = draw_grid((len(clip.task), clip.num_frames), rows, world.config.max_steps, generator)
    clean = world.standardise(clip.latents)
    noise = torch.randn(clean.shape, generator=generator)
    return clean, corrupt(clean, noise, grid.level, world.config.max_steps), grid


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_cached_pass_follows_every_switch(variant: str) -> None:
    world, clip = make(**VARIANTS[variant]), latent_clip(2, FRAMES)
    tokens = torch.randn(2, FRAMES, 1, 16)
    grid = draw_grid((2, FRAMES), 2, world.config.max_steps, seeded(3))
    with torch.no_grad():
        expected, output = world.denoise(clip.latents, grid, clip.actions, clip.labeled, tokens)
        early = slice(0, 4)
        _, cache = world.prefill(
            clip.latents[:, early],
            Grid(*(part[:, early] for part in grid)),
            clip.actions[:, early],
            clip.labeled[:, early],
            tokens[:, early],
        )
        late = slice(4, 6)
        rest = Grid(*(part[:, late] for part in grid)), clip.actions[:, late], clip.labeled[:, late]
        estimate, agent_output, _ = world.step(clip.latents[:, late], *rest, cache, tokens[:, late])
        bare, none, _ = world.step(clip.latents[:, late], *rest, cache)
    assert expected.shape == clip.latents.shape and none.shape[2] == 0
    for found, wanted in ((estimate, expected), (agent_output, output), (bare, expected)):
        torch.testing.assert_close(found, wanted[:, 4:], atol=2e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_switch_learns_a_batch_by_heart(variant: str) -> None:
    changes = VARIANTS[variant]
    stack = replace(changes.get("transformer", SMALL), dim=32, mlp_hidden=64)
    world = WorldModel(replace(DYNAMICS, **{**changes, "transformer": stack}))
    clip = latent_clip(2, FRAMES)
    clip = replace(clip, labeled=torch.ones_like(clip.labeled))
    world.fit_standardisation(clip.latents)
    optimizer, generator, losses = torch.optim.AdamW(world.parameters(), lr=5e-3), seeded(), []
    for _ in range(200):
        loss, _ = world(clip, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-20:]) < 0.75 * sum(losses[:20])  # noise stays


def test_velocities_are_what_diffusion_forcing_is_usually_trained_on() -> None:
    world = make(objective="diffusion", prediction="v", loss_space="v", ramp=False)
    clip = latent_clip(3, FRAMES)
    loss, metrics = world(clip, seeded())
    clean, noisy, grid = drawn(world, clip, rows=0)
    assert (grid.units == 1).all() and metrics["bootstrap_error"] == 0
    estimate, _ = world.denoise(noisy, grid, clip.actions, clip.labeled)
    left = (1 - grid.level / 8)[..., None, None]
    velocity, target = (estimate - noisy) / left, (clean - noisy) / left  # z1 - z~ = (1 - tau)(z1 - z0)
    error = (velocity - target).square().mean((2, 3))
    expected = torch.where(grid.level == 8, torch.zeros(()), error).mean()  # a clean frame has no velocity left
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-4)


def test_without_the_ramp_all_frames_weigh_alike() -> None:
    clip, plain, ramped = latent_clip(3, FRAMES), make(ramp=False, bootstrap_share=0.0), make(bootstrap_share=0.0)
    loss, metrics = plain(clip, seeded())
    torch.testing.assert_close(loss.detach(), metrics["flow_error"])
    assert ramped(clip, seeded())[0] < loss


def test_plain_diffusion_forcing_is_never_told_a_step_size_nor_bootstraps() -> None:
    world, clip = make(objective="diffusion"), latent_clip(4, FRAMES)
    level = torch.zeros(4, FRAMES, dtype=torch.int64)
    small, large = (
        world.denoise(clip.latents, Grid(level, torch.full_like(level, units)), clip.actions, clip.labeled)[0]
        for units in (1, 4)
    )
    assert torch.equal(small, large)
    assert world.config.bootstrap_share > 0 and world.bootstrap_share() == 0
    shortcut = make()
    assert not torch.equal(
        *(
            shortcut.denoise(clip.latents, Grid(level, torch.full_like(level, units)), clip.actions, clip.labeled)[0]
            for units in (1, 4)
        )
    )


def test_the_bootstrap_begins_after_its_warmup_also_when_training_resumes_within_it() -> None:
    world, clip = make(bootstrap_warmup=3, bootstrap_share=0.5), latent_clip(4, FRAMES)
    assert [world.bootstrap_share() for _ in range(2)] == [0, 0]
    assert [world.bootstrap_share(begins=False) for _ in range(5)] == [0] * 5  # later batches of the same step
    world.eval()
    assert [world.bootstrap_share() for _ in range(5)] == [0] * 5  # only training steps count
    resumed = WorldModel(world.config)
    resumed.load_state_dict(world.state_dict())
    assert [resumed.bootstrap_share() for _ in range(3)] == [0, 0.5, 0.5]
    assert resumed(clip, seeded())[1]["bootstrap_error"] > 0
    finished = WorldModel(world.config)
    finished.load_state_dict(resumed.state_dict())
    assert finished.bootstrap_share() == 0.5
    assert WorldModel(DYNAMICS).bootstrap_share() == DYNAMICS.bootstrap_share


@pytest.mark.parametrize(("share", "images"), [(0.0, 0), (0.5, 2), (1.0, 3)])
def test_a_share_of_the_rows_learns_as_separate_images(share: float, images: int) -> None:
    """Bootstrap rows stay video: their teacher sees them as video."""
    world, clip = make(image_share=share), latent_clip(4, FRAMES)
    loss, _ = world(clip, seeded())
    clip = in_order(world, clip, seeded())
    clean, noisy, grid = drawn(world, clip, rows=1)
    target = world.targets(noisy[:1], Grid(grid.level[:1], grid.units[:1]), clip[:1])
    estimate, _ = world.denoise(noisy, grid, clip.actions, clip.labeled)
    for t in range(FRAMES if images else 0):
        one = slice(t, t + 1)
        alone = Grid(grid.level[:, one], grid.units[:, one])
        image, _ = world.denoise(noisy[:, one], alone, clip.actions[:, one], clip.labeled[:, one])
        estimate[4 - images :, t] = image[4 - images :, 0]
    torch.testing.assert_close(
        loss, world.loss(estimate, clean, target, grid, clip.episode == 0)[0], atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("num_steps", [1, 4])
def test_sampling_goes_on_from_a_first_estimate_that_is_known(num_steps: int) -> None:
    noise, calls = torch.randn(2, 1, 2, 3), []

    def denoise(noisy: Tensor, level: Tensor, units: Tensor) -> Tensor:
        calls.append(int(level[0, 0]))
        return noisy * 0.3 + level[..., None, None]

    whole = sample(denoise, noise, num_steps, 8)
    first = denoise(noise, torch.zeros(2, 1), torch.zeros(2, 1))
    calls.clear()
    torch.testing.assert_close(sample(denoise, noise, num_steps, 8, first=first), whole)
    assert calls == [0, 2, 4, 6][1:num_steps]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"image_share": 1.5}, "image_share=1.5"), ({"bootstrap_warmup": -1}, "bootstrap_warmup=-1")],
)
def test_a_share_that_cannot_be_is_named(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DynamicsConfig(**wrong)


def test_tokens_that_the_latents_do_not_split_into_are_named() -> None:
    with pytest.raises(ValueError, match="num_tokens=4 does not divide the 6 numbers"):
        WorldModel(replace(DYNAMICS, num_tokens=4))


def test_tokens_are_held_against_the_latents_of_the_data_not_against_a_placeholder() -> None:
    wanted = DynamicsConfig(num_tokens=6)  # does not divide the 512 numbers of the default
    assert replace(wanted, latent_shape=(3, 6)).token_shape == (6, 3)
