"""MineRL as an environment, against a stand-in for it that plays without a game, and breaks as a game may."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.collecting import collect_episode
from agent.drivers import make_driver
from agent.envs import minerl_game
from agent.envs.base import FAILURE, Arrival
from agent.envs.minecraft_actions import KEYS, MINECRAFT, MINERL_NAMES, NULL_CAMERA
from agent.envs.minecraft_events import TASKS
from agent.envs.minerl import MineRLEnvironment, MineRLOptions
from agent.envs.registry import make_env
from agent.envs.vector import VectorEnv
from tests.minerl_stand_in import go_wrong, noted, write_stand_in

SURVIVAL, SHOVEL = "MineRLHumanSurvival-v0", "MineRLObtainDiamondShovel-v0"


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    write_stand_in(tmp_path)
    return tmp_path


def options(stand_in: Path, **more: Any) -> MineRLOptions:
    return MineRLOptions(**{"python": stand_in / "python", "step_seconds": 30.0, **more})


@contextmanager
def playing(stand_in: Path, name: str = SURVIVAL, **more: Any) -> Iterator[MineRLEnvironment]:
    env = MineRLEnvironment(name, options(stand_in, **more))
    try:
        yield env
    finally:
        env.close()


def press(*keys: str, camera: int = NULL_CAMERA) -> NDArray[np.float32]:
    return np.array([camera, *(key in keys for key in KEYS)], np.float32)


def play(env: MineRLEnvironment, *rows: NDArray[np.float32], seed: int = 5) -> list[Arrival]:
    return [env.reset(seed), *(env.step(row) for row in rows)]


def alive(number: str) -> bool:
    """Whether there is a process of this number that is no zombie."""
    try:
        return "Z" not in Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_frames_and_actions_are_in_the_houses_time(stand_in: Path) -> None:
    with playing(stand_in) as env:
        first, second = play(env, press("forward"))
        assert first.is_first and not first.labeled and not first.action.any()
        np.testing.assert_array_equal(first.frame[:, 0, 0], [5, 0, 255])
        assert first.frame.shape == env.frame_shape == (3, 360, 640) and env.fps == 20
        np.testing.assert_array_equal(second.frame[:, 200, 300], [5, 1, 255])
        assert second.labeled and second.action[1 + KEYS.index("forward")] == 1 and second.continues
        np.testing.assert_array_equal(first.frame[:, 0, 0], [5, 0, 255])  # each arrival has a frame of its own
    assert noted(stand_in, "seeds") == ["5"]


def test_the_game_gets_every_key_and_no_other_and_a_camera_within_bounds(stand_in: Path) -> None:
    with playing(stand_in) as env:
        play(env, press("attack", "hotbar_9", camera=120), press(camera=0), press())
    actions = [json.loads(line) for line in noted(stand_in, "actions")]
    for action in actions:
        assert action.keys() == {*MINERL_NAMES.values(), "camera"} and len(action) == 24
        assert all(action[key] in (0, 1) for key in MINERL_NAMES.values())
    assert actions[0]["attack"] == actions[0]["hotbar.9"] == 1 and sum(v == 1 for v in actions[0].values()) == 2
    np.testing.assert_allclose([action["camera"] for action in actions], [[10, 10], [-10, -10], [0, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"drop": None}, r"lacks \['drop'\]"), ({"fly": 1}, r"unknown \['fly'\]"), ({"camera": [1.0]}, "camera is")],
)
def test_the_child_itself_passes_on_no_action_that_is_not_whole(
    stand_in: Path, change: dict[str, object], says: str
) -> None:
    whole = {**dict.fromkeys(MINERL_NAMES.values(), 0), "camera": [200.0, -200.0]}
    with playing(stand_in) as env:
        env.reset(0)
        assert env._game is not None
        env._game.ask({"do": "step", "action": whole}, seconds=30)
        action = {key: value for key, value in {**whole, **change}.items() if value is not None}
        with pytest.raises(minerl_game.GameFailed, match=says):
            env._game.ask({"do": "step", "action": action}, seconds=30)
    (passed,) = noted(stand_in, "actions")
    assert json.loads(passed)["camera"] == [180, -180]


def test_rows_of_no_action_are_refused_and_so_is_a_step_without_an_episode(stand_in: Path) -> None:
    with playing(stand_in) as env:
        with pytest.raises(RuntimeError, match="call reset"):
            env.step(press())
        env.reset(0)
        with pytest.raises(ValueError, match="shape"):
            env.step(np.zeros(3))
        with pytest.raises(ValueError):
            env.step(press(camera=121))
    assert not noted(stand_in, "actions")


def test_what_happens_pays_its_task_once_and_tells_how_much_it_was(stand_in: Path) -> None:
    with playing(stand_in) as env:
        assert env.task_names == TASKS
        _, log, both, nothing, opened = play(
            env, press("attack"), press("attack", "hotbar_1"), press("jump"), press("swap_hands")
        )
    assert log.info["events"] == {"mine_log": 1} and log.earned(TASKS.index("mine_log")) == log.reward == 1
    assert both.info["events"] == {"mine_log": 1, "craft_planks": 4} and both.earned(TASKS.index("craft_planks")) == 1
    assert nothing.info["events"] == {} and not any(nothing.task_rewards)
    assert opened.info["events"] == {"open_crafting_table": 1}, "which MineRL leaves out unless it is asked"


def test_counters_begin_anew_with_each_episode(stand_in: Path) -> None:
    with playing(stand_in) as env:
        play(env, press("attack"), press("attack"))
        assert play(env, press("attack"), seed=6)[1].info["events"] == {"mine_log": 1}
    assert noted(stand_in, "seeds") == ["5", "6"] and len(noted(stand_in, "pids")) == 1, "one game for both"


def test_the_shovel_pays_as_minerl_does_and_its_time_limit_is_no_ending(stand_in: Path) -> None:
    with playing(stand_in, SHOVEL) as env:
        for seed in (1, 2):  # MineRL's own clock goes on over all episodes
            arrivals = play(env, *[press("attack", "hotbar_1")] * 2, *[press()] * 4, seed=seed)
            assert [a.reward for a in arrivals] == [0, 3, 0, 0, 0, 0, 0], "each reward once"
            assert [a.is_last for a in arrivals] == [False] * 6 + [True]
            assert arrivals[-1].continues and FAILURE not in arrivals[-1].info


def test_death_is_an_ending(stand_in: Path) -> None:
    go_wrong(stand_in, "killed by a zombie@2")
    with playing(stand_in) as env:
        _, one, two = play(env, press(), press())
        assert not one.is_last and two.is_last and not two.continues and FAILURE not in two.info
        with pytest.raises(RuntimeError, match="call reset"):
            env.step(press())


def test_gyms_own_time_limit_is_no_ending_unless_the_player_died_just_then(stand_in: Path) -> None:
    dead = "time is up, dead"
    for mode, game, at in (("time is up", SURVIVAL, 2), (dead, SURVIVAL, 2), (dead, SHOVEL, 6)):
        go_wrong(stand_in, f"{mode}@{at}")
        with playing(stand_in, game) as env:
            arrivals = play(env, *[press()] * at)
            assert [a.is_last for a in arrivals] == [False] * at + [True]
            assert arrivals[-1].continues == (mode != dead)


def test_what_the_game_prints_disturbs_nothing(stand_in: Path) -> None:
    go_wrong(stand_in, "noise")
    with playing(stand_in) as env:
        assert [a.frame[1, 0, 0] for a in play(env, *[press("attack")] * 5)] == list(range(6))


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("dies once@3", r"died \(exit code 7\); it last said: a fatal error"),
        ("hangs once@3", "did not answer within 0.5 s"),
        ("raises once@3", "RuntimeError: the chunk is gone"),
        ("loses@3", "MineRL lost its game: Connection timed out!"),
    ],
)
def test_a_game_that_breaks_ends_its_episode_and_is_there_for_the_next(stand_in: Path, mode: str, says: str) -> None:
    go_wrong(stand_in, mode)
    with playing(stand_in, step_seconds=0.5) as env:
        *_, before, broken = play(env, press(), press(), press("attack"))
        assert re.search(says, broken.info[FAILURE])
        assert broken.is_last and broken.continues and not any(broken.task_rewards), "nobody knows that it ended"
        np.testing.assert_array_equal(broken.frame, before.frame)
        assert not any(map(alive, noted(stand_in, "pids"))), "its Minecraft is gone with it"
        assert not env.reset(5).is_last
        assert len(noted(stand_in, "pids")) == 2
    assert not any(map(alive, noted(stand_in, "pids")))
    assert not any(os.path.exists(folder) for folder in noted(stand_in, "folders"))


def test_an_episode_that_a_broken_game_cut_is_not_collected(stand_in: Path) -> None:
    """Another run of the same seed would make other bytes."""
    go_wrong(stand_in, "raises once@3")
    with playing(stand_in) as env:
        driver = make_driver("random", np.random.default_rng(0))
        with pytest.raises(ValueError, match="the game failed in frame 3 of seed 4: RuntimeError: the chunk is gone"):
            collect_episode(env, driver, seed=4, max_steps=6)
        assert collect_episode(env, driver, seed=4, max_steps=6).num_frames == 7


def test_a_child_that_is_killed_is_noticed_at_once_though_its_helper_lives(stand_in: Path) -> None:
    with playing(stand_in) as env:
        env.reset(0)
        assert env._game is not None and env._game._process is not None
        os.kill(env._game._process.pid, signal.SIGKILL)
        began = time.monotonic()
        broken = env.step(press())
        assert "exit code -9" in broken.info[FAILURE] and time.monotonic() - began < 5
        assert not env.reset(0).is_last


def test_a_reset_that_hangs_is_an_episode_that_ends_at_once(stand_in: Path) -> None:
    go_wrong(stand_in, "hangs at reset")
    with playing(stand_in, tries=1) as env:
        env.options = replace(env.options, start_seconds=1.0)
        arrival = env.reset(0)
        assert arrival.is_first and arrival.is_last and "within 1 s" in arrival.info[FAILURE]
        with pytest.raises(RuntimeError, match="call reset"):
            env.step(press())
    assert not any(map(alive, noted(stand_in, "pids")))


def test_a_game_that_does_not_start_is_begun_so_many_times_and_then_told(stand_in: Path) -> None:
    go_wrong(stand_in, "no display")
    with playing(stand_in, tries=2) as env:
        assert env.reset(0).info[FAILURE] == "EOFError: Minecraft process finished unexpectedly"
        assert len(noted(stand_in, "pids")) == 2
        go_wrong(stand_in, "")
        assert not env.reset(0).is_last, "it may work again"


def test_a_machine_that_cannot_start_it_again_is_a_game_that_failed(stand_in: Path) -> None:
    """As where memory, disk or open files are short: the error is the system's."""
    go_wrong(stand_in, "dies@1")
    with playing(stand_in, tries=2) as env:
        assert FAILURE in play(env, press())[-1].info
        (stand_in / "python").unlink()
        arrival = env.reset(0)
        assert arrival.is_last and "No such file" in arrival.info[FAILURE]


def test_nothing_is_left_behind(stand_in: Path) -> None:
    has_shared = os.path.isdir("/dev/shm")
    shared = set(os.listdir("/dev/shm")) if has_shared else set()
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    before = children.read_text() if children.exists() else ""
    files = len(os.listdir("/proc/self/fd"))
    with playing(stand_in) as env:
        play(env, press())
        game = env._game
        assert game is not None and os.path.exists(game._folder)
    assert not os.path.exists(game._folder)
    assert not any(map(alive, noted(stand_in, "pids")))
    if children.exists():
        assert children.read_text() == before, "no zombie either"
    if has_shared:
        assert set(os.listdir("/dev/shm")) <= shared
    assert len(os.listdir("/proc/self/fd")) == files
    env.close()


SCRIPT = """
import sys
from pathlib import Path
from agent.envs.minerl import MineRLOptions
from agent.envs.vector import VectorEnv

if __name__ == "__main__":
    given = MineRLOptions(python=Path(sys.argv[1]))
    envs = VectorEnv("MineRLHumanSurvival-v0", num_envs=1, processes=1, stock=True, action_repeat=1, options=given)
    envs.reset([1])
    print("playing", flush=True)
    sys.stdin.read()
"""


def test_games_end_with_a_command_that_is_killed(stand_in: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = str(Path(__file__).parents[2])
    command = subprocess.Popen(
        [sys.executable, script, options(stand_in).python],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert command.stdout is not None and command.stdout.readline() == b"playing\n"
    assert all(map(alive, noted(stand_in, "pids")))
    command.kill()
    command.communicate()
    until = time.monotonic() + 20
    while time.monotonic() < until and any(map(alive, noted(stand_in, "pids"))):
        time.sleep(0.1)
    assert not any(map(alive, noted(stand_in, "pids")))
    while time.monotonic() < until and any(map(os.path.exists, noted(stand_in, "folders"))):
        time.sleep(0.1)
    assert not any(map(os.path.exists, noted(stand_in, "folders")))


def test_a_relative_path_of_an_interpreter_is_one_from_here(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stand_in.parent)
    with playing(stand_in, python=Path(stand_in.name) / "python") as env:
        assert env.reset(5).is_first


def test_an_interpreter_that_cannot_play_is_told_in_a_sentence(stand_in: Path, tmp_path: Path) -> None:
    given = options(stand_in)
    with pytest.raises(ValueError, match="no interpreter that runs .*No such file.*--setup minerl"):
        MineRLEnvironment(SURVIVAL, replace(given, python=stand_in / "nowhere"))
    go_wrong(stand_in, "never starts")
    with pytest.raises(ValueError, match="SystemExit: 3"):
        MineRLEnvironment(SURVIVAL, given)
    go_wrong(stand_in, "other actions")
    with pytest.raises(ValueError, match=r"other actions: lacks \['drop'\]"):
        MineRLEnvironment(SURVIVAL, given)
    with pytest.raises(ValueError, match="lacks the package gym"):
        MineRLEnvironment(SURVIVAL, replace(given, python=Path(sys.executable)))


def test_several_games_play_side_by_side(stand_in: Path) -> None:
    with VectorEnv(
        SURVIVAL, num_envs=2, processes=2, stock=True, action_repeat=1, options=options(stand_in, size=(36, 64))
    ) as envs:
        assert envs.frame_shape == (3, 36, 64) and envs.task_names == TASKS and envs.action_space == MINECRAFT
        assert [a.frame[0, 0, 0] for a in envs.reset([3, 4])] == [3, 4]
        arrivals = envs.step(np.stack([press("attack"), press()]))
        assert [a.reward for a in arrivals] == [1, 0]
    assert len(noted(stand_in, "pids")) == 2 and not any(map(alive, noted(stand_in, "pids")))


@pytest.mark.parametrize(("fit", "size"), [("pad", (384, 640)), ("stretch", (64, 64)), ("crop", (64, 64))])
def test_frames_come_to_the_datasets_size_as_recordings_do(stand_in: Path, fit: str, size: tuple[int, int]) -> None:
    with playing(stand_in, size=size, fit=fit) as env:
        frame = env.reset(7).frame
    assert frame.shape == (3, *size)
    black = (frame == 0).all(axis=0)
    assert black[:12].all() == black[-12:].all() == (fit == "pad") and not black[12:-12].any()
    np.testing.assert_array_equal(frame[:, size[0] // 2, size[1] // 2], [7, 0, 255])


def test_what_minerl_needs_is_told_where_it_is_not_given(stand_in: Path) -> None:
    with pytest.raises(ValueError, match="needs an interpreter of its own.*--setup minerl"):
        make_env(SURVIVAL, stock=True, action_repeat=1)
    with pytest.raises(ValueError, match="an action for each of its steps"):
        make_env(SURVIVAL, stock=True, action_repeat=4, options=options(stand_in))
    with pytest.raises(ValueError, match="takes no options"):
        make_env("CarRacing-v3", stock=True, action_repeat=4, options=options(stand_in))
