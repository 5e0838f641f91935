"""World Models by its commands: the whole path at debug size, evolution that goes on, wrong parts that are refused."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import save_file

from launch import checkpoint, rolling_out, run_folder
from launch.curves import read_metrics
from launch.demo import PRESETS as DEMOS
from launch.evolve import PRESETS, Evolve, prepare, tracks
from launch.export import LOADERS, Export, export
from launch.models import MAKERS, load_controller, load_mdn_rnn, load_vae
from launch.rolling_out import Judge, judged
from tests.launching import accelerate, run_command
from tokenizer.shards import Dataset
from tokenizer.video import decode_video

ROOT = Path(__file__).parents[2]
Call = Callable[..., int]


@pytest.fixture(scope="module")
def vmc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `python -m launch.demo vmc_debug`. Read it, or copy it."""
    from tests.launch.conftest import call_command, call_stage

    pytest.importorskip("Box2D")
    run = tmp_path_factory.mktemp("vmc") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("launch.stages.run_command", call_stage)
        assert call_command("demo", "vmc_debug", "--run", run) == 0
    return run


def options(vmc: Path, run: Path, *more: object) -> list[object]:
    parts = {"latents": "latents/train", "vae": "vae", "mdn-rnn": "mdn_rnn"}
    named = [text for name, folder in parts.items() for text in (f"--{name}", vmc / "vmc" / folder)]
    return ["debug", "--run", run, *named, *more]


def saved(run: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor, str]:
    """Controller, what was told, and the candidates that come next."""
    path = checkpoint.latest(run)
    assert path is not None
    told = checkpoint.read_tensors(path / "optimizer.safetensors")["vector.fitness"]
    return checkpoint.read_tensors(path / "model.safetensors"), told, checkpoint.load_state(path)["candidates"]


def assert_same(one: Path, other: Path) -> None:
    mine, theirs = saved(one), saved(other)
    assert mine[0]["vector"].equal(theirs[0]["vector"])
    assert mine[1].dtype == torch.float64 and mine[1].equal(theirs[1])
    assert mine[2] == theirs[2]


def test_its_agents_have_their_scores_in_the_one_shape(vmc: Path) -> None:
    results = json.loads((vmc / "results.json").read_text())
    assert list(results) == ["random", "vmc_v_only", "vmc_hidden", "vmc", "vmc_dream"]
    for row in results.values():
        assert row.keys() == {"mean", "std", "ci95", "tracks", "scores"} and row["tracks"] == len(row["scores"]) > 0


def test_its_rows_join_those_that_are_there(vmc: Path, tmp_path: Path, call: Call) -> None:
    shutil.copytree(vmc / "evaluation", tmp_path / "evaluation")
    path = tmp_path / "evaluation/results.json"
    results = json.loads(path.read_text())
    path.write_text(json.dumps({name: results["random"] for name in ("dataset", "random", "vmc", "vmc_hidden")}))
    other = path.parent / "scores/vmc_hidden.json"
    longer = json.loads(other.read_text())
    longer["made_by"]["max_steps"] = 1000
    other.write_text(json.dumps(longer))
    data = ("--data", vmc / "vmc/data/train", "--vmc", vmc / "vmc")
    assert call("evaluate", "vmc_debug", "--run", path.parent, *data, "--agents", "vmc", "--tracks", 2) == 0
    merged = json.loads(path.read_text())
    assert list(merged) == ["dataset", "random", "vmc"], "other episodes do not compare"
    assert merged["random"] == results["random"] and merged["vmc"]["tracks"] == 2
    assert merged["vmc"]["scores"][:1] == results["vmc"]["scores"]


@pytest.mark.parametrize("path", ["vae/reconstructions.png", "dreams/dream_vmc.png", "controller/evolution.png"])
def test_pictures_open(vmc: Path, path: str) -> None:
    with Image.open(vmc / "vmc" / path) as picture:
        assert min(picture.convert("RGB").size) > 64


@pytest.mark.parametrize("path", ["vmc/dreams/dream_vmc.mp4", "evaluation/videos/vmc.mp4"])
def test_videos_play(vmc: Path, path: str) -> None:
    assert decode_video((vmc / path).read_bytes(), 0, 2).std() > 0


def test_every_generation_is_logged_and_saved(vmc: Path) -> None:
    lines = read_metrics(vmc / "vmc/controller")
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["best_return"] >= line["mean_return"] for line in lines)  # type: ignore[operator]
    assert load_controller(vmc / "vmc/controller").config.num_parameters == 867
    assert load_controller(vmc / "vmc/v_only").config.num_parameters == 99
    assert load_controller(vmc / "vmc/hidden").config.num_parameters == 32 * 40 + 40 + 40 * 3 + 3
    assert saved(vmc / "vmc/controller")[1].shape == (2, 4)


@pytest.mark.usefixtures("stages_in_process")
def test_run_again_every_stage_is_done_already(
    vmc: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(vmc, tmp_path / "moved")
    assert call("demo", "vmc_debug", "--run", tmp_path / "moved") == 0
    said = capfd.readouterr().out.split("python -m launch.")[1:]
    assert len(said) == len(DEMOS["vmc_debug"].stages)
    assert [text.split()[0] for text in said if "already done" not in text] == []


@pytest.mark.parametrize("world", [("--world", "real"), ("--world", "dream", "--temperature", 1.2)])
def test_an_evolution_that_is_cut_goes_on_to_the_same_candidates(
    vmc: Path, tmp_path: Path, call: Call, world: tuple[object, ...]
) -> None:
    assert call("evolve", *options(vmc, tmp_path / "straight", *world, "--generations", 4)) == 0
    for generations in (1, 3, 4):
        assert call("evolve", *options(vmc, tmp_path / "cut", *world, "--generations", generations)) == 0
    assert_same(tmp_path / "cut", tmp_path / "straight")


def test_candidates_of_a_generation_share_their_tracks_and_generations_do_not() -> None:
    config = PRESETS["laptop"]
    seen = [tracks(config, generation) for generation in range(1, 30)]
    assert len({seed for seeds in seen for seed in seeds}) == 29 * config.rollouts


def judge(vmc: Path, processes: int, **more: int) -> Judge:
    folder = vmc / "vmc"
    config = Evolve(
        run=folder, latents=folder / "latents/train", vae=folder / "vae", mdn_rnn=folder / "mdn_rnn", num_envs=2
    )
    world, controller = prepare(config, Dataset.open(config.latents))
    return Judge(world, controller, processes=processes, max_steps=6, **more)


def vectors(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.5, (count, 867))


def test_what_is_judged_does_not_depend_on_workers_or_ranks(vmc: Path) -> None:
    alone = judge(vmc, 0).rollouts(vectors(), [5, 6], patience=0, tell=lambda _: None, stopped=lambda: False)
    shared = [
        found
        for rank in (1, 0)
        for found in judge(vmc, 0, rank=rank, world_size=2).rollouts(
            vectors(), [5, 6], patience=0, tell=lambda _: None, stopped=lambda: False
        )
    ]
    mine, theirs = judged(alone, 3), judged(shared, 3)
    assert mine.returns.shape == (3, 2) and mine.num_steps == theirs.num_steps == 36
    np.testing.assert_allclose(theirs.returns, mine.returns, rtol=1e-4)
    assert len(np.unique(mine.returns)) > 1


def dying(mark: Path, order: rolling_out.Order, tell: Callable[..., None]) -> rolling_out.Rollouts:
    """The first worker that gets the third candidate dies of it."""
    if 2 in {rollout.candidate for rollout in order.rollouts} and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return rolling_out.work(order, tell)


def test_the_candidates_of_a_worker_that_dies_are_judged_again(
    vmc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = judge(vmc, 0).rollouts(vectors(), [5, 6], patience=0, tell=lambda _: None, stopped=lambda: False)
    broken = judge(vmc, 2)
    monkeypatch.setattr(rolling_out, "work", partial(dying, tmp_path / "died"))
    with broken.workers:
        found = broken.rollouts(vectors(), [5, 6], patience=0, tell=lambda _: None, stopped=lambda: False)
    assert (tmp_path / "died").exists() and "a worker process was killed" in capfd.readouterr().out
    np.testing.assert_allclose(judged(found, 3).returns, judged(whole, 3).returns, rtol=1e-4)


@pytest.mark.slow
def test_two_ranks_evolve_what_one_does(vmc: Path, tmp_path: Path, call: Call) -> None:
    assert call("evolve", *options(vmc, tmp_path / "one")) == 0
    run_command([*accelerate(), "-m", "launch.evolve", *options(vmc, tmp_path / "two")])
    one, two = saved(tmp_path / "one"), saved(tmp_path / "two")
    torch.testing.assert_close(two[1], one[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--mdn-rnn", "OTHER"), "knows latents of tokenizer .* train it again"),
        (("--vae", "MISSING"), "holds no checkpoint: `python -m launch.train_vae` makes one"),
        (
            ("--inputs", "z_h_c"),
            "867 parameters, .* one of 1635, with inputs=.z_h. there and .z_h_c. here",
        ),
        (("--world", "dream", "--inputs", "z"), "inputs=z leaves out M"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_a_sentence(
    vmc: Path,
    tmp_path: Path,
    call: Call,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    more: tuple[str, ...],
    reason: str,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(vmc / "vmc/controller", run)
    monkeypatch.setattr(run_folder, "_claim_config", lambda *_: None)  # so that the checkpoint itself is asked
    if "OTHER" in more:
        other = tmp_path / "other"
        shutil.copytree(vmc / "vmc/mdn_rnn", other)
        for path in other.rglob("checkpoints/*/config.json"):
            text = json.loads(path.read_text())
            text["config"]["tokenizer"] = "of another V"
            path.write_text(json.dumps(text))
            state = json.loads((path.parent / "state.json").read_text())
            state["files"]["config.json"] = path.stat().st_size
            (path.parent / "state.json").write_text(json.dumps(state))
    places = {"OTHER": tmp_path / "other", "MISSING": tmp_path / "missing"}
    assert call("evolve", *options(vmc, run, "--generations", 3, *(places.get(word, word) for word in more))) in (1, 2)
    assert re.search(reason, " ".join(capfd.readouterr().err.split()))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ("mdn_rnn", "was evolved with M .* its h means something else"),
        ("vae", "knows latents of tokenizer .* use the tokenizer that it was trained with"),
        ("controller", "holds no checkpoint: `python -m launch.evolve` makes one"),
    ],
)
def test_a_controller_drives_with_the_v_and_m_that_it_was_evolved_with(
    vmc: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str], changed: str, reason: str
) -> None:
    shutil.copytree(vmc / "vmc", tmp_path / "vmc")
    path = checkpoint.latest(tmp_path / "vmc" / changed)
    assert path is not None
    if changed == "controller":
        shutil.rmtree(path.parent)
    else:
        for name in ("model", "ema"):
            tensors = checkpoint.read_tensors(path / f"{name}.safetensors")
            save_file({key: tensor + 0.01 for key, tensor in tensors.items()}, path / f"{name}.safetensors")
    data = ("--data", vmc / "vmc/data/train", "--vmc", tmp_path / "vmc")
    assert call("evaluate", "vmc_debug", "--run", tmp_path / "run", *data, "--agents", "vmc") == 1
    assert re.search(reason, " ".join(capfd.readouterr().err.split()))


def test_take_cover_is_evolved_in_the_dream_and_judged_in_the_game(tmp_path: Path, call: Call) -> None:
    """As VizDoom in the paper: M tells the end, C sees z, h and c and has no bias; each tic survived is a point."""
    pytest.importorskip("vizdoom")
    data, latents = tmp_path / "data", tmp_path / "vmc/latents"
    held_out = ("--held-out", data / "held_out")
    assert call("collect", "vmc_take_cover_debug", "--out", data) == 0
    vae = ("--run", tmp_path / "vmc/vae", "--data", data / "train", *held_out, "--model.latent-dim", 8)
    assert call("train_vae", "debug", *vae) == 0
    assert call("encode_latents", "debug", "--tokenizer", tmp_path / "vmc/vae", "--data", data, "--out", latents) == 0
    shards = ("--data", latents / "train", "--held-out", latents / "held_out")
    heads = ("--model.end-head", "--model.no-reward-head")
    assert call("train_mdn_rnn", "debug", "--run", tmp_path / "vmc/mdn_rnn", *shards, *heads) == 0
    for folder, temperature in {"dream": 1.15, "cold_dream": 0.1}.items():
        run = options(tmp_path, tmp_path / "vmc" / folder, "--world", "dream", "--temperature", temperature)
        AcceleratorState._reset_state(reset_partial_state=True)
        assert call("evolve", *run, "--inputs", "z_h_c", "--no-bias", "--max-steps", 50) == 0
        assert load_controller(tmp_path / "vmc" / folder).config.num_parameters == 8 + 2 * 256
    told = saved(tmp_path / "vmc/dream")[1]
    assert (told >= 4).all() and (told <= 200).all(), "four tics a step, for 1 to 50 steps"
    agents = ("--agents", "random", "vmc_dream", "vmc_cold_dream")
    places = ("--run", tmp_path / "evaluation", "--data", data / "train", "--vmc", tmp_path / "vmc")
    assert call("evaluate", "vmc_debug", *places, *agents, "--tracks", 2) == 0
    results = json.loads((tmp_path / "evaluation/results.json").read_text())
    assert all(0 < score <= 80 for row in results.values() for score in row["scores"])


@pytest.mark.parametrize(
    ("name", "load"), [("vae", load_vae), ("mdn_rnn", load_mdn_rnn), ("controller", load_controller)]
)
def test_its_models_are_exported(vmc: Path, tmp_path: Path, name: str, load: Callable[[Path], torch.nn.Module]) -> None:
    assert LOADERS.keys() == MAKERS.keys()
    export(Export(run=vmc / "vmc" / name, out=tmp_path))
    one, other = load(vmc / "vmc" / name).state_dict(), load(tmp_path).state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert f"from launch.models import {load.__name__}" in (tmp_path / "README.md").read_text()


def test_m_wants_the_latents_of_a_v(
    pipeline: Path, vmc: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    places = ("--held-out", pipeline / "latents/held_out", "--run", tmp_path / "m")
    assert call("train_mdn_rnn", "debug", "--data", pipeline / "latents/train", *places) == 1
    assert "no means and variances of a V: encode the video" in " ".join(capfd.readouterr().err.split())


def test_m_is_judged_on_latents_of_its_own_v(
    vmc: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(vmc / "vmc/latents/held_out", tmp_path / "held_out")
    index = json.loads((tmp_path / "held_out/index.json").read_text())
    (tmp_path / "held_out/index.json").write_text(json.dumps({**index, "tokenizer": "of another V"}))
    places = ("--data", vmc / "vmc/latents/train", "--held-out", tmp_path / "held_out", "--run", tmp_path / "m")
    assert call("train_mdn_rnn", "debug", *places) == 1
    assert "is of tokenizer of another V" in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize("name", ["vae", "mdn_rnn"])
def test_a_training_that_is_cut_equals_a_straight_one(vmc: Path, tmp_path: Path, call: Call, name: str) -> None:
    data = vmc / "vmc" / ("data" if name == "vae" else "latents")
    places = ("--data", data / "train", "--held-out", data / "held_out", "--schedule", "constant")
    for steps in (2, 4):
        assert call(f"train_{name}", "debug", "--run", tmp_path / "cut", *places, "--steps", steps) == 0
    assert call(f"train_{name}", "debug", "--run", tmp_path / "straight", *places, "--steps", 4) == 0
    one, other = checkpoint.latest(tmp_path / "cut"), checkpoint.latest(tmp_path / "straight")
    assert one is not None and other is not None
    for file in ("model", "ema", "optimizer"):
        mine, theirs = (checkpoint.read_tensors(path / f"{file}.safetensors") for path in (one, other))
        assert mine.keys() == theirs.keys() and all(mine[key].equal(theirs[key]) for key in mine)


def test_an_evolution_told_by_another_library_is_refused(
    vmc: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    """Told the same fitnesses it would come to another place, and go on from there without a word."""
    shutil.copytree(vmc / "vmc/controller", tmp_path / "run")
    path = checkpoint.latest(tmp_path / "run")
    assert path is not None
    told = checkpoint.read_tensors(path / "optimizer.safetensors")
    save_file({**told, "vector.mean": told["vector.mean"] + 0.1}, path / "optimizer.safetensors")
    assert call("evolve", *options(vmc, tmp_path / "run", "--generations", 3)) == 1
    assert "another version of the library cma" in " ".join(capfd.readouterr().err.split())


def test_an_evolution_whose_worker_dies_ends_at_the_same_candidates(
    vmc: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = options(vmc, tmp_path / "whole", "--processes", 2)
    assert call("evolve", *whole) == 0
    monkeypatch.setattr(rolling_out, "work", partial(dying, tmp_path / "died"))
    assert call("evolve", *options(vmc, tmp_path / "broken", "--processes", 2)) == 0
    assert (tmp_path / "died").exists()
    assert_same(tmp_path / "broken", tmp_path / "whole")


def test_ctrl_c_leaves_whole_generations(vmc: Path, tmp_path: Path) -> None:
    arguments = options(vmc, tmp_path / "run", "--generations", 500)
    command = [sys.executable, "-m", "launch.evolve", *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while process.poll() is None and checkpoint.latest(tmp_path / "run") is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said
    assert "generations are saved, run the same command again to go on" in said
    assert saved(tmp_path / "run")[1].shape[0] >= 1


def test_a_dream_of_nothing_is_refused(vmc: Path, tmp_path: Path, call: Call) -> None:
    latents = vmc / "vmc/latents"
    more = ("--run", tmp_path / "m", "--model.no-reward-head")
    data = ("--data", latents / "train", "--held-out", latents / "held_out")
    assert call("train_mdn_rnn", "debug", *data, *more) == 0
    config = Evolve(
        run=tmp_path / "c",
        latents=latents / "train",
        vae=vmc / "vmc/vae",
        mdn_rnn=tmp_path / "m",
        world="dream",
        max_steps=5,
    )
    with pytest.raises(ValueError, match="neither rewards nor an end"):
        prepare(config, Dataset.open(config.latents))
