"""Crafter in the house's conventions, and its faster game beside the stock one."""

from collections.abc import Callable

import numpy as np
import pytest

from agent.envs import registry
from agent.envs.base import Arrival, Environment
from agent.envs.crafter_sight import ACTIONS, MATERIALS, MIDDLE, VIEW
from agent.envs.registry import make_env

pytest.importorskip("crafter")

from crafter import constants

from agent.crafter_drivers import ExpertPolicy
from agent.envs.crafter import CrafterEnvironment

Choose = Callable[[Arrival], np.ndarray]


@pytest.fixture(scope="module")
def stock() -> CrafterEnvironment:
    return CrafterEnvironment(stock=True)


@pytest.fixture(scope="module")
def fast() -> CrafterEnvironment:
    return CrafterEnvironment(stock=False)


def randomly(seed: int) -> Choose:
    rng = np.random.default_rng(seed)
    return lambda arrival: np.array([rng.integers(len(ACTIONS))], np.float32)


def expertly(seed: int) -> Choose:
    expert = ExpertPolicy()
    return lambda arrival: expert.act([arrival])[0]


def asleep(seed: int) -> Choose:
    """Through the night, which draws noise."""
    return lambda arrival: np.array([ACTIONS.index("sleep")], np.float32)


def press(env: Environment, action: str) -> Arrival:
    return env.step(np.array([ACTIONS.index(action)]))


def test_it_is_an_environment_of_the_house(fast: CrafterEnvironment) -> None:
    assert isinstance(fast, Environment) and fast.action_space.categorical == (("action", 17),)
    assert fast.task_names[0] == "collect_wood" and fast.task_names[9] == "collect_diamond"
    assert sorted(fast.task_names) == sorted(constants.achievements)
    assert list(ACTIONS) == constants.actions and list(MATERIALS[1:]) == constants.materials
    first = fast.reset(3)
    assert first.frame.shape == fast.frame_shape == (3, 72, 72) and first.frame.dtype == np.uint8
    assert first.is_first and not first.labeled and first.task_rewards == (0.0,) * 22 and first.info["events"] == {}


@pytest.mark.parametrize(("play", "steps"), [(randomly, 120), (expertly, 120), (asleep, 220)])
def test_the_faster_game_is_equal_bit_for_bit(
    stock: CrafterEnvironment, fast: CrafterEnvironment, play: Callable[[int], Choose], steps: int
) -> None:
    for seed in range(2):
        choose, mine, theirs = play(seed), fast.reset(seed), stock.reset(seed)
        for _ in range(steps):
            np.testing.assert_array_equal(mine.frame, theirs.frame)
            assert mine.task_rewards == theirs.task_rewards and mine.info["events"] == theirs.info["events"]
            assert (mine.continues, mine.is_last) == (theirs.continues, theirs.is_last)
            if mine.is_last:
                break
            action = choose(mine)
            mine, theirs = fast.step(action), stock.step(action)


@pytest.mark.slow
@pytest.mark.parametrize("play", [randomly, expertly])
def test_the_faster_game_is_equal_for_long(
    stock: CrafterEnvironment, fast: CrafterEnvironment, play: Callable[[int], Choose]
) -> None:
    for seed in range(6):
        test_the_faster_game_is_equal_bit_for_bit(stock, fast, lambda _, seed=seed: play(seed), 500)  # type: ignore[misc]


def test_each_task_pays_when_its_event_happens(fast: CrafterEnvironment) -> None:
    """Grass gives a sapling to one in ten who ask, which can be put back."""
    fast.reset(0)
    arrivals = [press(fast, "do") for _ in range(60)]
    paid = [arrival for arrival in arrivals if any(arrival.task_rewards)]
    number = fast.task_names.index("collect_sapling")
    assert len(paid) > 1 and all(arrival.task_rewards[number] == 1 for arrival in paid), "not the first time alone"
    assert all(arrival.info["events"] == {"collect_sapling": 1} and arrival.reward == 0 for arrival in paid)


def test_death_is_an_end_and_the_time_limit_is_none(fast: CrafterEnvironment) -> None:
    fast.reset(0)
    fast._game._player.health = 0
    dead = press(fast, "noop")
    assert dead.is_last and not dead.continues
    with pytest.raises(RuntimeError, match="call reset"):
        press(fast, "noop")
    fast.reset(0)
    fast._game._step = 9_999
    late = press(fast, "noop")
    assert late.is_last and late.continues


def test_a_seed_is_an_episode() -> None:
    """Stock draws which creature goes out of a set, so an episode depended on where objects lay in the memory."""
    played = []
    for _ in range(2):
        env, choose = CrafterEnvironment(stock=False), randomly(1)
        arrivals = [env.reset(5)]
        while len(arrivals) < 80:
            arrivals.append(env.step(choose(arrivals[-1])))
        played.append(np.stack([arrival.frame for arrival in arrivals]))
    np.testing.assert_array_equal(*played)
    assert not np.array_equal(played[0][0], env.reset(6).frame)


def test_sight_is_what_the_frame_shows(fast: CrafterEnvironment) -> None:
    sight = fast.reset(0).info["sight"]
    assert sight.ground.shape == VIEW and MATERIALS[sight.ground[MIDDLE]] == "grass" and MIDDLE not in sight.things
    assert sight.position == (32, 32) and sight.facing == (0, 1) and sight.bag["health"] == 9 and not sight.asleep
    world = fast._game._world
    fast._game._player.pos[:] = (0, 63)  # a corner
    corner = fast._game.sight().ground
    assert not corner[: MIDDLE[0]].any() and not corner[:, MIDDLE[1] + 1 :].any()
    np.testing.assert_array_equal(
        corner[MIDDLE[0] :, : MIDDLE[1] + 1], world._mat_map[: MIDDLE[0] + 1, -MIDDLE[1] - 1 :]
    )


def test_what_it_cannot_do_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for more in ({"action_repeat": 4}, {"action_repeat": 1, "endless": True}):
        with pytest.raises(ValueError, match="an action for each of its steps"):
            make_env("Crafter", stock=True, **more)  # type: ignore[arg-type]
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs crafter: pip install crafter numba"):
        make_env("Crafter", stock=True, action_repeat=1)
