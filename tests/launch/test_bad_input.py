"""What a user can get wrong is one sentence on stderr: what, where, what to do. What lies on the disk stays whole."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from agent.collecting import ShardOrder, collect_shard
from launch import checkpoint
from launch.workers import Tell
from tokenizer.shards import Dataset

ROOT = Path(__file__).parents[2]
Call = Callable[..., int]
Say = pytest.CaptureFixture[str]


@pytest.fixture
def run(pipeline: Path, tmp_path: Path) -> Path:
    """A pipeline of one's own."""
    shutil.copytree(pipeline, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def other_tokenizer(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the same shape, with other weights."""
    from launch.train_tokenizer import PRESETS, train_tokenizer

    folder = tmp_path_factory.mktemp("other") / "tokenizer"
    preset = PRESETS["debug"]
    data, held_out = pipeline / "data/train", pipeline / "data/held_out"
    loop = replace(preset.loop, steps=1, seed=7)
    train_tokenizer(replace(preset, run=folder, data=(str(data),), held_out=held_out, loop=loop))
    return folder


def whole(folder: Path) -> dict[str, str]:
    """Every shard and checkpoint, by its bytes."""
    found = [*folder.rglob("shard-*"), *folder.rglob("index.json"), *folder.rglob("checkpoints/*/*")]
    return {str(path): sha256(path.read_bytes()).hexdigest() for path in found}


def sentence(said: Say) -> str:
    """What stderr says, which is no more than an error and a hint on tracebacks."""
    text = said.readouterr().err
    assert "Traceback" not in text
    assert text.count("error: ") == 1, text
    return text.partition("error: ")[2].partition("\n(in ")[0]


def test_an_unknown_preset_or_option_names_the_choices(call: Call, capfd: Say) -> None:
    assert call("train_dynamics", "huge") == 2
    assert "unknown preset 'huge', have: debug, laptop" in sentence(capfd)
    assert call("train_dynamics", "debug", "--learning-rat", "1") == 2
    assert "--learning-rate" in capfd.readouterr().err


def test_an_unknown_environment_names_the_choices_and_leaves_no_folder(tmp_path: Path, call: Call, capfd: Say) -> None:
    assert call("collect", "debug", "--env", "Foo", "--out", tmp_path / "data") == 1
    said = sentence(capfd)
    assert "unknown environment 'Foo', have ['CarRacing-v3', 'Crafter', 'MineRL" in said
    assert "'VizdoomTakeCover'], and gym:ID for any of gymnasium" in said
    assert not (tmp_path / "data").exists()


def test_a_game_that_is_not_installed_is_told_with_its_install_command(
    tmp_path: Path, call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.envs.registry.find_spec", lambda name: None)
    assert call("collect", "debug", "--out", tmp_path / "data") == 1
    assert 'pip install "gymnasium[box2d]"' in sentence(capfd)


def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path, pipeline: Path, call: Call, capfd: Say) -> None:
    (tmp_path / "x").mkdir()
    held_out = ("--held-out", pipeline / "data/held_out", "--run", tmp_path / "run")
    assert call("train_tokenizer", "debug", "--data", tmp_path / "x", *held_out) == 1
    said = sentence(capfd)
    assert f"{tmp_path / 'x'} is no dataset" in said and "python -m launch.collect" in said


def test_frames_in_place_of_latents_and_the_other_way_round(
    tmp_path: Path, pipeline: Path, call: Call, capfd: Say
) -> None:
    assert call("train_dynamics", "debug", "--data", pipeline / "data/train", "--run", tmp_path / "run") == 1
    said = sentence(capfd)
    assert "data/train holds frames, this command needs latents" in said and "launch.encode_latents" in said
    assert "--tokenizer RUN" in said
    latents = ("--data", pipeline / "latents/train", "--tokenizer", pipeline / "tokenizer")
    assert call("train_dynamics", "debug", *latents, "--run", tmp_path / "run") == 1
    said = sentence(capfd)
    assert "latents/train holds latents, and --tokenizer" in said and "leave --tokenizer out" in said
    latents = ("--data", pipeline / "latents/train", "--held-out", pipeline / "data/held_out")
    assert call("train_tokenizer", "debug", *latents, "--run", tmp_path / "run") == 1
    said = sentence(capfd)
    assert "latents/train holds latents, this command needs frames" in said and "launch.collect" in said


def test_a_missing_or_cut_shard_is_named(run: Path, tmp_path: Path, call: Call, capfd: Say) -> None:
    shard = run / "latents/train/shard-000001.tar"
    content = shard.read_bytes()
    arguments = ("debug", "--data", run / "latents/train", "--run", tmp_path / "new")
    shard.unlink()
    assert call("train_dynamics", *arguments) == 1
    assert f"{shard} is missing" in sentence(capfd)
    shard.write_bytes(content[:-100])
    assert call("train_dynamics", *arguments) == 1
    assert f"{shard} has {len(content) - 100} bytes, the index says {len(content)}: copy it again" in sentence(capfd)


def test_held_out_episodes_that_are_damaged_are_named(run: Path, call: Call, capfd: Say) -> None:
    shard = run / "data/held_out/shard-000000.tar"
    sample = Dataset.open(shard.parent).samples[0]
    with shard.open("r+b") as file:
        file.seek(sample.members["frames.npy"].offset + 500)
        file.write(b"\0\1\2\3")
    folders = ("--data", run / "data/train", "--held-out", shard.parent)
    assert call("train_tokenizer", "debug", "--run", run / "new", *folders) == 1
    said = sentence(capfd)
    assert f"sample '{sample.key}' in shard-000000.tar: the checksum of frames.npy is wrong" in said
    assert "Copy the shard again" in said


def test_a_run_folder_of_another_config_is_not_mixed_into(run: Path, call: Call, capfd: Say) -> None:
    before = whole(run)
    arguments = ("debug", "--run", run / "dynamics", "--data", run / "latents/train", "--learning-rate", 1)
    assert call("train_dynamics", *arguments) == 1
    said = sentence(capfd)
    assert "made with loop.learning_rate=0.001, this command has loop.learning_rate=1.0" in said and "--run" in said
    assert whole(run) == before


def test_a_run_of_another_kind_is_named_with_the_command_that_makes_the_right_one(
    tmp_path: Path, pipeline: Path, call: Call, capfd: Say
) -> None:
    latents = ("--data", pipeline / "latents/train", "--run", tmp_path / "run")
    folders = ("--data", pipeline / "data/train", "--tokenizer", pipeline / "tokenizer", "--run", tmp_path / "run")
    wrong = [
        (("train_agent", *latents, "--dynamics", pipeline / "tokenizer"), "Tokenizer", "train_dynamics"),
        (("train_agent", *latents, "--dynamics", pipeline / "agent"), "Agent", "train_dynamics"),
        (("train_imagination", *latents, "--agent", pipeline / "dynamics"), "WorldModel", "train_agent"),
        (
            ("evaluate", *folders, "--cloned", pipeline / "tokenizer", "--imagined", pipeline / "imagination"),
            "Tokenizer",
            "train_agent",
        ),
    ]
    for (name, *arguments), found, maker in wrong:
        assert call(name, "debug", *arguments) == 1
        said = sentence(capfd)
        assert f"is the run of a {found}" in said and f"python -m launch.{maker}" in said
    assert not (tmp_path / "run/scores").exists()  # told before the first episode, not after the others' last
    assert call("train_agent", "debug", *latents, "--dynamics", tmp_path / "nothing") == 1
    assert "nothing holds no checkpoint: `python -m launch.train_dynamics` makes one" in sentence(capfd)


def test_a_damaged_checkpoint_is_named_and_a_cut_one_passed_over(run: Path, call: Call, capfd: Say) -> None:
    path = checkpoint.latest(run / "dynamics")
    assert path is not None
    weights = path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(b"\xff" * 64 + content[64:])
    arguments = ("debug", "--data", run / "latents/train", "--dynamics", run / "dynamics", "--run", run / "new")
    assert call("train_agent", *arguments) == 1
    said = sentence(capfd)
    assert f"{weights} is damaged" in said and f"delete {path}" in said
    weights.write_bytes(content[:-8])
    assert call("train_agent", *arguments) == 0
    said = capfd.readouterr().err
    assert f"warning: checkpoint {path} is incomplete, looking for an older one" in said and ".py:" not in said


def test_a_tokenizer_that_does_not_fit_is_refused_everywhere(
    run: Path, tmp_path: Path, other_tokenizer: Path, call: Call, capfd: Say
) -> None:
    before = whole(run)
    encode = ("debug", "--data", run / "data", "--tokenizer", other_tokenizer)
    assert call("encode_latents", *encode, "--out", run / "latents") == 1
    said = sentence(capfd)
    assert f"{run / 'latents/train'} holds latents of tokenizer" in said and "name another --out" in said
    (run / "latents/train/index.json").unlink()  # as an encoding that was cut short leaves it
    assert call("encode_latents", *encode, "--out", run / "latents") == 1
    assert "holds latents of tokenizer" in sentence(capfd)
    assert call("encode_latents", *encode, "--out", tmp_path / "other") == 0
    agents = ("--cloned", run / "agent", "--imagined", run / "imagination")
    others = ("--data", tmp_path / "other/train", "--run", tmp_path / "new")
    video = ("--data", run / "data/train", "--run", tmp_path / "new")
    wrong = [
        ("train_agent", *others, "--dynamics", run / "dynamics"),
        ("train_imagination", *others, "--agent", run / "agent"),
        ("dream", "--held-out", run / "data/held_out", "--dynamics", run / "dynamics", "--run", tmp_path / "new"),
        ("evaluate", "--data", run / "data/train", *agents, "--run", tmp_path / "new"),
        ("train_agent", *video, "--dynamics", run / "dynamics"),
        ("train_imagination", *video, "--agent", run / "agent"),
    ]
    for name, *arguments in wrong:
        latents = str(tmp_path / "other/train") in map(str, arguments)
        tokenizer = () if latents else ("--tokenizer", other_tokenizer)
        assert call(name, "debug", *arguments, *tokenizer) == 1
        said = sentence(capfd)
        assert "knows latents of tokenizer" in said and "use the tokenizer that it was trained with" in said
        assert str(tmp_path / "other/train" if latents else other_tokenizer) in said
    assert {name: digest for name, digest in whole(run).items() if before[name] != digest} == {}


def test_video_that_was_collected_anew_is_not_taken_for_encoded(run: Path, call: Call, capfd: Say) -> None:
    shutil.rmtree(run / "data")
    assert call("collect", "debug", "--out", run / "data", "--seed", 1) == 0
    capfd.readouterr()
    folders = ("--data", run / "data", "--tokenizer", run / "tokenizer", "--out", run / "latents")
    assert call("encode_latents", "debug", *folders) == 1
    assert "holds latents of video" in sentence(capfd)


def test_sizes_that_do_not_fit_are_told_and_the_right_ones_then_taken(
    tmp_path: Path, pipeline: Path, call: Call, capfd: Say
) -> None:
    folders = ("--data", pipeline / "latents/train", "--run", tmp_path / "run", "--dynamics", pipeline / "dynamics")
    assert call("train_agent", "debug", *folders, "--batch-size", 3) == 2
    assert "batch_size=3 is odd" in capfd.readouterr().err
    assert call("train_agent", "debug", *folders, "--length", 500) == 1
    said = sentence(capfd)
    assert "no sample of" in said and "has 500 frames: the longest of 4 has 41; choose a shorter length" in said
    assert call("train_agent", "debug", *folders, "--steps", 1) == 0


@pytest.mark.parametrize("stage", ["collect", "train_dynamics", "encode_latents"])
def test_a_full_disk_is_told_and_the_stage_goes_on_once_there_is_space(
    run: Path, tmp_path: Path, call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    arguments = {
        "collect": ("--out", tmp_path / "new"),
        "train_dynamics": ("--data", run / "latents/train", "--run", tmp_path / "new", "--save-every", 1),
        "encode_latents": ("--data", run / "data", "--tokenizer", run / "tokenizer", "--out", tmp_path / "new"),
    }[stage]
    synced: list[int] = []
    sync = os.fsync

    def fill_up(handle: int) -> None:
        synced.append(handle)
        if len(synced) > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr("tokenizer.files.os.fsync", fill_up)
    assert call(stage, "debug", *arguments) == 1
    said = sentence(capfd)
    assert "disk full" in said and str(tmp_path / "new") in said and "run the same command again" in said
    assert not [path for path in (tmp_path / "new").rglob("*") if path.suffix in (".tmp", ".partial")]
    monkeypatch.undo()
    assert call(stage, "debug", *arguments) == 0


def start(*arguments: object) -> subprocess.Popen[str]:
    """A command in a process group of its own, which is what Ctrl-C reaches in a terminal."""
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def interrupt(process: subprocess.Popen[str], begun: Callable[[], bool]) -> str:
    """Sends Ctrl-C as soon as it has begun; what it said."""
    try:
        while process.poll() is None and not begun():
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in said
    return said


@pytest.mark.slow
def test_ctrl_c_while_collecting_leaves_whole_shards(tmp_path: Path, call: Call) -> None:
    pytest.importorskip("Box2D")
    out = tmp_path / "data"
    options = ("debug", "--episodes", 16, "--max-steps", 60, "--episodes-per-shard", 1, "--processes", 2, "--out", out)
    process = start("launch.collect", *options)
    said = interrupt(process, lambda: any(out.rglob("shard-*.json")))
    assert process.returncode == 130 and "stopped by Ctrl-C; run the same command again" in said
    made = whole(out)
    assert 0 < len(made) < 36 and not list(out.rglob("*.tmp"))
    assert call("collect", *options[:-3], 0, "--out", out) == 0
    assert len(Dataset.open(out / "train")) == 16
    assert {name: digest for name, digest in whole(out).items() if name in made} == made


@pytest.mark.slow
def test_ctrl_c_during_the_demo_lets_its_stage_save_and_ends_both(pipeline: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(pipeline / "data", run / "data")
    process = start("launch.demo", "debug", "--run", run)
    said = interrupt(process, lambda: (run / "tokenizer/config.json").exists())
    assert process.returncode == 130
    assert said.count("error: stopped by Ctrl-C") + said.count("stopped and saved") >= 1
    assert "failed" not in said


def test_collecting_stops_between_shards_when_it_is_told_to(
    tmp_path: Path, call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(order: ShardOrder, progress: Tell) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        collect_shard(order, progress)

    monkeypatch.setattr("launch.collect.collect_shard", interrupted)
    assert call("collect", "debug", "--out", tmp_path / "data") == 130
    assert "stopped by Ctrl-C" in sentence(capfd)
    assert [path.name for path in (tmp_path / "data").rglob("*.tar")] == ["shard-000000.tar"]
