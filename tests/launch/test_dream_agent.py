"""What agents do and dream, as videos and numbers."""

import json
from pathlib import Path

import numpy as np

from agent.envs.registry import make_env
from launch.dream_agent import PRESETS
from tests.launch.conftest import Call
from tokenizer.video import decode_video


def options(pipeline: Path, run: Path) -> list[object]:
    folders = {"tokenizer": "tokenizer", "cloned": "agent", "imagined": "imagination", "data": "data/train"}
    return ["debug", "--run", run, *(text for name, to in folders.items() for text in (f"--{name}", pipeline / to))]


def test_a_dream_is_shown_beside_what_the_same_actions_did_in_the_game(
    pipeline: Path, tmp_path: Path, call: Call
) -> None:
    assert call("dream_agent", *options(pipeline, tmp_path / "one")) == 0
    assert call("dream_agent", *options(pipeline, tmp_path / "two")) == 0
    config = PRESETS["debug"]
    numbers = json.loads((tmp_path / "one/dream_agent.json").read_text())
    assert numbers == json.loads((tmp_path / "two/dream_agent.json").read_text())
    assert [row["track"] for row in numbers["starts"]] == [config.track, config.track + 1]
    for row in numbers["starts"]:
        assert len(row["dreamed_rewards"]) == len(row["real_rewards"]) == config.horizon
        assert np.isfinite(row["dreamed_rewards"]).all()
        # Each simulator step costs 0.1, and what tiles pay comes in steps of 1000 / their number.
        env = make_env("CarRacing-v3", stock=False, action_repeat=4)
        env.reset(row["track"])
        assert min(row["real_rewards"]) >= -0.4 - 1e-5
        env.close()
    assert len(numbers["psnr"]) == config.horizon
    film = decode_video((tmp_path / "one/dream.mp4").read_bytes())
    assert film.shape[0] == config.horizon
    assert film.shape[3] == 2 * 3 * 64  # two starts, each pixel three times as wide
    drives = decode_video((tmp_path / "one/drives.mp4").read_bytes())
    assert drives.shape[0] == config.max_steps + 1 if config.max_steps else len(drives)
    assert (tmp_path / "one/dream_strip.png").exists()


def test_a_context_that_outlasts_the_episode_is_refused(pipeline: Path, tmp_path: Path, call: Call) -> None:
    assert call("dream_agent", *options(pipeline, tmp_path / "run"), "--context", "0") == 2
