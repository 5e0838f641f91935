"""Sizes that do not work out are one sentence with those that do, whether they come from the user or from the data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from launch.presets import CAR_RACING
from tokenizer.shard_format import DatasetMeta
from tokenizer.shard_writer import ShardWriter, finish_dataset

Call = Callable[..., int]
Say = pytest.CaptureFixture[str]


def sentence(said: Say) -> str:
    text = said.readouterr().err
    assert "Traceback" not in text and text.count("error: ") == 1, text
    return " ".join(text.partition("error: ")[2].partition("\n(in ")[0].split())


def video(folder: Path, height: int, width: int) -> Path:
    """Four drives of 20 frames of noise, with the actions of a car."""
    meta = DatasetMeta(
        environment="CarRacing-v3", frame_size=(height, width), fps=20, action_space=CAR_RACING.to_json(), tasks=("go",)
    )
    rng = np.random.default_rng(0)
    with ShardWriter(folder, 0, meta) as shard:
        for number in range(4):
            frames = rng.integers(0, 256, (20, 3, height, width), dtype=np.uint8)
            actions = rng.uniform(-1, 1, (20, 3)).astype(np.float32)
            shard.write(f"drive-{number}", frames=frames, rewards=np.zeros(20, np.float32), actions=actions)
    finish_dataset(folder, meta)
    return folder


@pytest.mark.parametrize(
    ("command", "option", "value", "words"),
    [
        ("train_tokenizer", "--model.packing", 3, "packing=3: choose packing from [1, 2, 4, 8]"),
        ("train_tokenizer", "--model.encoder.num-heads", 3, "num_heads=3 of an even width: choose num_heads from"),
        ("train_dynamics", "--model.transformer.num-kv-heads", 4, "choose num_kv_heads from [1, 2]"),
        ("train_dynamics", "--model.transformer.dim", 33, "dim=33 must be even"),
        ("train_dynamics", "--model.transformer.time-every", 3, "choose time_every from 1 to 2"),
        ("train_dynamics", "--model.transformer.window", 0, "window=0 must be positive"),
    ],
)
def test_sizes_of_a_model_that_do_not_fit_are_told_with_those_that_do(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say, command: str, option: str, value: int, words: str
) -> None:
    data = ("--data", pipeline / "data/train", "--run", tmp_path / "run")
    assert call(command, "debug", *data, option, value) == 2
    assert words in sentence(capfd)
    assert not (tmp_path / "run").exists()


def test_latents_that_do_not_split_into_the_tokens_asked_for_are_told(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say
) -> None:
    """The debug tokenizer's frames are 4 x 16 = 64 numbers."""
    data = ("--data", pipeline / "latents/train", "--run", tmp_path / "run", "--steps", 1)
    assert call("train_dynamics", "debug", *data, "--model.num-tokens", 128) == 1
    assert "num_tokens=128 does not divide the 64 numbers of a frame's latents" in sentence(capfd)
    assert call("train_dynamics", "debug", *data, "--model.num-tokens", 8) == 0


def test_video_of_odd_size_names_the_patches_that_it_takes_and_then_trains_with_one(
    tmp_path: Path, call: Call, capfd: Say
) -> None:
    odd = video(tmp_path / "odd", 20, 12)
    data = ("--data", odd, "--held-out", odd, "--run", tmp_path / "run", "--steps", 1)
    assert call("train_tokenizer", "debug", *data) == 1
    assert "frame size 20x12 is not a multiple of patch=16: choose patch from [1, 2, 4]" in sentence(capfd)
    assert call("train_tokenizer", "debug", *data, "--model.patch", 4) == 0


def test_held_out_video_of_another_size_is_told_before_the_training(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say
) -> None:
    """It used to come to light in the first evaluation."""
    other = video(tmp_path / "other", 32, 64)
    data = ("--data", pipeline / "data/train", "--held-out", other, "--run", tmp_path / "run")
    assert call("train_tokenizer", "debug", *data) == 1
    said = sentence(capfd)
    assert f"data/train has frames of 64x64 pixels and {other} of 32x64: give two folders of one size" in said
    assert not list((tmp_path / "run").rglob("*.safetensors"))


@pytest.mark.parametrize("command", ["dream", "evaluate_world", "evaluate"])
def test_video_of_a_size_that_the_tokenizer_does_not_know_is_told(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say, command: str
) -> None:
    other = video(tmp_path / "other", 32, 64)
    folders: dict[str, Path] = {"tokenizer": pipeline / "tokenizer"}
    if command == "evaluate":
        folders |= {"data": other, "cloned": pipeline / "agent", "imagined": pipeline / "imagination"}
    else:
        folders |= {"held-out": other, "dynamics": pipeline / "dynamics"}
    given = [text for name, folder in folders.items() for text in (f"--{name}", folder)]
    assert call(command, "debug", "--run", tmp_path / "run", *given) == 1
    assert "trained on frames of 64x64 pixels, this video has 32x64: train a tokenizer on it" in sentence(capfd)
