"""The command that judges agents in Minecraft, against a stand-in for MineRL: what it keeps, counts and says."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.acting import AgentPolicy
from agent.agent import Agent, AgentConfig
from agent.envs.minecraft_actions import MINECRAFT
from agent.envs.minecraft_events import TASKS
from agent.heads import HeadConfig
from agent.ladder import MINECRAFT_LADDER
from tests.minerl_stand_in import go_wrong, noted, write_stand_in
from tokenizer.shard_format import DatasetMeta
from tokenizer.shard_writer import ShardWriter, finish_dataset
from tokenizer.video import decode_video

Call = Callable[..., int]
Say = pytest.CaptureFixture[str]


def recordings(folder: Path, tasks: tuple[str, ...] = TASKS, space: dict[str, Any] | None = None) -> Path:
    """Imported ones, of small frames."""
    meta = DatasetMeta(
        environment="minecraft", frame_size=(24, 40), fps=20, action_space=space or MINECRAFT.to_json(), tasks=tasks
    )
    with ShardWriter(folder, 0, meta) as shard:
        shard.write("clip", frames=np.zeros((2, 3, 24, 40), np.uint8))
    finish_dataset(folder, meta)
    return folder


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "stand_in"
    write_stand_in(folder)
    monkeypatch.setenv("COLUMNS", "300")
    return folder


@pytest.fixture
def options(stand_in: Path, tmp_path: Path) -> list[object]:
    """Random play of five actions."""
    data = recordings(tmp_path / "data/train")
    folders = ["debug", "--run", tmp_path / "run", "--data", data, "--python", stand_in / "python"]
    return [*folders, "--agents", "random", "--max-steps", "5"]


def results(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results.json").read_text())
    return found


def test_each_episode_is_kept_filmed_and_never_played_again(
    options: list[object], stand_in: Path, tmp_path: Path, call: Call, capfd: Say
) -> None:
    run = tmp_path / "run"
    assert call("evaluate_minecraft", *options, "--episodes", 2, "--films", 1) == 0
    said = capfd.readouterr().out
    assert "2 episodes" in said and "Dreamer 4" in said and "99.1" in said and "iron pickaxe" in said
    first = results(run)["random"]
    assert first["episodes"] == 2 and first["ended"]["time"] == 2 and first["broken_games"] == 0
    assert first["milestones"].keys() == MINECRAFT_LADDER.milestones.keys()
    assert noted(stand_in, "seeds") == ["2000000", "2000001"], "worlds that no training has"
    assert len(noted(stand_in, "actions")) == 10
    (film,) = (run / "random/videos").iterdir()
    assert decode_video(film.read_bytes()).shape == (6, 3, 24, 40)

    assert call("evaluate_minecraft", *options, "--episodes", 3, "--films", 0, "--json", tmp_path / "all.json") == 0
    assert noted(stand_in, "seeds") == ["2000000", "2000001", "2000002"]
    assert results(run)["random"]["episodes"] == 3 and json.loads((tmp_path / "all.json").read_text()) == results(run)
    assert call("evaluate_minecraft", *options, "--episodes", 3) == 0
    assert len(noted(stand_in, "seeds")) == 3, "all are there"
    assert call("evaluate_minecraft", *options, "--episodes", 1, "--max-steps", 4) == 0
    assert len(noted(stand_in, "seeds")) == 4, "other rules: played anew"


def test_games_that_break_are_counted_and_said(
    options: list[object], stand_in: Path, tmp_path: Path, call: Call, capfd: Say
) -> None:
    go_wrong(stand_in, "dies@3")
    assert call("evaluate_minecraft", *options, "--attempts", 2) == 0
    row = results(tmp_path / "run")["random"]
    assert row["ended"]["failed"] == 1 and row["broken_games"] == 2 and row["milestones"]["log"]["reached"] == 0
    (reason,) = row["reasons"]
    assert "exit code 7" in reason
    assert noted(stand_in, "seeds") == ["2000000"] * 2
    assert "games broke 2 times, 1 of 1 episodes" in capfd.readouterr().out
    assert len(list((tmp_path / "run/random/videos").iterdir())) == 1, "of the last attempt"
    go_wrong(stand_in, "")
    assert call("evaluate_minecraft", *options, "--attempts", 2) == 0
    assert len(noted(stand_in, "seeds")) == 2, "it counts"
    assert call("evaluate_minecraft", *options, "--attempts", 3) == 0
    assert results(tmp_path / "run")["random"]["ended"]["failed"] == 0, "more attempts are allowed now"


def test_frames_come_to_their_size_as_the_recordings_did_and_another_way_is_played_anew(
    options: list[object], stand_in: Path, tmp_path: Path, call: Call
) -> None:
    def games(*more: object) -> int:
        assert call("evaluate_minecraft", *options, *more) == 0
        return len(noted(stand_in, "seeds"))

    (tmp_path / "data/import.json").write_text(json.dumps({"settings": {"fit": "stretch"}}))
    assert games() == 1 and games("--fit", "stretch") == 1
    assert games("--fit", "crop") == 2 and games("--fit", "pad") == 3


def test_two_commands_do_not_share_a_folder(options: list[object], tmp_path: Path, call: Call, capfd: Say) -> None:
    held = "import sys; from pathlib import Path; from launch.run_folder import alone_in\n"
    held += "with alone_in(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", held, tmp_path / "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None and other.stdout.readline() == b"held\n"
    try:
        assert call("evaluate_minecraft", *options) == 1
        assert f"is in use by process {other.pid}" in " ".join(capfd.readouterr().err.split())
    finally:
        other.communicate()


def test_what_does_not_fit_is_told_before_anything_is_played(
    options: list[object], stand_in: Path, tmp_path: Path, call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    def complains(*more: object) -> str:
        assert call("evaluate_minecraft", *options, *more) == 1
        return " ".join(capfd.readouterr().err.split())

    assert "no interpreter that runs" in complains("--python", tmp_path / "nowhere")
    other = recordings(tmp_path / "other/train", space={"continuous": ["x"], "categorical": [], "binary": []})
    assert "has other actions than Minecraft" in complains("--data", other)
    go_wrong(stand_in, "no display")
    said = complains("--attempts", 1)
    assert "no game starts: EOFError: Minecraft process finished unexpectedly; `python -m launch.doctor" in said
    assert not (tmp_path / "run/results.json").exists()
    go_wrong(stand_in, "")
    assert call("evaluate_minecraft", *options, "--attempts", 1) == 0
    assert results(tmp_path / "run")["random"]["ended"]["failed"] == 0, "a machine that starts no game is no failure"


def test_an_agent_is_told_the_ladders_tasks_by_their_numbers_in_its_data(
    options: list[object], stand_in: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, capfd: Say
) -> None:
    """A tiny one, untrained, whose policy is made to press the key that does what it was told."""
    from dataclasses import replace

    from tests.builders import DYNAMICS, TOKENIZER, randomised
    from tokenizer.autoencoder import Tokenizer

    tokenizer = randomised(Tokenizer(replace(TOKENIZER, frame_size=(24, 40))))
    dynamics = replace(DYNAMICS, latent_shape=tokenizer.config.latent_shape, actions=MINECRAFT)
    agent = randomised(Agent(AgentConfig(dynamics=dynamics, heads=HeadConfig(hidden=16, distances=2), tasks=TASKS)))
    told: list[list[int]] = []
    monkeypatch.setattr("launch.models.load_actor", lambda *_, **__: (tokenizer, agent))
    monkeypatch.setattr("launch.climbs.agent_checkpoint", lambda run: run)
    monkeypatch.setattr("launch.climbs.identity", str)
    act, tell = AgentPolicy.act, AgentPolicy.tell

    def obedient(self: Any, arrivals: Any) -> Any:
        rows = 0 * act(self, arrivals)
        rows[:, 0] = 60
        rows[:, 1 + MINECRAFT.binary.index("attack" if told[-1] == [0] else "hotbar_1")] = 1
        return rows

    def listening(self: Any, tasks: Any) -> None:
        told.append(list(tasks))
        tell(self, tasks)

    monkeypatch.setattr(AgentPolicy, "act", obedient)
    monkeypatch.setattr(AgentPolicy, "tell", listening)
    assert call("evaluate_minecraft", *options, "--agents", "cloned", "--max-steps", 16) == 0, capfd.readouterr()
    assert told == [[TASKS.index(task)] for task in ("mine_log", "craft_planks", "craft_crafting_table")]
    row = results(tmp_path / "run")["cloned"]
    assert row["milestones"]["log"]["median_steps"] == 1 and row["milestones"]["planks"]["median_steps"] == 11

    few = recordings(tmp_path / "few/train", tasks=TASKS[:3])
    assert call("evaluate_minecraft", *options, "--agents", "cloned", "--data", few) == 1
    assert "the data know no task" in capfd.readouterr().err
