"""Alarms of a training, and the checkpoint that it keeps as the best."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agent.alarms import RANGES
from agent.relevance import relevant_clips
from launch import checkpoint, watching
from launch.curves import SHOWN, read_metrics
from launch.models import agent_checkpoint, load_agent
from launch.train_agent import PRESETS, TrainAgent
from launch.watching import TrainAndWatch, Watch
from tests.launch.conftest import Call
from tokenizer.shards import Dataset
from tokenizer.stream import window_places


def config(pipeline: Path, run: Path) -> TrainAgent:
    return replace(
        PRESETS["debug"],
        run=run,
        data=(str(pipeline / "latents/train"),),
        held_out=pipeline / "latents/held_out",
        dynamics=pipeline / "dynamics",
    )


@pytest.fixture
def watch(pipeline: Path, tmp_path: Path) -> Watch:
    made = Watch(config(pipeline, tmp_path), score=lambda m: -m["policy_nll"], relevant=relevant_clips)
    made.begin(load_agent(pipeline / "agent").world, tasks=("drive",), model=pipeline / "agent")
    return made


def test_trainings_of_agents_measure_alarms_and_keep_the_best_checkpoint(pipeline: Path) -> None:
    for name in ("agent", "imagination"):
        run = pipeline / name
        measured = [line for line in read_metrics(run) if "alarms" in line]
        assert measured and measured[-1]["video_error_ratio"] is not None, name
        best = json.loads((run / "alarms.json").read_text())["best"]
        assert agent_checkpoint(run) == run / "best/checkpoints" / f"step_{best['step']:08d}"
        assert (run / "curves.png").stat().st_mtime >= (run / "metrics.jsonl").stat().st_mtime, "all is drawn"
    assert "imagined_reward" in measured[-1] and "kl_to_prior" in measured[-1]


def test_all_that_raises_an_alarm_is_drawn() -> None:
    assert set(RANGES) <= set(SHOWN)


def test_alarms_look_at_all_of_an_episode(pipeline: Path, watch: Watch) -> None:
    dataset, length = watch.dataset, watch.clips.num_frames
    places = window_places(dataset, length, 4 * len(dataset.samples))
    assert max(first for _, first in places) == max(sample.length for sample in dataset.samples) - length
    assert len({first for _, first in window_places(dataset, 2, len(dataset.samples))}) > 1, "not beginnings alone"


def test_ends_are_looked_at_where_enough_held_out_episodes_have_one(
    pipeline: Path, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = load_agent(pipeline / "agent")
    assert watch.endings == [] and "end_missed" not in watch.measure(agent, 1.0), "no drive ended"
    whole = Dataset.read_window

    def ended(dataset: Dataset, *place: int) -> Any:
        clip = whole(dataset, *place)
        return replace(clip, continues=clip.continues & False)

    monkeypatch.setattr(Dataset, "read_window", ended)
    monkeypatch.setattr(watching, "FEWEST_ENDINGS", 1)
    seeing = Watch(config(pipeline, tmp_path), score=lambda _: 0.0, relevant=relevant_clips)
    assert [clip.num_frames for clip in seeing.endings] == [seeing.config.length] * seeing.config.held_out_clips
    assert 0 < seeing.measure(agent, 1.0)["end_missed"] < 1
    seeing.begin(agent.world, tasks=("drive",), model=pipeline / "agent")
    assert json.loads((tmp_path / "alarms.json").read_text())["looked_at"]["endings"] == len(seeing.endings)


def test_a_world_model_with_noise_added_is_told_in_words(
    pipeline: Path, watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = load_agent(pipeline / "agent")
    watch(agent, 1)
    assert "the world model erodes" not in capsys.readouterr().out
    with torch.no_grad():
        agent.world.latent_head.weight.normal_(std=3.0)
    measures = watch(agent, 2)
    assert measures["video_error_ratio"] > 1.15 and measures["alarms"] >= 1
    assert "alarm: video_error_ratio is" in capsys.readouterr().out
    watch(agent, 3)
    assert "video_error_ratio" not in capsys.readouterr().out  # said once, as long as it lasts


def test_a_tampered_reward_head_is_told_in_words(
    pipeline: Path, watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = load_agent(pipeline / "agent")
    with torch.no_grad():
        agent.reward.out_head.bias.unflatten(0, (-1, len(agent.reward.bins)))[0, -60] += 30
    assert watch(agent, 1)["reward_bias"] > 1
    assert "alarm: reward_bias is" in capsys.readouterr().out


def test_the_best_checkpoint_is_the_one_that_scores_best_and_raises_no_alarm(pipeline: Path, tmp_path: Path) -> None:
    scores = iter([1.0, 3.0, 2.0, 9.0])
    settings = config(pipeline, tmp_path)
    made = Watch(
        replace(settings, loop=replace(settings.loop, steps=10)), score=lambda _: next(scores), relevant=relevant_clips
    )
    agent = load_agent(pipeline / "agent")
    made.begin(agent.world, tasks=("drive",), model=pipeline / "agent")
    quiet, sound = made.measure, {"reward_bias": 0.0, "reward_correlation": 1.0, "end_excess": 0.0}

    def measure(model: torch.nn.Module, before: float) -> dict[str, float]:
        return {**quiet(model, before), "video_error_ratio": ratio, **sound}

    made.measure = measure  # type: ignore[method-assign]
    kept = []
    for step, ratio in enumerate((1.0, 1.0, 1.0, 2.0), start=1):  # noqa: B007
        made(agent, step)
        kept.append(json.loads((tmp_path / "alarms.json").read_text())["best"]["step"])
    assert kept == [1, 2, 2, 2]  # the last scores best in dreams, and its world model has eroded
    found = checkpoint.latest(tmp_path / "best")
    assert found is not None and found.name == "step_00000002"


def test_of_equals_the_newest_is_the_best_however_many_alarms_both_raise(pipeline: Path, tmp_path: Path) -> None:
    """Imagination cannot mend a reward head: its alarm says nothing of which policy is the better one."""
    made = Watch(config(pipeline, tmp_path), score=lambda _: 0.0, relevant=relevant_clips)
    agent = load_agent(pipeline / "agent")
    made.begin(agent.world, tasks=("drive",), model=pipeline / "agent")
    kept, off = [], {"reward_correlation": 0.0}
    for step, kl in enumerate((0.1, 0.2, 3.0), start=1):
        told = {**off, "kl_to_prior": kl}
        made.measure = lambda *_, told=told: told  # type: ignore[method-assign, misc]
        made(agent, step)
        kept.append(json.loads((tmp_path / "alarms.json").read_text())["best"]["step"])
    assert kept == [1, 2, 2]


def test_of_checkpoints_that_all_raise_alarms_the_one_that_is_off_least_is_the_best(
    pipeline: Path, tmp_path: Path
) -> None:
    """An early clone fits held-out actions best, in a world model that has eroded most."""
    made = Watch(config(pipeline, tmp_path), score=lambda m: -m["policy_nll"], relevant=relevant_clips)
    agent = load_agent(pipeline / "agent")
    made.begin(agent.world, tasks=("drive",), model=pipeline / "agent")
    for step, (ratio, correlation, nll) in enumerate([(1.55, 0.27, 5.9), (1.25, 0.44, 6.1), (1.16, 0.42, 6.3)], 1):
        told = {"video_error_ratio": ratio, "reward_correlation": correlation, "policy_nll": nll}
        made.measure = lambda *_, told=told: told  # type: ignore[method-assign, misc]
        assert made(agent, step)["alarms"] == 2
    assert json.loads((tmp_path / "alarms.json").read_text())["best"]["step"] == 3


def test_what_a_run_that_came_to_nothing_left_is_not_the_best_of_the_next(pipeline: Path, tmp_path: Path) -> None:
    settings = config(pipeline, tmp_path)
    agent = load_agent(pipeline / "agent")

    def begin(held_out_clips: int) -> Any:
        made = Watch(replace(settings, held_out_clips=held_out_clips), score=lambda _: 0.0, relevant=relevant_clips)
        made.begin(agent.world, tasks=("drive",), model=pipeline / "agent")
        best = json.loads((tmp_path / "alarms.json").read_text())["best"]
        made.measure = lambda *_: {"kl_to_prior": 0.0}  # type: ignore[method-assign]
        made(agent, 7)
        return best

    assert begin(2) is None and begin(2) is None and not (tmp_path / "checkpoints").exists()
    shutil.copytree(tmp_path / "best/checkpoints", tmp_path / "checkpoints")
    assert begin(2)["step"] == 7, "it goes on"
    assert begin(1) is None, "of other clips"


@pytest.mark.slow
def test_the_real_environment_chooses_where_it_is_allowed(pipeline: Path, tmp_path: Path) -> None:
    settings = replace(config(pipeline, tmp_path), real_tracks=1, real_tokenizer=pipeline / "tokenizer")
    made = Watch(settings, score=lambda _: 0.0, relevant=relevant_clips)
    agent = load_agent(pipeline / "agent")
    made.begin(agent.world, tasks=("drive",), model=pipeline / "agent")
    measures = made(agent, 1)
    best = json.loads((tmp_path / "alarms.json").read_text())["best"]
    assert best["value"] == measures["real_return"]


def test_held_out_episodes_beside_the_data_are_found_and_those_of_video_are_not(pipeline: Path, tmp_path: Path) -> None:
    found = replace(config(pipeline, tmp_path), held_out=None)
    assert found.watched == pipeline / "latents/held_out"
    assert replace(found, tokenizer=pipeline / "tokenizer").watched is None
    assert replace(found, data=(str(tmp_path / "train"),)).watched is None


def test_real_tracks_without_a_tokenizer_are_refused(pipeline: Path, tmp_path: Path, call: Call) -> None:
    with pytest.raises(ValueError, match="real_tracks=2 needs --real-tokenizer"):
        replace(config(pipeline, tmp_path), real_tracks=2)
    assert issubclass(TrainAgent, TrainAndWatch)
