"""The study of agents: it resumes, takes no seed twice, and means are over trainings."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("Box2D")

from launch import stages, study
from launch.run_folder import write_json
from launch.study_report import summarise
from tests.launch.conftest import Call


def row(*scores: float) -> dict[str, Any]:
    return {"mean": float(np.mean(scores)), "std": 1.0, "ci95": [0.0, 1.0], "tracks": len(scores), "scores": scores}


def kept(seeds: dict[str, Any]) -> dict[str, Any]:
    dataset = {"num_samples": 2, "return_mean": 10.0, "return_std": 1.0, "return_best": 12.0}
    seconds = {"seed_0/cloned": 60.0, "seed_1/cloned": 120.0, "seed_0/scores": 600.0}
    return {"dataset": dataset, "random": row(-1, -2), "seeds": seeds, "seconds": seconds}


def test_the_unit_of_an_interval_is_the_training_and_gains_are_paired_by_world_model() -> None:
    """Means 2 and 4 of two seeds, with t = 12.706: 3 +- 12.7; gains of 10 and 12 on the same tracks."""
    seeds = {"0": {"cloned": row(1, 3), "imagined": row(11, 13)}, "1": {"cloned": row(4, 4), "imagined": row(16, 16)}}
    found = summarise(kept(seeds), {}, order=("cloned", "imagined"))
    cloned, imagined = found["agents"]["cloned"], found["agents"]["imagined"]
    assert cloned["mean"] == 3 and cloned["seeds"] == 2 and cloned["interval_over"] == "seeds"
    np.testing.assert_allclose(cloned["ci95"], [3 - 12.706, 3 + 12.706], atol=0.01)
    assert imagined["over_cloned"]["gains"] == [10, 12] and imagined["over_cloned"]["mean"] == 11
    np.testing.assert_allclose(imagined["over_cloned"]["ci95"], [11 - 12.706, 11 + 12.706], atol=0.01)
    assert imagined["over_dataset_mean"] == pytest.approx(0.4)
    assert found["minutes"]["training_a_seed"] == 1.5


def test_an_agent_of_one_training_has_its_interval_over_tracks() -> None:
    found = summarise(kept({"0": {"cloned": row(1, 3)}}), {"vmc": row(5, 6)}, order=("cloned", "imagined"))
    assert found["agents"]["cloned"]["interval_over"] == "tracks"
    assert "imagined" not in found["agents"] and found["agents"]["vmc"]["mean"] == 5.5


@pytest.mark.slow
@pytest.mark.usefixtures("stages_in_process")
def test_a_study_that_is_stopped_goes_on_and_trains_no_seed_twice(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "study"
    begun: list[str] = []
    whole = stages.run_stage

    def cut(stage: stages.Stage, folder: Path, preset: str) -> float:
        begun.append(stage.name)
        if stage.name == "seed_0/imagined" and begun.count(stage.name) == 1:
            raise KeyboardInterrupt
        return whole(stage, folder, preset)

    monkeypatch.setattr(study, "run_stage", cut)
    assert call("study", "debug", "--run", run) == 130
    assert call("study", "debug", "--run", run, "--json", tmp_path / "numbers.json") == 0
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert set(numbers["seeds"]) == {"0", "1"}
    assert set(numbers["seeds"]["0"]) == {"cloned", "imagined", "bc_scratch", "filtered", "dreamer_v1"}
    assert set(numbers["seeds"]["1"]) == {"cloned", "imagined"}
    assert numbers["summary"]["agents"]["imagined"]["seeds"] == 2 and (run / "study.png").exists()
    for folder in run.glob("seed_*"):  # what was trained is gone, the scores are kept
        shutil.rmtree(folder)
    begun.clear()
    assert call("study", "debug", "--run", run) == 0
    assert begun == []
    monkeypatch.setattr(study, "VERSION", study.VERSION + 1)
    assert call("study", "debug", "--run", run) == 1


def known_by_scores(folder: Path, **changed: Any) -> study.Study:
    """A study whose first seed was trained elsewhere: there are scores of its clone, and nothing else."""
    config = replace(study.PRESETS["debug"], run=folder / "here", json=folder / "numbers.json", **changed)
    write_json(folder / "numbers.json", {**study._kept(config), "seeds": {"0": {"cloned": row(1, 3)}}})
    return config


def test_a_study_goes_on_elsewhere_from_its_numbers_alone(tmp_path: Path) -> None:
    config = known_by_scores(tmp_path, agents=study.PAIRED)
    begun = study._kept(config)
    assert study._missing(config, study._kept(config), 0) == study.PAIRED, "of another world model, all of it"
    own = {**begun, "seeds": {"0": {"cloned": row(5, 7)}, "1": {"cloned": row(2, 2)}}}
    write_json(tmp_path / "here" / study.NUMBERS, own)
    elsewhere = {"0": {"cloned": row(1, 3), "imagined": row(4, 4)}, "2": {"cloned": row(3, 3)}}
    write_json(tmp_path / "numbers.json", {**begun, "seeds": elsewhere})
    both = study._kept(config)["seeds"]
    assert both["0"]["cloned"]["mean"] == 6, "the folder's own come first"
    assert both["0"]["imagined"]["mean"] == 4 and both.keys() == {"0", "1", "2"}, "and nothing is lost"
    (tmp_path / "here/seed_0/dynamics").mkdir(parents=True)
    assert study._missing(config, study._kept(config), 0) == ("imagined",), "the world model here is another"


def test_rows_of_a_world_model_that_is_gone_pair_with_none_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped while it trains the world model anew."""
    config = known_by_scores(tmp_path, seeds=1)

    def stop(stage: stages.Stage, folder: Path, preset: str) -> float:
        if stage.name == "seed_0/dynamics":
            (folder / stage.folders["run"]).mkdir(parents=True)
            raise KeyboardInterrupt
        return 1.0

    monkeypatch.setattr(study, "run_stage", stop)
    monkeypatch.setattr(study, "read_metrics", lambda _: [{"seconds": 1.0}])
    monkeypatch.setattr(study, "_dataset_rows", lambda _: {})
    with pytest.raises(KeyboardInterrupt):
        study.study(config)
    assert study._missing(config, study._kept(config), 0) == study.PAIRED + study.OTHERS


def clocked(monkeypatch: pytest.MonkeyPatch, *, stage: float, own: float) -> None:
    """Stages of so many seconds, whose trainings say of themselves that they took `own`."""
    now = iter(range(100))
    monkeypatch.setattr(study, "time", SimpleNamespace(perf_counter=lambda: stage * next(now)))
    monkeypatch.setattr(study, "read_metrics", lambda _: [{"seconds": own}])


@pytest.mark.parametrize(("own", "expected"), [(9.0, 14.0), (300.0, 300.0)])
def test_a_stage_takes_what_the_wall_clock_says_and_no_less_than_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: float, expected: float
) -> None:
    """It is stopped once; or most of it was trained by the stage's command alone. Another machine's seconds go."""
    config = replace(study.PRESETS["debug"], run=tmp_path)
    kept = {**study._kept(config), "seconds": {"seed_0/dynamics": 100.0}}
    first = study._of_seed(config, 0, ("cloned",))[0]

    def stopped(*_: Any) -> float:
        (tmp_path / first.folders["run"]).mkdir(parents=True)
        raise KeyboardInterrupt

    clocked(monkeypatch, stage=7.0, own=own)
    monkeypatch.setattr(study, "run_stage", stopped)
    with pytest.raises(KeyboardInterrupt):
        study._run(first, config, kept)
    assert json.loads((tmp_path / study.NUMBERS).read_text())["seconds"] == {"seed_0/dynamics": 7.0}
    monkeypatch.setattr(study, "run_stage", lambda *_: 7.0)
    study._run(first, config, kept)
    assert json.loads((tmp_path / study.NUMBERS).read_text())["seconds"] == {"seed_0/dynamics": expected}


def test_what_was_made_before_and_not_timed_has_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(study.PRESETS["debug"], run=tmp_path)
    kept, collect = study._kept(config), study._shared(config)[0]
    (tmp_path / collect.folders["out"]).mkdir()
    monkeypatch.setattr(study, "run_stage", lambda *_: 1.0)
    study._run(collect, config, kept)
    assert json.loads((tmp_path / study.NUMBERS).read_text())["seconds"] == {}


def test_seeds_of_the_others_are_chosen_before_the_first_of_them_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seed whose scores alone were known, and that is trained anew, has a world model from then on."""
    config = known_by_scores(tmp_path, tracks=2)

    def train(stage: stages.Stage, folder: Path, preset: str) -> float:
        place = folder / (stage.folders.get("run") or stage.folders["out"])
        place.mkdir(parents=True, exist_ok=True)
        if stage.command == "evaluate":
            asked = [name for name in study.PAIRED + study.OTHERS if name in stage.options]
            write_json(place / "results.json", dict.fromkeys((*asked, "random"), row(1, 2)))
        return 1.0

    clocked(monkeypatch, stage=1.0, own=1.0)
    monkeypatch.setattr(study, "run_stage", train)
    monkeypatch.setattr(study, "_dataset_rows", lambda _: {"num_samples": 2, "return_mean": 1.0, "return_best": 2.0})
    study.study(config)
    rows = json.loads((tmp_path / "numbers.json").read_text())["seeds"]
    assert set(rows["0"]) == set(study.PAIRED) and set(rows["1"]) == {*study.PAIRED, *study.OTHERS}
    assert study._missing(config, study._kept(config), 0) == ()


def test_trainings_of_other_agents_beyond_the_first_seeds_count(tmp_path: Path) -> None:
    config = replace(study.PRESETS["debug"], run=tmp_path, seeds_of_others=2, tracks=2)
    later = {"4": {"filtered": row(1, 3), "bc_scratch": row(1), "dreamer_v1": row(1, 3)}, "5": {"filtered": row(2, 4)}}
    missing = [study._missing(config, {"seeds": later}, seed) for seed in (0, 1)]
    assert missing == [("cloned", "imagined", "bc_scratch", "dreamer_v1"), ("cloned", "imagined", "bc_scratch")]


def test_seeds_known_by_their_scores_alone_carry_no_other_agents_while_there_are_others(tmp_path: Path) -> None:
    config = replace(study.PRESETS["debug"], run=tmp_path, seeds=4, seeds_of_others=2, tracks=2)
    both = {"cloned": row(1, 3), "imagined": row(2, 4)}
    kept = {"seeds": {"0": both, "1": both, "2": both}}
    (tmp_path / "seed_2/dynamics").mkdir(parents=True)
    missing = [study._missing(config, kept, seed) for seed in range(4)]
    assert missing == [(), (), study.OTHERS, study.PAIRED + study.OTHERS]
    alone = replace(config, seeds=3)
    assert [study._missing(alone, kept, seed) for seed in range(3)] == [study.PAIRED + study.OTHERS, (), study.OTHERS]


def test_rows_of_other_agents_stay(tmp_path: Path) -> None:
    write_json(tmp_path / "also.json", {"results": {"vmc": row(1, 3), "random": row(0, 0)}})
    config = replace(study.PRESETS["debug"], run=tmp_path / "here", also=(tmp_path / "also.json",))
    kept = study._kept(config)
    kept["also"] |= study._others(config)
    kept["seeds"]["0"] = {"filtered": row(1, 3), "cloned": row(2, 2)}
    study._report(replace(config, agents=("filtered",)), kept)
    again = study._kept(replace(config, also=()))
    assert set(again["also"]) == {"vmc"}
    summary = json.loads((tmp_path / "here" / study.NUMBERS).read_text())["summary"]["agents"]
    assert summary.keys() == {"cloned", "filtered", "vmc"}, "also those that are not asked for now"
    write_json(tmp_path / "wrong.json", {"figures": [1, 2]})
    with pytest.raises(ValueError, match="wrong.json is no results.json"):
        study._others(replace(config, also=(tmp_path / "wrong.json",)))


def with_imagination(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
    from launch import train_imagination

    preset = train_imagination.PRESETS["debug"]
    monkeypatch.setitem(train_imagination.PRESETS, "debug", replace(preset, **changed))


def test_another_preset_is_refused_where_there_are_scores_of_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new preset of imagination leaves scores of cloned agents as they are, and not those of imagined ones."""
    config = replace(study.PRESETS["debug"], run=tmp_path)
    kept = study._kept(config)
    cloned, both = {"cloned": row(1, 3)}, {"cloned": row(1, 3), "imagined": row(2, 4)}
    write_json(tmp_path / study.NUMBERS, {**kept, "seeds": {"0": cloned}})
    with_imagination(monkeypatch, length=7)
    renewed = study._kept(config)
    assert renewed["seeds"]["0"]["cloned"]["mean"] == 2 and renewed["recipe"] != kept["recipe"]
    write_json(tmp_path / study.NUMBERS, {**kept, "seeds": {"0": both}})
    with pytest.raises(ValueError, match="has scores of imagined with length=4, now it has 7: .* --run"):
        study._kept(config)


def test_a_stage_that_is_told_something_else_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(study.PRESETS["debug"], run=tmp_path)
    write_json(tmp_path / study.NUMBERS, {**study._kept(config), "seeds": {"0": {"filtered": row(1, 3)}}})
    whole = study._trainings

    def best(place: str, agents: Any) -> list[stages.Stage]:
        return [replace(s, options=tuple(o.replace("0.15", "0.3") for o in s.options)) for s in whole(place, agents)]

    monkeypatch.setattr(study, "_trainings", best)
    with pytest.raises(ValueError, match=r"filtered with options=\['--relevant-share', '0.15'\], now it has .*'0.3'"):
        study._kept(config)


def test_what_no_result_hears_of_and_fields_that_are_new_change_no_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(study.PRESETS["debug"], run=tmp_path)
    kept = study._kept(config)
    del kept["recipe"]["imagined"]["real_tracks"]  # as if numbers were older than it
    write_json(tmp_path / study.NUMBERS, {**kept, "seeds": {"0": {"imagined": row(2, 4)}}})
    with_imagination(monkeypatch, num_workers=2, data=("elsewhere",))
    study._kept(config)
    with_imagination(monkeypatch, real_tracks=3, held_out=tmp_path, real_tokenizer=tmp_path)
    with pytest.raises(ValueError, match="imagined with real_tracks=0, now it has 3"):
        study._kept(config)


@pytest.mark.parametrize(("preset", "numbers"), [("carracing", "study"), ("carracing_large", "study_large")])
def test_the_published_study_goes_on_with_the_presets_of_today(tmp_path: Path, preset: str, numbers: str) -> None:
    published = Path(__file__).parents[2] / f"docs/{numbers}.json"
    kept = study._kept(replace(study.PRESETS[preset], run=tmp_path, json=published))
    assert kept["seeds"] == json.loads(published.read_text())["seeds"] and kept["seeds"]


@pytest.mark.parametrize(("preset", "processes"), [("carracing", None), ("carracing_large", 16)])
def test_every_stage_of_the_study_is_a_command_line_that_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str, processes: int | None
) -> None:
    import importlib
    import sys

    from launch.command import main

    config = replace(study.PRESETS[preset], processes=processes)
    found: dict[str, Any] = {}
    for stage in [*study._shared(config), *study._of_seed(config, 0, study.PAIRED + study.OTHERS)]:
        commands: list[list[str]] = []
        with monkeypatch.context() as patch:
            patch.setattr(stages, "run_command", lambda command, to=commands: to.append(list(command)) or 0)
            stages.run_stage(stage, config.run, config.preset)
            module = importlib.import_module(commands[0][2])
            taken: list[Any] = []
            patch.setattr(sys, "argv", commands[0][2:])
            main(module.PRESETS, taken.append, description=None)
        assert len(taken) == 1, stage.name
        found[stage.name] = taken[0]
    assert found["collect"].processes == found["seed_0/scores"].processes == (processes or 2)


def test_a_study_with_senseless_numbers_is_refused() -> None:
    for name, value in (("processes", -1), ("seeds", 0), ("tracks", 0), ("seeds_of_others", 7), ("agents", ())):
        with pytest.raises(ValueError, match=f"{name}={value}".replace("()", r"\(\)")):
            replace(study.PRESETS["carracing"], **{name: value})
