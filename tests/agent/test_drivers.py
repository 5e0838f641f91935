"""What the drivers earn. No frame is drawn."""

import numpy as np
import pytest

pytest.importorskip("Box2D")

from gymnasium.envs.box2d.car_racing import SCALE, WINDOW_H, ZOOM

from agent.collecting import collect_episode
from agent.drivers import IN_SIGHT, CorrelatedRandomDriver, Driver, RandomDriver, make_driver, mixed_driver
from agent.envs.car_racing import CarRacingEnvironment
from agent.racing_line import racing_line
from agent.scripted_driver import REACTION, ScriptedDriver, Skill


@pytest.fixture
def env() -> CarRacingEnvironment:
    return CarRacingEnvironment(stock=False, action_repeat=4, draw=False)


def returns(env: CarRacingEnvironment, driver: Driver, tracks: range) -> list[float]:
    return [collect_episode(env, driver, seed=track).total_reward for track in tracks]


def test_the_scripted_driver_finishes_its_laps(env: CarRacingEnvironment) -> None:
    assert min(returns(env, ScriptedDriver(), range(3))) > 800


def test_noise_and_lapses_cost_but_do_not_end_the_drive(env: CarRacingEnvironment) -> None:
    clumsy = returns(env, ScriptedDriver(Skill(noise=0.2, lapses_per_minute=15.0, pace=0.7)), range(4))
    assert 300 < np.mean(clumsy) < 800


def test_a_driver_who_stops_stands_and_drives_on(env: CarRacingEnvironment) -> None:
    driver = ScriptedDriver(Skill(stops_per_minute=15.0))
    driver.reset(np.random.default_rng(1))
    env.reset(5_000_000)
    speeds = []
    for _ in range(180):
        env.step(driver.act(env))
        speeds.append(float(np.hypot(*env.car_state().velocity)))
    stands = [t for t in range(20, 140) if speeds[t] < 0.5]
    assert stands and all(max(speeds[t : t + 40]) > 25 for t in stands)


def test_a_spin_on_the_grass_is_recovered_from(env: CarRacingEnvironment) -> None:
    """Full throttle in a spin turned the car in circles for the rest of the episode."""
    driver = ScriptedDriver()
    driver.reset(np.random.default_rng(0))
    env.reset(3)
    for _ in range(30):
        driver.act(env)  # it knows where it is
        env.step(np.array([0.4, 0.8, -1]))
    earned = sum(env.step(driver.act(env)).reward for _ in range(100))
    assert earned > 150


@pytest.mark.parametrize(("top_speed", "seen"), [(IN_SIGHT, True), (80.0, False)])
def test_graded_drivers_brake_for_what_the_picture_shows(
    env: CarRacingEnvironment, top_speed: float, seen: bool
) -> None:
    """The plan of the whole track is one that can be made from the stretch ahead of the car that is in the picture."""
    sight = 0.75 * WINDOW_H / (ZOOM * SCALE)  # the car is a quarter above the lower edge
    # A frame until it is seen, half of one until it is acted on, and two of whoever clones it and is late.
    near = sight - top_speed * (REACTION + 3.5 / env.fps)
    for track in range(5_000_000, 5_000_003):
        env.reset(track)
        plan, free = (
            racing_line(env.track_points(), room=3.8, rounds=42, grip=185.0, braking=braking, top_speed=top_speed)
            for braking in (130.0, 1e12)
        )
        place = np.concatenate([[0], np.cumsum(plan.spacing)])
        ahead = (place[None, :-1] - place[:-1, None]) % place[-1]
        planned = np.sqrt(free.speeds**2 + 2 * 130.0 * ahead)
        np.testing.assert_allclose(planned.min(1), plan.speeds)
        from_sight = np.where(ahead <= near, planned, top_speed).min(1)
        assert (np.abs(from_sight - plan.speeds).max() < 0.1) == seen


@pytest.mark.parametrize("driver", [RandomDriver(), CorrelatedRandomDriver()])
def test_random_drivers_get_nowhere(env: CarRacingEnvironment, driver: Driver) -> None:
    assert np.mean(returns(env, driver, range(3))) < 50


@pytest.mark.slow
def test_the_mixture_holds_good_and_bad_drives(env: CarRacingEnvironment) -> None:
    earned = [returns(env, mixed_driver(np.random.default_rng(i)), range(i, i + 1))[0] for i in range(20)]
    assert 400 < np.mean(earned) < 750
    assert np.max(earned) > 850 and np.std(earned) > 100


@pytest.mark.parametrize("name", ["random", "correlated_random", "mixed"])
def test_the_same_seed_drives_the_same_actions(env: CarRacingEnvironment, name: str) -> None:
    first, again, other = (
        collect_episode(env, make_driver(name, np.random.default_rng(2)), seed=seed, max_steps=30).actions
        for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    env.action_space.check(first)


def test_correlated_actions_last(env: CarRacingEnvironment) -> None:
    actions = collect_episode(env, CorrelatedRandomDriver(), seed=5, max_steps=200).actions[1:, 0]
    assert np.corrcoef(actions[1:], actions[:-1])[0, 1] > 0.6


def test_a_random_car_seldom_stands_on_its_brake(env: CarRacingEnvironment) -> None:
    """With the brake half on, as actions around zero have it, it would stand still, and teach nothing."""

    def brakes(driver: Driver) -> np.ndarray:
        episodes = [collect_episode(env, driver, seed=seed, max_steps=100) for seed in range(5)]
        return np.concatenate([episode.actions[1:, 2] for episode in episodes])

    assert brakes(CorrelatedRandomDriver()).mean() < -0.5
    assert abs(brakes(CorrelatedRandomDriver(means={})).mean()) < 0.2


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="pace=0"):
        Skill(pace=0.0)
    with pytest.raises(ValueError, match="'expert'.*scripted"):
        make_driver("expert", np.random.default_rng(0))
