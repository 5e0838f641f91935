"""The command that judges agents in Crafter: what it keeps, counts and says."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.ladder import CRAFTER_LADDER
from agent.milestones import crafter_score
from launch.models import load_agent
from tokenizer.shard_format import INDEX

pytest.importorskip("crafter")

Call = Callable[..., int]


def test_scripts_are_judged_without_data_and_each_episode_is_kept(
    tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    command = ["evaluate_crafter", "crafter_debug", "--run", tmp_path, "--films", 1]
    assert call(*command, "--agents", "random", "expert") == 0, capfd.readouterr()
    said = capfd.readouterr().out
    assert "collect_diamond" in said and "Crafter score: random" in said and "random was told collect_wood in 2" in said
    results = json.loads((tmp_path / "results.json").read_text())
    for row in results.values():
        assert row["milestones"].keys() == CRAFTER_LADDER.milestones.keys() and len(row["milestones"]) == 22
        assert row["episodes"] == 2 and row["ended"]["time"] == 2 and row["told"][0] == 2
        assert row["crafter_score"] == crafter_score([found["rate"] for found in row["milestones"].values()])
    assert [path.name for path in (tmp_path / "expert/videos").iterdir()] == ["02000000.mp4"]
    kept = tmp_path / "expert/episodes/02000001.json"
    before = kept.stat().st_mtime_ns
    assert call(*command, "--episodes", 3, "--agents", "expert") == 0
    assert kept.stat().st_mtime_ns == before, "never played again"
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["expert"]["episodes"] == 3 and results["random"]["episodes"] == 2
    results["random"]["ladder"] = "another"
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert call(*command, "--episodes", 3, "--agents", "expert") == 0
    assert json.loads((tmp_path / "results.json").read_text()).keys() == {"expert"}, "one table has one ladder"


def test_agents_need_data_that_know_the_ladders_tasks(
    tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    from launch.collect import PRESETS, collect

    collect(replace(PRESETS["crafter_debug"], episodes=1, held_out=1, tasks=("collect_wood",), out=tmp_path))
    cloned = ("evaluate_crafter", "crafter_debug", "--agents", "cloned", "--data", tmp_path / "train")
    assert call(*cloned) == 1
    assert "the data know no task 'place_table'" in " ".join(capfd.readouterr().err.split())
    index = tmp_path / "train" / INDEX
    index.write_text(json.dumps({**json.loads(index.read_text()), "frame_size": [64, 64]}))
    assert call(*cloned) == 1
    assert "has frames of 64x64, and Crafter makes frames of 72x72 here" in " ".join(capfd.readouterr().err.split())
    assert call("evaluate_crafter", "crafter_debug", "--agents", "random", "--episodes", 0) == 1
    assert "episodes=0, needs at least 1" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("stages_in_process")
def test_one_command_goes_from_demonstrations_to_the_ladder(tmp_path: Path, call: Call) -> None:
    assert call("demo", "crafter_debug", "--run", tmp_path) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == {"random", "expert", "bc_scratch", "cloned", "imagined"}
    assert all(row["episodes"] == 2 and 0 <= row["crafter_score"] <= 100 for row in results.values())
    assert load_agent(tmp_path / "imagination").config.tasks == CRAFTER_LADDER.tasks
