"""The real environment and the dream have one interface, and what the controller sees is what M made of the past."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from agent.controller import Controller, ControllerConfig
from agent.envs.vector import VectorEnv
from agent.senses import Senses, VMCPolicy
from agent.worlds import DreamEnv, DreamWorld, LatentWorld, RealWorld
from dynamics.actions import ActionSpace
from dynamics.mdn_rnn import MDNRNN, MDNRNNConfig
from tests.builders import randomised, seeded
from tokenizer.autoencoder import to_float
from tokenizer.vae import VAE, VAEConfig

CAR = ActionSpace(continuous=("steering", "gas", "brake"))
CONFIG = MDNRNNConfig(latent_dim=4, actions=CAR, hidden=6, reward_head=True, end_head=True)
STARTS = torch.randn(5, 2, 4, generator=seeded(7))


def mdn_rnn(**changes: object) -> MDNRNN:
    torch.manual_seed(0)
    model = randomised(MDNRNN(replace(CONFIG, **changes)))  # type: ignore[arg-type]
    if model.end_head is not None:
        torch.nn.init.constant_(model.end_head.bias, -5)  # it seldom ends
    return model


def dream(num_envs: int = 3, max_steps: int = 20, **options: float) -> DreamWorld:
    return DreamWorld(mdn_rnn(), STARTS, num_envs=num_envs, max_steps=max_steps, **options)


def real(num_envs: int = 2, model: MDNRNN | None = None) -> RealWorld:
    pytest.importorskip("Box2D")
    envs = VectorEnv("CarRacing-v3", num_envs=num_envs, processes=0, stock=False, action_repeat=4)
    torch.manual_seed(0)
    return RealWorld(envs, Senses(VAE(VAEConfig(latent_dim=4)).eval(), model or mdn_rnn()))


def rows(num_envs: int, step: int) -> np.ndarray:
    return np.random.default_rng(step).uniform(-1, 1, (num_envs, 3)).astype(np.float32)


def test_dream_and_real_environment_share_one_interface() -> None:
    worlds: list[LatentWorld] = [dream(2), real(2)]
    for name in ("single_observation_space", "single_action_space", "observation_space", "action_space", "metadata"):
        assert getattr(worlds[0], name) == getattr(worlds[1], name), name
    for world in worlds:
        seen, _ = world.reset(seed=[3, 4])
        assert world.observation_space.contains(seen)
        assert not seen[:, 4:].any(), "M remembers nothing at the start"
        seen, rewards, terminated, truncated, _ = world.step(rows(2, 0))
        assert world.observation_space.contains(seen) and seen[:, 4:].all()
        assert (rewards.shape, terminated.dtype, truncated.dtype) == ((2,), np.bool_, np.bool_)


def test_a_dream_is_a_gymnasium_environment() -> None:
    check_env(DreamEnv(mdn_rnn(), STARTS, max_steps=20), skip_render_check=True)


def test_a_dream_is_a_function_of_its_seed_whoever_dreams_beside_it() -> None:
    alone, many = dream(1), dream(3)
    first, _ = alone.reset(seed=[8])
    among, _ = many.reset(seed=[1, 8, 2])
    np.testing.assert_allclose(among[1], first[0])
    for t in range(12):
        actions = rows(3, t)
        mine, theirs = alone.step(actions[1:2]), many.step(actions)
        np.testing.assert_allclose(theirs[0][1], mine[0][0], rtol=1e-5, atol=1e-6)
        assert theirs[1][1] == pytest.approx(mine[1][0]) and theirs[2][1] == mine[2][0]
    other, _ = alone.reset(seed=[9])
    assert not np.allclose(other, first)


def test_hotter_dreams_are_wilder() -> None:
    spread = []
    for temperature in (0.1, 1.0, 3.0):
        world = dream(64, temperature=temperature)
        world.reset(seed=list(range(64)))
        seen = world.step(np.zeros((64, 3), np.float32))[0]
        spread.append(float(seen[:, :4].std()))
    assert spread[0] < spread[1] < spread[2]


def test_a_dream_ends_by_the_chance_that_m_gives_it() -> None:
    model = mdn_rnn()
    assert model.end_head is not None
    with torch.no_grad():
        model.end_head.weight.zero_()
        model.end_head.bias.fill_(float(np.log(0.25 / 0.75)))
    world = DreamWorld(model, STARTS, num_envs=4000, max_steps=9)
    world.reset(seed=0)
    terminated = world.step(np.zeros((4000, 3), np.float32))[2]
    assert terminated.mean() == pytest.approx(0.25, abs=0.03)


def test_what_is_finished_stays_so_and_earns_nothing_until_it_is_reset() -> None:
    model = mdn_rnn(end_head=False)
    world = DreamWorld(model, STARTS, num_envs=2, max_steps=3)
    world.reset(seed=[0, 1])
    for t in range(3):
        _, rewards, _, truncated, _ = world.step(rows(2, t))
    assert truncated.all() and rewards.all()
    for t in range(3, 6):
        _, rewards, _, truncated, _ = world.step(rows(2, t))
        assert truncated.all() and not rewards.any()
    seen, _ = world.reset(seed=[5, 6], options={"reset_mask": np.array([False, True])})
    assert world.finished.tolist() == [True, False]
    fresh, _ = DreamWorld(model, STARTS, num_envs=1, max_steps=3).reset(seed=[6])
    np.testing.assert_allclose(seen[1], fresh[0])


def test_without_a_reward_head_each_step_survived_earns_the_same() -> None:
    world = DreamWorld(mdn_rnn(reward_head=False), STARTS, num_envs=2, max_steps=9, living_reward=4.0)
    world.reset(seed=0)
    assert world.step(rows(2, 0))[1].tolist() == [4.0, 4.0]


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"max_steps": 0}])
def test_senseless_dreams_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dream(**wrong)  # type: ignore[arg-type]


def test_what_is_seen_is_the_frames_z_and_ms_state_of_what_was_before_it() -> None:
    """With the actions that led to the frames, and z_t after h_t: the order in which M was trained."""
    model = mdn_rnn()
    world = real(2, model)
    arrivals = []
    begin, step = world.envs.reset_some, world.envs.step
    world.envs.reset_some = lambda seeds: arrivals.append(begin(seeds)) or arrivals[-1]  # type: ignore[method-assign]
    world.envs.step = lambda actions: arrivals.append(step(actions)) or arrivals[-1]  # type: ignore[method-assign]
    seen = [world.reset(seed=[3, 4])[0], *(world.step(rows(2, t))[0] for t in range(5))]
    frames = torch.from_numpy(np.array([[a.frame for a in now] for now in arrivals])).transpose(0, 1)
    actions = torch.from_numpy(np.array([[a.action for a in now] for now in arrivals])).transpose(0, 1)
    with torch.no_grad():
        z = world.senses.vae.encode(to_float(frames))[:, :, 0]
        first = torch.zeros(2, 6, dtype=torch.bool)
        first[:, 0] = True
        h = model.lstm(model.inputs(z[:, :-1], actions[:, 1:], first[:, :-1]))
    for t in range(6):
        np.testing.assert_allclose(seen[t][:, :4], z[:, t].numpy(), rtol=1e-3, atol=1e-4)
        if t:
            np.testing.assert_allclose(seen[t][:, 4:10], h[:, t - 1].numpy(), rtol=1e-3, atol=1e-4)
    world.close()


def test_an_environment_that_begins_anew_leaves_the_others_as_they_were() -> None:
    world, straight = real(2), real(2)
    for each in (world, straight):
        each.reset(seed=[3, 4])
        for t in range(3):
            each.step(rows(2, t))
    seen, _ = world.reset(seed=[9, 9], options={"reset_mask": np.array([True, False])})
    assert not seen[0, 4:].any() and seen[1, 4:].all()
    np.testing.assert_allclose(world.step(rows(2, 3))[0][1], straight.step(rows(2, 3))[0][1], rtol=1e-3, atol=1e-4)
    world.close()
    straight.close()


def test_an_environment_that_is_stopped_stands_still() -> None:
    world = real(2)
    world.reset(seed=[3, 4])
    world.stop([1])
    assert world.finished.tolist() == [False, True]
    _, rewards, terminated, truncated, _ = world.step(rows(2, 0))
    assert truncated.tolist() == [False, True] and rewards[0] != 0 == rewards[1] and not terminated.any()
    world.close()


def test_the_policy_sees_what_the_controller_was_evolved_on() -> None:
    model, world = mdn_rnn(), real(2)
    torch.manual_seed(1)
    controller = randomised(Controller(ControllerConfig(latent_dim=4, state_dim=6, actions=CAR)))
    policy = VMCPolicy(world.senses.vae, model, controller)
    envs = VectorEnv("CarRacing-v3", num_envs=2, processes=0, stock=False, action_repeat=4)
    arrivals = envs.reset([3, 4])
    seen, _ = world.reset(seed=[3, 4])
    for _ in range(4):
        actions = policy.act(arrivals)
        np.testing.assert_allclose(actions, controller(torch.from_numpy(seen)).numpy(), rtol=1e-3, atol=1e-4)
        arrivals, seen = envs.step(actions), world.step(actions)[0]
    policy.reset(0)
    assert policy.act(envs.reset([3, 4])).shape == (2, 3)
    world.close()
    envs.close()
