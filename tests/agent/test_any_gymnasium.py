"""Gymnasium's environments, shipped and home-made, in the house's conventions."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from agent.envs.base import Environment
from agent.envs.registry import make_env
from dynamics.actions import ActionSpace


class Lamp(gymnasium.Env[NDArray[np.uint8], Any]):
    """A picture as bright as the last action; ends by itself after `limit` steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 24}
    observation_space = spaces.Box(0, 255, (40, 50, 3), np.uint8)

    def __init__(self, actions: "spaces.Space[Any]", limit: int = 5, render_mode: str | None = None) -> None:
        self.action_space, self.limit, self.render_mode = actions, limit, render_mode
        self.got: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count, self.start = 0, int(self.np_random.integers(200))
        return np.full((40, 50, 3), self.start, np.uint8), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.got.append(action)
        assert self.action_space.contains(action), action
        self.count += 1
        picture = np.full((40, 50, 3), 10 * self.count, np.uint8)
        return picture, 1.0, self.count >= self.limit, False, {}

    def render(self) -> None:
        raise AssertionError("its observations are pictures")


@pytest.fixture
def register() -> Iterator[Any]:
    made: list[str] = []

    def add(actions: "spaces.Space[Any]", **more: Any) -> str:
        name = f"Lamp{len(made)}-v0"
        gymnasium.register(name, entry_point=Lamp, kwargs={"actions": actions}, **more)
        made.append(name)
        return f"gym:{name}"

    yield add
    for name in made:
        del gymnasium.registry[name]


def make(name: str, action_repeat: int = 1) -> Environment:
    return make_env(name, stock=True, action_repeat=action_repeat)


SPACES: dict[str, tuple[Any, ActionSpace, list[float], Any]] = {
    "one of several": (spaces.Discrete(4, start=2), ActionSpace(categorical=(("action", 4),)), [3.0], 5),
    "several of several": (
        spaces.MultiDiscrete([2, 3], start=[0, 5]),
        ActionSpace(categorical=(("action0", 2), ("action1", 3))),
        [1.0, 2.0],
        [1, 7],
    ),
    "keys": (spaces.MultiBinary(3), ActionSpace(binary=("action0", "action1", "action2")), [0.0, 1.0, 1.0], [0, 1, 1]),
    "a box": (
        spaces.Box(np.array([0.0, -2.0], np.float32), np.array([1.0, 2.0], np.float32)),
        ActionSpace(continuous=("action0", "action1")),
        [-1.0, 0.5],
        [0.0, 1.0],
    ),
}


@pytest.mark.parametrize("kind", SPACES)
def test_every_kind_of_action_comes_through(register: Any, kind: str) -> None:
    native, space, row, wanted = SPACES[kind]
    env = make(register(native))
    assert isinstance(env, Environment) and env.action_space == space and env.frame_shape == (3, 64, 64)
    first = env.reset(3)
    assert first.is_first and not first.labeled and first.action.tolist() == [0.0] * space.size
    arrival = env.step(np.array(row, np.float32))
    assert arrival.labeled and arrival.action.tolist() == row and arrival.frame.shape == (3, 64, 64)
    assert (arrival.frame == 10).all()
    got = env._env.unwrapped.got[0]  # type: ignore[attr-defined]
    np.testing.assert_allclose(got, wanted)
    with pytest.raises(ValueError, match="allowed|shape"):
        env.step(np.full(space.size, 9.0))
    env.close()


def test_an_action_repeat_sums_the_rewards_and_stops_where_the_game_does(register: Any) -> None:
    env = make(register(spaces.Discrete(2)), action_repeat=3)
    assert env.fps == 8
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(np.zeros(1))
    env.reset(0)
    first, second = env.step(np.zeros(1)), env.step(np.zeros(1))
    assert (first.reward, first.continues, first.is_last) == (3.0, True, False)
    assert (second.reward, second.continues, second.is_last) == (2.0, False, True)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(np.zeros(1))


def test_a_time_limit_is_no_end(register: Any) -> None:
    env = make(register(spaces.Discrete(2), max_episode_steps=2))
    env.reset(0)
    env.step(np.zeros(1))
    last = env.step(np.zeros(1))
    assert last.is_last and last.continues


def test_a_game_without_pictures_is_drawn_and_its_seed_names_the_episode() -> None:
    pytest.importorskip("pygame")
    env = make("gym:CartPole-v1")
    assert env.action_space == ActionSpace(categorical=(("action", 2),)) and env.fps == 50
    frames = []
    for seed in (1, 1, 2):
        env.reset(seed)
        frames.append(np.stack([env.step(np.ones(1)).frame for _ in range(5)]))
    assert np.array_equal(frames[0], frames[1]) and not np.array_equal(frames[0], frames[2])
    assert len(np.unique(frames[0])) > 2
    env.close()


def test_what_cannot_be_is_named(register: Any) -> None:
    with pytest.raises(ValueError, match="gymnasium has no environment 'Nowhere-v0'"):
        make("gym:Nowhere-v0")
    with pytest.raises(ValueError, match="a row can hold a bounded Box"):
        make(register(spaces.Box(-np.inf, np.inf, (2,))))
    with pytest.raises(ValueError, match="would import a module"):
        make("gym:os:Thing-v0")
    with pytest.raises(ValueError, match="cannot go on where its game ends"):
        make_env(register(spaces.Discrete(2)), stock=False, action_repeat=1, endless=True)
    with pytest.raises(ValueError, match="and gym:ID for any of gymnasium"):
        make("Doom")
