"""V of World Models: its size, its loss by hand, and that it learns."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.builders import episode_clip, seeded
from tokenizer.autoencoder import to_float
from tokenizer.vae import VAE, FromOnePixel, VAEConfig, kl_divergence, sample


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("latent_dim", "count"), [(32, 4_348_547), (64, 4_446_915)])
def test_it_has_the_papers_parameters(latent_dim: int, count: int) -> None:
    assert size(VAE(VAEConfig(latent_dim=latent_dim))) == count


def test_the_divergence_by_hand() -> None:
    """KL(N(m, s^2) || N(0, 1)) = (m^2 + s^2 - 1 - log s^2) / 2, a channel."""
    mean, variance = torch.tensor([[[1.0, -2.0]]]), torch.tensor([[[1.0, 4.0]]])
    by_hand = 0.5 * (1 + 1 - 1 - 0) + 0.5 * (4 + 4 - 1 - math.log(4))
    assert kl_divergence(torch.stack([mean, variance.log()], dim=-2)).item() == pytest.approx(by_hand)
    normal = torch.distributions.Normal(mean, variance.sqrt())
    theirs = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0, 1)).sum(-1)
    torch.testing.assert_close(kl_divergence(torch.stack([mean, variance.log()], dim=-2)), theirs)


class Flat(VAE):
    """Encodes every frame as the same mean and variance, and decodes grey."""

    def __init__(self, mean: float, variance: float, free_nats: float) -> None:
        super().__init__(VAEConfig(latent_dim=2, free_nats=free_nats))
        self.known = torch.tensor([[mean] * 2, [math.log(variance)] * 2])

    def encode(self, video: torch.Tensor) -> torch.Tensor:
        return self.known.expand(*video.shape[:2], 2, 2)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return torch.full((*z.shape[:2], 3, 64, 64), 0.5)


@pytest.mark.parametrize("free_nats", [0.0, 0.5, 100.0])
def test_the_loss_by_hand(free_nats: float) -> None:
    """The squared error of all pixels of a frame, and two channels' divergence, free up to so many nats each."""
    clip = episode_clip(batch=2, time=1, size=64)
    loss, metrics = Flat(1.0, 1.0, free_nats)(clip, seeded())
    error = (to_float(clip.frames) - 0.5).square().sum() / 2
    divergence = 2 * 0.5
    assert loss.item() == pytest.approx(error.item() + max(divergence, 2 * free_nats), rel=1e-6)
    assert metrics["kl"].item() == pytest.approx(divergence)


def test_free_nats_are_of_each_frame() -> None:
    """A frame that tells much does not pay for one that tells nothing."""
    vae = VAE(VAEConfig(latent_dim=2, free_nats=0.5))
    latents = torch.zeros(2, 1, 2, 2)
    latents[0, 0, 0] = 10.0
    kl = kl_divergence(latents)
    assert kl.flatten().tolist() == [100.0, 0.0]
    vae.encode = lambda video: latents  # type: ignore[method-assign]
    clip = episode_clip(batch=2, time=1, size=64)
    loss, metrics = vae(clip, seeded())
    assert (loss - metrics["error"]).item() == pytest.approx((100.0 + 1.0) / 2, rel=1e-4)


def test_samples_have_the_mean_and_spread_that_they_were_given() -> None:
    latents = torch.tensor([[3.0, -1.0], [math.log(4.0), math.log(0.25)]]).expand(1, 100_000, 2, 2)
    z = sample(latents, seeded())
    torch.testing.assert_close(z.mean(1)[0], torch.tensor([3.0, -1.0]), atol=0.03, rtol=0)
    torch.testing.assert_close(z.std(1)[0], torch.tensor([2.0, 0.5]), atol=0.03, rtol=0)


def test_from_one_pixel_the_product_is_the_convolution() -> None:
    layer, x = FromOnePixel(6, 4, 5, 2), torch.randn(3, 6, 1, 1, generator=seeded())
    torch.testing.assert_close(layer(x), functional.conv_transpose2d(x, layer.weight, layer.bias, 2))


def test_frames_are_encoded_by_themselves() -> None:
    vae, video = VAE(VAEConfig()), torch.rand(2, 3, 3, 64, 64, generator=seeded())
    whole = vae.encode(video)
    assert whole.shape == (2, 3, 2, 32)
    torch.testing.assert_close(whole[1:, 1:2], vae.encode(video[1:, 1:2]), atol=1e-5, rtol=1e-4)
    latents, cache = vae.encoder.step(video)
    assert cache is None
    torch.testing.assert_close(latents, whole)
    assert vae.decode(whole[..., 0, :]).shape == video.shape


def test_what_is_hidden_is_neither_seen_nor_asked_for() -> None:
    """The status bar shows the speed: with it V would know what is left for M to tell."""
    vae, clip = VAE(VAEConfig(hidden_rows=8)), episode_clip(batch=2, time=1, size=64)
    other = clip.frames.clone()
    other[..., -8:, :] = 255 - other[..., -8:, :]
    changed = type(clip)(**{**vars(clip), "frames": other})
    assert vae.encode(to_float(clip.frames)).equal(vae.encode(to_float(other)))
    assert vae(clip, seeded())[0].equal(vae(changed, seeded())[0])
    other[..., -9, :] = 255 - other[..., -9, :]
    assert not vae.encode(to_float(clip.frames)).equal(vae.encode(to_float(other)))


def test_it_overfits_one_batch() -> None:
    torch.manual_seed(0)
    vae, clip = VAE(VAEConfig()), episode_clip(batch=2, time=1, size=64)
    plain = torch.full_like(clip.frames, 40)
    plain[1] = 200
    clip = type(clip)(**{**vars(clip), "frames": plain})
    optimizer = torch.optim.Adam(vae.parameters(), 1e-3)
    losses = []
    for step in range(60):
        loss, metrics = vae(clip, seeded(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(metrics["error"].item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("wrong", [{"latent_dim": 0}, {"free_nats": -1.0}, {"hidden_rows": 64}])
def test_senseless_configs_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        VAEConfig(**wrong)  # type: ignore[arg-type]
