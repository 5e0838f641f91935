"""VizDoom's take-cover in the house's conventions."""

from pathlib import Path

import numpy as np
import pytest

from agent.envs import registry
from agent.envs.base import Arrival, Environment
from agent.envs.registry import make_env
from tests.agent.test_any_gymnasium import make

vizdoom = pytest.importorskip("vizdoom")
NAME = "VizdoomTakeCover"


def play(env: Environment, seed: int, actions: float | None, steps: int = 600) -> list[Arrival]:
    """An episode under one action, or random ones."""
    rng = np.random.default_rng(seed)
    arrivals = [env.reset(seed)]
    while not arrivals[-1].is_last and len(arrivals) <= steps:
        row = env.action_space.sample(rng) if actions is None else np.array([actions], np.float32)
        arrivals.append(env.step(row))
    return arrivals


def test_it_is_an_environment_of_the_house() -> None:
    env = make(NAME, action_repeat=4)
    assert isinstance(env, Environment) and env.action_space.continuous == ("sideways",)
    first = env.reset(3)
    assert first.frame.shape == env.frame_shape == (3, 64, 64) and first.frame.std() > 1
    assert first.is_first and not first.labeled and env.fps == 35 / 4
    assert env.step(np.array([0.9])).reward == 4.0, "a reward for every tic survived"
    env.close()


def test_the_player_dies_of_standing_still_which_is_no_time_limit() -> None:
    env = make(NAME, action_repeat=4)
    arrivals = play(env, 1, 0.0)
    assert arrivals[-1].is_last and not arrivals[-1].continues and len(arrivals) < 525
    assert all(a.continues for a in arrivals[:-1])
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(np.array([0.0]))
    env.close()


def test_the_same_seed_is_the_same_episode() -> None:
    env = make(NAME, action_repeat=4)
    first, again, other = (play(env, seed, None) for seed in (5, 5, 6))
    assert len(first) == len(again)
    for mine, theirs in zip(first, again, strict=True):
        np.testing.assert_array_equal(mine.frame, theirs.frame)
    assert any(not np.array_equal(a.frame, b.frame) for a, b in zip(first, other, strict=False))
    env.close()


@pytest.mark.parametrize(("action", "moves"), [(-1.0, True), (-0.3, False), (0.3, False), (1.0, True)])
def test_actions_within_a_third_stand_still(action: float, moves: bool) -> None:
    env = make(NAME, action_repeat=4)
    frames = [np.array([a.frame for a in play(env, 2, value, steps=3)]) for value in (0.0, action)]
    assert np.array_equal(*frames) != moves
    env.close()


def test_it_writes_nothing_where_it_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine would leave its settings behind."""
    monkeypatch.chdir(tmp_path)
    env = make(NAME)
    env.reset(0)
    env.close()
    assert not list(tmp_path.iterdir())


def test_without_vizdoom_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs vizdoom: pip install vizdoom"):
        make_env(NAME, stock=True, action_repeat=4)


def test_it_has_no_endless_game() -> None:
    with pytest.raises(ValueError, match="cannot go on"):
        make_env(NAME, stock=False, action_repeat=4, endless=True)
