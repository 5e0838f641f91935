"""What agents do and dream, as videos and numbers."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("Box2D")

from agent.agent import Agent, AgentConfig
from agent.envs.base import Arrival
from agent.envs.registry import make_env
from agent.envs.vector import VectorEnv
from dynamics.actions import ActionSpace
from launch.agent_dreams import carry_out, compare, drive_on
from launch.dream_agent import GAP, PRESETS
from launch.models import check_can_dream
from launch.pictures import LABEL_HEIGHT
from launch.training import open_dataset
from tests.builders import DYNAMICS
from tests.launch.conftest import Call, call_command
from tokenizer.video import decode_video

pytestmark = pytest.mark.slow  # all together; each alone waits for the same drives
CONFIG = PRESETS["debug"]
SCALE, SIDE = 4, 64


def options(pipeline: Path, run: Path) -> list[object]:
    folders = {"tokenizer": "tokenizer", "cloned": "agent", "imagined": "imagination", "data": "data/train"}
    return ["debug", "--run", run, *(text for name, to in folders.items() for text in (f"--{name}", pipeline / to))]


def numbers(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "dream_agent.json").read_text())
    return found


@pytest.fixture(scope="module")
def run(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one call."""
    folder = tmp_path_factory.mktemp("dream_agent") / "run"
    assert call_command("dream_agent", *options(pipeline, folder), "--json", folder / "copy.json") == 0
    return folder


def test_each_start_has_its_track_its_rewards_and_its_quality_frame_by_frame(run: Path) -> None:
    found = numbers(run)
    assert [row["track"] for row in found["starts"]] == list(CONFIG.tracks)
    assert found["drives"].keys() == {"track", "cloned", "imagined"} and found["drives"]["track"] == CONFIG.track
    for row in found["starts"]:
        assert row["compared"] == CONFIG.horizon
        for name in ("dreamed_rewards", "real_rewards", "psnr", "actions"):
            assert len(row[name]) == CONFIG.horizon and np.isfinite(row[name]).all()
        assert len(row["context_actions"]) == CONFIG.context - 1
        assert row["real_sum"] == pytest.approx(sum(row["real_rewards"]))
        assert row["dreamed_sum"] == pytest.approx(sum(row["dreamed_rewards"]))
    assert found["psnr"] == pytest.approx(np.mean([row["psnr"] for row in found["starts"]], axis=0))
    assert set(found["made_by"]) == {"tokenizer", "cloned", "imagined"}
    assert json.loads((run / "copy.json").read_text()) == found


def test_the_real_rewards_are_what_the_game_pays_for_the_recorded_actions(pipeline: Path, run: Path) -> None:
    meta = open_dataset(pipeline / "data/train", "frames").meta
    env = make_env(meta.environment, stock=True, action_repeat=meta.action_repeat)
    for row in numbers(run)["starts"]:
        env.reset(row["track"])
        for action in row["context_actions"]:
            env.step(np.array(action, dtype=np.float32))
        paid = [env.step(np.array(action, dtype=np.float32)).reward for action in row["actions"]]
        assert paid == row["real_rewards"]
    env.close()


def test_videos_show_all_frames_of_panels_with_a_gap_between_them(run: Path) -> None:
    film = decode_video((run / "dream.mp4").read_bytes())
    gaps = CONFIG.starts - 1
    wide = SCALE * (CONFIG.starts * SIDE + gaps * GAP)
    assert film.shape == (CONFIG.horizon, 3, LABEL_HEIGHT + SCALE * (2 * SIDE + GAP), wide)
    drives = decode_video((run / "drives.mp4").read_bytes())
    assert CONFIG.max_steps is not None
    assert drives.shape == (CONFIG.max_steps + 1, 3, LABEL_HEIGHT + SCALE * SIDE, SCALE * (2 * SIDE + GAP))
    gap = slice(SCALE * SIDE + 1, SCALE * (SIDE + GAP) - 1)
    assert film[..., LABEL_HEIGHT + SCALE :, gap].min() > 200 and drives[..., gap].min() > 200, "white"
    assert (run / "dream_strip.png").exists()


def test_a_seed_names_a_dream(pipeline: Path, run: Path, tmp_path: Path, call: Call) -> None:
    for name, seed in (("same", 0), ("other", 1)):
        assert call("dream_agent", *options(pipeline, tmp_path / name), "--seed", seed) == 0
    assert numbers(tmp_path / "same") == numbers(run)
    assert numbers(tmp_path / "other")["starts"] != numbers(run)["starts"]


def test_the_cloned_agent_dreams_too(pipeline: Path, run: Path, tmp_path: Path, call: Call) -> None:
    assert call("dream_agent", *options(pipeline, tmp_path), "--agent", "cloned", "--track", CONFIG.track + 9) == 0
    found = numbers(tmp_path)
    assert found["agent"] == "cloned" and found["made_by"] == numbers(run)["made_by"]
    assert [row["track"] for row in found["starts"]] == [CONFIG.track + 9, CONFIG.track + 10]


class Short:
    """A game of one pixel that ends after so many actions as its seed says, and pays 1 for each."""

    def __init__(self) -> None:
        self.action_space, self.frame_shape = ActionSpace(continuous=("steering",)), (3, 1, 1)
        self.fps, self.task_names = 10.0, ("drive",)

    def reset(self, seed: int) -> Arrival:
        self.left = seed
        return Arrival.first(self.action_space, np.zeros(self.frame_shape, np.uint8), {})

    def step(self, row: NDArray[np.float32]) -> Arrival:
        self.left -= 1
        frame = np.full(self.frame_shape, self.left, np.uint8)
        return Arrival.after(row, frame, 1.0, {}, terminated=not self.left, truncated=False)

    def close(self) -> None: ...


class Still:
    """A policy that rests; it keeps the seed that it was reset with."""

    def reset(self, seed: int) -> None:
        self.seed = seed

    def act(self, arrivals: Sequence[Arrival]) -> NDArray[np.float32]:
        return np.zeros((len(arrivals), 1), np.float32)


def test_frames_after_the_end_of_an_episode_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.envs.vector.make_env", lambda *name, **options: Short())
    with VectorEnv("short", num_envs=2, processes=0, stock=True, action_repeat=1) as envs:
        envs.reset([2, 9])
        real = carry_out(envs, torch.zeros(2, 4, 1))
    assert real.lengths == [2, 4] and real.rewards.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    row = compare(np.array([3.0, 4.0, 5.0, 6.0]), real.rewards[0, :2])
    assert (row["dreamed_sum"], row["real_sum"], row["compared"]) == (7.0, 2.0, 2)
    assert row["correlation"] is None, "what is paid alike for all frames goes along with nothing"


def test_rewards_that_rise_and_fall_together_correlate() -> None:
    paid = np.array([0.0, 1.0, 0.0, 2.0])
    assert compare(3 * paid + 1, paid)["correlation"] == pytest.approx(1.0)
    assert compare(-paid, paid)["correlation"] == pytest.approx(-1.0)


def test_an_agent_without_a_world_model_or_rewards_is_refused(tmp_path: Path) -> None:
    config = AgentConfig(dynamics=DYNAMICS)
    check_can_dream(Agent(config), tmp_path)
    for learns, lacks in ((("policy",), "video, reward, end"), (("policy", "video"), "reward, end")):
        with pytest.raises(ValueError, match=f"cloned without the losses {lacks}: it cannot dream"):
            check_can_dream(Agent(replace(config, learns=learns)), tmp_path)


def test_a_context_that_outlasts_the_episode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.envs.vector.make_env", lambda *name, **options: Short())
    policy = Still()
    with VectorEnv("short", num_envs=2, processes=0, stock=True, action_repeat=1) as envs:
        assert drive_on(envs, policy, [9, 4], 4, seed=5).lengths == [4, 4] and policy.seed == 5
        with pytest.raises(ValueError, match="context=5: the episode of track 4 had ended by then, give fewer frames"):
            drive_on(envs, policy, [9, 4], 5, seed=5)


def test_counts_that_make_no_dream_are_refused() -> None:
    for name in ("starts", "context", "horizon", "max_steps"):
        with pytest.raises(ValueError, match=f"{name}=0, needs at least 1"):
            replace(CONFIG, **{name: 0})
