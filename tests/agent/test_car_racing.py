"""CarRacing-v3: equal pixels, the time convention, ends."""

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("Box2D")

from gymnasium.envs.box2d.car_racing import PLAYFIELD, CarRacing

from agent.envs.base import Arrival
from agent.envs.car_racing import CarRacingEnvironment, CentreLine, shrink
from agent.envs.fast_car_racing import FastCarRacing
from agent.envs.registry import make_env

STRAIGHT = np.array([0, 1, -1], dtype=np.float32)


def controls(kind: str, steps: int) -> NDArray[np.float32]:
    """Simulator actions [steps, 3]: steering, gas, brake."""
    rng = np.random.default_rng(0)
    if kind == "straight off the track":
        return np.tile(np.array([0, 1, 0], dtype=np.float32), (steps, 1))
    if kind == "spinning":
        return np.array([[float(i > 40), 1, 0] for i in range(steps)], dtype=np.float32)
    held = rng.uniform((-0.5, 0, 0), (0.5, 1, 0.2), (steps // 10 + 1, 3))
    return held.repeat(10, 0)[:steps].astype(np.float32)


@pytest.mark.parametrize("kind", ["straight off the track", "spinning", "wandering"])
@pytest.mark.parametrize("seed", [0, 7])
def test_fast_pixels_are_the_stock_environments_pixels(kind: str, seed: int) -> None:
    stock, fast = CarRacing(), FastCarRacing()
    np.testing.assert_array_equal(stock.reset(seed=seed)[0], fast.reset(seed=seed)[0])
    for action in controls(kind, 150):  # the camera zooms in over the first 50
        expected, reward, *_ = stock.step(action)
        pixels, fast_reward, *_ = fast.step(action)
        np.testing.assert_array_equal(pixels, expected)
        assert fast_reward == reward
    assert stock.tile_visited_count > 3  # so that tiles changed colour on the way


@pytest.mark.parametrize("angle", [0.0, np.pi / 2, np.pi, -np.pi / 2, 1.0])
def test_fast_pixels_are_stocks_at_the_edge_of_the_field_too(angle: float) -> None:
    stock, fast = CarRacing(), FastCarRacing()
    for game in (stock, fast):
        game.reset(seed=3)
        game.t = 2.0
        assert game.car is not None
        game.car.hull.position = (PLAYFIELD - 4, 0.5 * PLAYFIELD)
        game.car.hull.angle = angle
    np.testing.assert_array_equal(fast._render("state_pixels"), stock._render("state_pixels"))


def test_an_indicator_above_the_status_bar_is_drawn_as_stock_draws_it() -> None:
    stock, fast = CarRacing(), FastCarRacing()
    for game in (stock, fast):
        game.reset(seed=3)
        assert game.car is not None
        game.car.wheels[2].omega = 700.0
    np.testing.assert_array_equal(fast._render("state_pixels"), stock._render("state_pixels"))


def test_a_frame_is_the_mean_over_areas() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    fine = pixels.repeat(2, 0).repeat(2, 1).astype(np.float64)  # 3 x 3 of these to a pixel of the frame
    expected = fine.reshape(64, 3, 64, 3, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(shrink(pixels) - expected).max() <= 0.5 + 1e-9


def play(env: CarRacingEnvironment, seed: int, rows: NDArray[np.float32]) -> list[Arrival]:
    return [env.reset(seed), *(env.step(row) for row in rows)]


def test_stock_and_fast_environments_give_equal_arrivals() -> None:
    rows = np.random.default_rng(1).uniform(-1, 1, (12, 3)).astype(np.float32)
    envs = [CarRacingEnvironment(stock=stock, action_repeat=4) for stock in (True, False)]
    for expected, arrival in zip(*(play(env, 5, rows) for env in envs), strict=True):
        np.testing.assert_array_equal(arrival.frame, expected.frame)
        assert (arrival.reward, arrival.continues, arrival.is_last) == (expected.reward, True, False)


def test_the_stock_environment_is_the_game_that_gymnasium_makes() -> None:
    """Frames that nobody is shown are not drawn, and nothing else differs, up to the end of the time limit."""
    env, game = CarRacingEnvironment(stock=True, action_repeat=30), gymnasium.make("CarRacing-v3")
    arrival, (pixels, _) = env.reset(5), game.reset(seed=5)
    np.testing.assert_array_equal(arrival.frame, shrink(pixels))
    rows = np.random.default_rng(1).uniform((0.5, -1, -1), (1, -0.5, -0.9), (40, 3)).astype(np.float32)
    for row in rows:
        arrival, paid = env.step(row), 0.0
        for _ in range(30):
            pixels, reward, terminated, truncated, _ = game.step(np.array([row[0], *(row[1:] + 1) / 2], np.float32))
            paid += float(reward)
            if terminated or truncated:
                break
        np.testing.assert_array_equal(arrival.frame, shrink(pixels))
        assert arrival.reward == paid and arrival.is_last == (terminated or truncated)
        assert arrival.continues != terminated
        if arrival.is_last:
            break
    assert truncated


def test_the_first_frame_came_with_nothing_and_each_later_one_with_its_action() -> None:
    arrivals = play(CarRacingEnvironment(stock=False, action_repeat=4), 5, np.stack([STRAIGHT, -STRAIGHT]))
    assert [a.is_first for a in arrivals] == [True, False, False]
    assert [a.labeled for a in arrivals] == [False, True, True]
    np.testing.assert_array_equal([a.action for a in arrivals], [0 * STRAIGHT, STRAIGHT, -STRAIGHT])
    assert arrivals[0].reward == 0
    assert arrivals[0].frame.shape == (3, 64, 64) and arrivals[0].frame.dtype == np.uint8


def test_an_action_repeat_sums_rewards_and_returns_its_last_frame() -> None:
    every, fourth = (CarRacingEnvironment(stock=False, action_repeat=n) for n in (1, 4))
    single = play(every, 5, np.tile(STRAIGHT, (8, 1)))
    repeated = play(fourth, 5, np.tile(STRAIGHT, (2, 1)))
    assert every.fps == 50 and fourth.fps == 12.5
    for i in (1, 2):
        np.testing.assert_array_equal(repeated[i].frame, single[4 * i].frame)
        assert repeated[i].reward == pytest.approx(sum(a.reward for a in single[4 * i - 3 : 4 * i + 1]))


def test_the_time_limit_ends_an_episode_that_would_continue() -> None:
    env = CarRacingEnvironment(stock=False, action_repeat=300, draw=False)
    arrivals = play(env, 5, np.tile(np.array([0, -1, 1], dtype=np.float32), (4, 1)))  # standing still
    assert [a.is_last for a in arrivals] == [False, False, False, False, True]
    assert arrivals[-1].continues and arrivals[-1].reward == pytest.approx(-10.0)  # 100 steps were left of the 1000
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(STRAIGHT)


def test_leaving_the_field_terminates_with_the_frame_that_stock_shows() -> None:
    game = CarRacing()
    game.reset(seed=5)
    leave_the_field(game)
    pixels, reward, terminated, *_ = game.step(np.array([0, 1, 0], dtype=np.float32))
    assert terminated and reward == -100
    for stock in (True, False):
        env = CarRacingEnvironment(stock=stock, action_repeat=4)
        env.reset(5)
        leave_the_field(env.simulator)
        arrival = env.step(STRAIGHT)
        assert arrival.is_last and not arrival.continues and arrival.reward == -100
        np.testing.assert_array_equal(arrival.frame, shrink(pixels))


def leave_the_field(game: CarRacing) -> None:
    assert game.car is not None
    shift = (PLAYFIELD + 5 - game.car.hull.position[0], 0)
    for body in (game.car.hull, *game.car.wheels):
        body.position += shift


def test_an_endless_game_goes_on_past_the_fields_edge_and_the_time_limit() -> None:
    game = CarRacingEnvironment(stock=False, action_repeat=50, draw=False, endless=True)
    game.reset(0)
    car = game.simulator.car
    assert car is not None
    for body in (car.hull, *car.wheels):
        body.position += (2 * PLAYFIELD, 0)
    arrivals = [game.step(STRAIGHT) for _ in range(25)]  # 1250 simulator steps
    assert not any(arrival.is_last for arrival in arrivals) and all(arrival.continues for arrival in arrivals)
    assert max(map(abs, game.car_state().position)) > PLAYFIELD
    with pytest.raises(ValueError, match="endless=True needs stock=False"):
        CarRacingEnvironment(stock=True, action_repeat=4, endless=True)


def test_the_middle_of_the_road_is_a_line_and_no_row_of_points() -> None:
    """A car that cruised in it was paid for 1.75 units aside, to and fro, wherever it was between two points."""
    line = CentreLine(np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]]))
    assert [line.distance(place) for place in ((4, 4), (1, 0), (4, 2), (0, 2))] == [0, 0, 0, 0]
    assert line.distance((2, 1)) == line.distance((5, 3)) == line.distance((2, -1)) == 1
    assert line.distance((7, 8)) == 5  # beyond a corner


def test_a_seed_names_an_episode_whatever_was_played_before() -> None:
    env, rows = CarRacingEnvironment(stock=False, action_repeat=4), np.tile(STRAIGHT, (20, 1))
    first, _, again = (play(env, seed, rows) for seed in (5, 6, 5))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.frame, b.frame)
        assert a.reward == b.reward


def test_a_tiny_overshoot_is_clipped_and_a_wrong_row_is_refused() -> None:
    env = CarRacingEnvironment(stock=False, action_repeat=1, draw=False)
    env.reset(5)
    assert env.step(np.array([1.00001, 0, 0])).action[0] == 1
    with pytest.raises(ValueError, match="'gas'"):
        env.step(np.array([0, 1.5, 0]))
    with pytest.raises(ValueError, match="shape"):
        env.step(np.zeros(2))


def test_an_unknown_environment_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="'CarRacing-v9'.*CarRacing-v3"):
        make_env("CarRacing-v9", stock=False, action_repeat=4)


def test_a_missing_extra_is_one_sentence_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.envs.registry.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "gymnasium\[box2d\]"'):
        make_env("CarRacing-v3", stock=False, action_repeat=4)
