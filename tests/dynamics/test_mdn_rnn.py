"""M of World Models: its size, its mixture against torch's own, and that its state carries what it must."""

from dataclasses import replace

import pytest
import torch
from torch import distributions, nn

from dynamics.actions import ActionSpace
from dynamics.mdn_rnn import (
    LSTM,
    MDNRNN,
    MDNRNNConfig,
    Mixture,
    State,
    action_features,
    log_likelihood,
    num_action_features,
    sample_mixture,
)
from tests.builders import MIXED, latent_clip, randomised, seeded
from tokenizer.records import LatentClip

TINY = MDNRNNConfig(latent_dim=3, actions=MIXED, hidden=8, num_gaussians=2, reward_head=True, end_head=True)
DOOM = MDNRNNConfig(latent_dim=64, actions=ActionSpace(continuous=("sideways",)), hidden=512, end_head=True)


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_it_has_the_papers_parameters() -> None:
    assert size(MDNRNN(MDNRNNConfig())) == 422_368
    assert size(MDNRNN(DOOM)) == 1_678_785


def test_the_reward_head_is_counted_apart() -> None:
    assert size(MDNRNN(MDNRNNConfig(reward_head=True))) == 422_368 + 256 + 1


def test_gates_have_one_bias() -> None:
    model = LSTM(5, 7)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {
        "weight_ih": (28, 5),
        "weight_hh": (28, 7),
        "bias": (28,),
    }


def test_the_lstm_is_torchs_with_its_second_bias_at_zero() -> None:
    mine, theirs, x = LSTM(5, 7), nn.LSTM(5, 7, batch_first=True), torch.randn(2, 4, 5, generator=seeded())
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(mine.weight_ih)
        theirs.weight_hh_l0.copy_(mine.weight_hh)
        theirs.bias_ih_l0.copy_(mine.bias)
        theirs.bias_hh_l0.zero_()
    torch.testing.assert_close(mine(x), theirs(x)[0])


@pytest.mark.parametrize("batch", [1, 3])
def test_step_by_step_equals_the_whole(batch: int) -> None:
    model, clip = randomised(MDNRNN(TINY)), latent_clip(batch, 6, (2, 3))
    inputs = model.inputs(clip.latents[:, :, 0], clip.actions, clip.is_first)
    whole, state = model.lstm(inputs), model.start(batch)
    for t in range(6):
        state = model.step(state, clip.latents[:, t, 0], clip.actions[:, t], clip.is_first[:, t])
        torch.testing.assert_close(state.h, whole[:, t])


def mixture(seed: int = 0) -> Mixture:
    """Of 4 rows, 5 Gaussians and 3 channels."""
    values = torch.randn(3, 4, 5, 3, generator=seeded(seed))
    return Mixture(values[0].log_softmax(-2), values[1], values[2] * 0.3)


def theirs(mine: Mixture) -> distributions.MixtureSameFamily:
    weights, means, log_stds = (part.transpose(-1, -2) for part in mine)
    return distributions.MixtureSameFamily(
        distributions.Categorical(logits=weights), distributions.Normal(means, log_stds.exp())
    )


def test_the_likelihood_is_that_of_torchs_mixture() -> None:
    z = torch.randn(4, 3, generator=seeded(1))
    torch.testing.assert_close(log_likelihood(mixture(), z), theirs(mixture()).log_prob(z))


def test_samples_have_the_mixtures_own_moments() -> None:
    one = mixture()
    many = Mixture(*(part.expand(60_000, *part.shape) for part in one))
    shape = (60_000, 4, 3)
    choice, noise = torch.rand(shape, generator=seeded(2)), torch.randn(shape, generator=seeded(3))
    z = sample_mixture(many, choice, noise, temperature=1.0)
    torch.testing.assert_close(z.mean(0), theirs(one).mean, atol=0.03, rtol=0)
    torch.testing.assert_close(z.var(0), theirs(one).variance, atol=0.06, rtol=0.03)


def test_a_temperature_divides_logits_and_multiplies_variances() -> None:
    """As in the paper's VizDoom: logits / tau, sigma * sqrt(tau)."""
    one, temperature = mixture(), 1.7
    hot = Mixture(
        (one.log_weights / temperature).log_softmax(-2), one.means, one.log_stds + 0.5 * torch.tensor(temperature).log()
    )
    choice, noise = torch.rand(4, 3, generator=seeded(2)), torch.randn(4, 3, generator=seeded(3))
    torch.testing.assert_close(
        sample_mixture(one, choice, noise, temperature=temperature), sample_mixture(hot, choice, noise, temperature=1.0)
    )


def test_a_cold_dream_takes_the_likeliest_gaussians_mean() -> None:
    one = mixture()
    z = sample_mixture(one, torch.full((4, 3), 0.5), torch.randn(4, 3, generator=seeded()), temperature=1e-6)
    likeliest = one.means.gather(-2, one.log_weights.argmax(-2, keepdim=True)).squeeze(-2)
    torch.testing.assert_close(z, likeliest, atol=0.02, rtol=0)


def test_it_learns_from_samples_of_z() -> None:
    """Means alone would make it too sure: the loss differs from one draw to the next, and with the variance."""
    model, clip = randomised(MDNRNN(TINY)), latent_clip(2, 5, (2, 3))
    first, again, other = (model(clip, seeded(seed))[0].item() for seed in (0, 0, 1))
    assert first == again != other
    sure = clip.latents.clone()
    sure[:, :, 1] = -50.0
    still = replace(clip, latents=sure)
    assert model(still, seeded(0))[0].item() == pytest.approx(model(still, seeded(1))[0].item(), abs=1e-6)


def test_the_next_frame_is_what_is_predicted_from_the_action_that_led_to_it() -> None:
    """Action t led from frame t - 1 to frame t: the first one has no part in the loss, the last one has."""
    model, clip = randomised(MDNRNN(TINY)), latent_clip(2, 5, (2, 3))
    losses = []
    for t in (0, 4):
        actions = clip.actions.clone()
        actions[:, t, 0] += 0.5
        losses.append(model(replace(clip, actions=actions), seeded())[0].item())
    plain = model(clip, seeded())[0].item()
    assert losses[0] == plain != losses[1]


def test_the_end_is_learned_where_the_environment_terminated() -> None:
    model, clip = randomised(MDNRNN(TINY)), latent_clip(2, 5, (2, 3))
    surprised = model(clip, seeded())[1]["end_surprise"]
    continues = clip.continues.clone()
    continues[:, -1] = False
    hidden = model.lstm(model.inputs(*known(clip)))
    logits = model.end_logit(hidden)
    by_hand = torch.nn.functional.softplus(logits)
    torch.testing.assert_close(surprised, by_hand.mean())
    by_hand[:, -1] = torch.nn.functional.softplus(-logits[:, -1])
    ended = model(replace(clip, continues=continues), seeded())[1]["end_surprise"]
    torch.testing.assert_close(ended, by_hand.mean())


def test_nothing_is_learned_of_the_way_from_one_episode_to_the_next() -> None:
    model, clip = randomised(MDNRNN(TINY)), latent_clip(1, 5, (2, 3))
    is_first = clip.is_first.clone()
    is_first[:, 4] = True
    other = replace(clip, is_first=is_first)
    rewards, latents, continues = other.rewards.clone(), other.latents.clone(), other.continues.clone()
    rewards[:, 4], latents[:, 4], continues[:, 4] = 9.0, 9.0, False
    changed = replace(other, rewards=rewards, latents=latents, continues=continues)
    assert model(changed, seeded())[0].equal(model(other, seeded())[0])
    assert not model(other, seeded())[0].equal(model(clip, seeded())[0])


def test_video_without_actions_teaches_neither_rewards_nor_ends() -> None:
    """Its zeros and its "goes on" are no labels; the next frame is learned from it all the same."""
    model, clip = randomised(MDNRNN(TINY)), latent_clip(2, 5, (2, 3))
    labeled = torch.ones_like(clip.labeled)
    labeled[1] = False
    half = replace(clip, labeled=labeled)
    rewards, continues, latents = clip.rewards.clone(), clip.continues.clone(), clip.latents.clone()
    rewards[1], continues[1], latents[1, -1, 0] = 9.0, False, 9.0
    told = model(half, seeded())[1]
    for name, value in model(replace(half, rewards=rewards, continues=continues), seeded())[1].items():
        assert value.equal(told[name]), name
    assert not model(replace(half, latents=latents), seeded())[0].equal(told["loss"])
    none = model(replace(clip, labeled=torch.zeros_like(labeled)), seeded())[1]
    assert none["loss"] == -none["log_likelihood"] and none["reward_error"] == none["end_surprise"] == 0


def known(clip: LatentClip) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What M sees of a clip, with the z that `seeded()` draws."""
    mean, log_variance = clip.latents.unbind(-2)
    z = mean + torch.exp(log_variance / 2) * torch.randn(mean.shape, generator=seeded())
    return z[:, :-1], clip.actions[:, 1:], clip.is_first[:, :-1]


def test_it_overfits_one_batch() -> None:
    model, clip = MDNRNN(replace(TINY, hidden=32)), latent_clip(2, 5, (2, 3))
    sure = clip.latents.clone()
    sure[:, :, 1] = -8.0
    clip = replace(clip, latents=sure)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for step in range(200):
        loss, metrics = model(clip, seeded(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert metrics["log_likelihood"] > 1.5 and metrics["reward_error"] < 0.05


def test_a_class_is_told_by_a_one_among_zeros() -> None:
    assert num_action_features(MIXED) == 2 + 3 + 1
    rows = torch.tensor([[0.5, -1.0, 2.0, 1.0]])
    assert action_features(MIXED, rows).tolist() == [[0.5, -1.0, 0.0, 0.0, 1.0, 1.0]]


def test_the_state_begins_at_zero() -> None:
    start = MDNRNN(TINY).start(2)
    assert isinstance(start, State) and not start.h.any() and not start.c.any()


def test_senseless_configs_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden=0"):
        MDNRNNConfig(hidden=0)
