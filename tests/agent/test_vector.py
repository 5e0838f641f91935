"""Many environments at once."""

import os
import signal

import numpy as np
import pytest

pytest.importorskip("Box2D")

from agent.envs.registry import make_env
from agent.envs.vector import VectorEnv

GAS = np.array([0, 1, -1], dtype=np.float32)


@pytest.mark.parametrize("processes", [0, 2])
def test_each_environment_plays_as_it_does_alone(processes: int) -> None:
    rows = np.random.default_rng(0).uniform(-1, 1, (3, 3, 3)).astype(np.float32)
    alone = []
    for i in range(3):
        env = make_env("CarRacing-v3", stock=False, action_repeat=4)
        alone.append([env.reset(i), *(env.step(row) for row in rows[:, i])])
    with VectorEnv("CarRacing-v3", num_envs=3, processes=processes, stock=False, action_repeat=4) as envs:
        together = [envs.reset([0, 1, 2]), *(envs.step(row) for row in rows)]
        assert envs.action_space.size == 3 and envs.frame_shape == (3, 64, 64) and envs.fps == 12.5
    for t, arrivals in enumerate(together):
        for i, arrival in enumerate(arrivals):
            np.testing.assert_array_equal(arrival.frame, alone[i][t].frame)
            assert arrival.reward == alone[i][t].reward and arrival.is_first == (t == 0)


def test_a_finished_environment_stays_finished_until_it_is_reset() -> None:
    rows = np.stack([GAS, GAS])
    with VectorEnv("CarRacing-v3", num_envs=2, processes=0, stock=False, action_repeat=600) as envs:
        envs.reset([0, 1])
        envs.step(rows)
        ended = envs.step(rows)
        assert all(a.is_last for a in ended)
        still = envs.step(rows)
        assert all(a.is_last and a.reward == a.earned(0) == a.earned(1) == 0 for a in still)
        np.testing.assert_array_equal(still[1].frame, ended[1].frame)
        (fresh,) = envs.reset_some({1: 5})
        assert fresh.is_first
        assert [a.is_last for a in envs.step(rows)] == [True, False]


@pytest.mark.parametrize("processes", [0, 2])
def test_an_environment_that_is_stopped_stands_still_until_it_is_reset(processes: int) -> None:
    rows = np.stack([GAS] * 3)
    with VectorEnv("CarRacing-v3", num_envs=3, processes=processes, stock=False, action_repeat=4) as envs:
        before = envs.reset([0, 1, 2])
        envs.stop([1, 2])
        after = envs.step(rows)
        assert [a.is_last for a in after] == [False, True, True] and after[2].reward == 0
        np.testing.assert_array_equal(after[1].frame, before[1].frame)
        envs.reset_some({2: 7})
        assert [a.is_last for a in envs.step(rows)] == [False, True, False]


def test_a_worker_that_is_killed_is_named_and_ends_the_others() -> None:
    envs = VectorEnv("CarRacing-v3", num_envs=2, processes=2, stock=False, action_repeat=4)
    envs.reset([0, 1])
    workers = [process for process, _ in envs._workers]
    assert workers[1].pid is not None
    os.kill(workers[1].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"worker 1 died \(exit code -9\)"):
        envs.step(np.stack([GAS, GAS]))
    assert not any(worker.is_alive() for worker in workers)
    with pytest.raises(RuntimeError, match="closed"):
        envs.step(np.stack([GAS, GAS]))


def test_an_error_in_a_worker_comes_with_its_traceback() -> None:
    envs = VectorEnv("CarRacing-v3", num_envs=1, processes=1, stock=False, action_repeat=4)
    with pytest.raises(RuntimeError, match="(?s)worker 0 failed.*call reset first"):
        envs.step(GAS[None])
    envs.close()


def test_an_unknown_environment_is_an_error_not_a_hang() -> None:
    with pytest.raises(RuntimeError, match="unknown environment 'Pong'"):
        VectorEnv("Pong", num_envs=1, processes=1, stock=False, action_repeat=4)


def test_wrong_counts_are_refused() -> None:
    with VectorEnv("CarRacing-v3", num_envs=2, processes=0, stock=False, action_repeat=4) as envs:
        with pytest.raises(ValueError, match="1 seeds for 2"):
            envs.reset([0])
        with pytest.raises(ValueError, match="expected"):
            envs.step(GAS[None])
        with pytest.raises(ValueError, match=r"\[2\]"):
            envs.reset_some({2: 0})
