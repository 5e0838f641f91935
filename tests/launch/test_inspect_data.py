"""A dataset is shown as it is, and every damage in it is found and named."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenizer.shard_format import DatasetMeta
from tokenizer.shard_writer import ShardWriter, finish_dataset
from tokenizer.shards import Dataset

Call = Callable[..., int]
Say = pytest.CaptureFixture[str]
META = DatasetMeta(
    environment="toy",
    frame_size=(16, 16),
    fps=10,
    action_space={"continuous": ["steer"], "categorical": [["gear", 3]], "binary": ["jump"]},
    tasks=("one", "two"),
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six clips of 30 frames in two shards; the last is without actions."""
    rng = np.random.default_rng(0)
    for shard in range(2):
        with ShardWriter(tmp_path / "data", shard, META) as writer:
            for clip in range(3):
                number = 3 * shard + clip
                actions = np.stack([rng.uniform(-1, 1, 30), rng.integers(0, 3, 30), rng.integers(0, 2, 30)], axis=1)
                writer.write(
                    f"clip-{number}",
                    frames=rng.integers(0, 256, (30, 3, 16, 16), np.uint8),
                    actions=None if number == 5 else actions.astype(np.float32),
                    rewards=np.eye(30)[number + 1] * number,
                    continues=np.arange(30) < 29,
                    task=number % 2,
                )
    finish_dataset(tmp_path / "data", META)
    return tmp_path / "data"


def inspect(call: Call, data: Path | str, *options: object) -> tuple[int, dict[str, object]]:
    out = Path(str(data).partition("/shard-")[0]).parent / "out"
    status = call("inspect_data", "debug", "--data", data, "--out", out, *options)
    return status, json.loads((out / "inspect_data.json").read_text())


def test_the_numbers_are_those_of_the_data(data: Path, call: Call, capfd: Say) -> None:
    status, numbers = inspect(call, data, "--verify", "--sheet", 3, 5)
    assert status == 0
    assert (numbers["samples"], numbers["shards"], numbers["frames"], numbers["with_actions"]) == (6, 2, 180, 5)
    assert numbers["hours"] == pytest.approx(180 / 10 / 3600) and numbers["tasks"] == {"one": 3, "two": 3}
    assert numbers["return"]["best"] == 5 and numbers["length"] == {"shortest": 30, "median": 30, "longest": 30}
    assert numbers["read"] == {
        **{"all": True, "samples": 6, "frames": 180, "ends": 6, "rewards": 5, "corrupt": {}, "strange": {}},
        "labeled_share": pytest.approx(5 * 29 / 180),
    }
    said = capfd.readouterr().out
    assert "steer in [-1, 1], gear of 3, jump or not" in said and "0, all of them" in said
    with Image.open(data.parent / "out/sheet.png") as sheet:
        assert sheet.size == (110 + 5 * 64, 3 * 64)
    assert (data.parent / "out/actions.png").exists()


def test_some_samples_and_some_shards_can_be_looked_at(data: Path, call: Call) -> None:
    status, numbers = inspect(call, data, "--clips", 2)
    assert status == 0 and numbers["samples"] == 6 and numbers["read"]["samples"] == 2
    status, numbers = inspect(call, f"{data}/shard-{{000001..000001}}.tar", "--verify")
    assert status == 0 and numbers["samples"] == 3


def test_every_damaged_sample_is_named(data: Path, call: Call, capfd: Say) -> None:
    dataset = Dataset.open(data)
    for index, member in ((1, "frames.npy"), (4, "rewards.npy")):
        sample = dataset.samples[index]
        path = data / sample.shard.name
        damaged = bytearray(path.read_bytes())
        damaged[sample.members[member].offset + 150] ^= 1
        path.write_bytes(damaged)
    status, numbers = inspect(call, data, "--verify")
    assert status == 1 and numbers["read"]["corrupt"].keys() == {"clip-1", "clip-4"}
    said = capfd.readouterr()
    assert "2 of 6 samples are damaged, the first: sample 'clip-1' in shard-000000.tar" in said.err
    assert "damaged: sample 'clip-4' in shard-000001.tar: the checksum of rewards.npy is wrong" in said.out


def test_actions_that_are_none_of_the_space_are_named(
    tmp_path: Path, call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenizer.shard_writer.check_actions", lambda *_: None)  # as another program writes
    with ShardWriter(tmp_path / "data", 0, META) as writer:
        rows = np.zeros((4, 3), np.float32)
        rows[2, 1] = 7
        writer.write("clip", frames=np.zeros((4, 3, 16, 16), np.uint8), actions=rows)
    finish_dataset(tmp_path / "data", META)
    status, numbers = inspect(call, tmp_path / "data")
    assert status == 1 and numbers["read"]["corrupt"].keys() == {"clip"}
    assert "action part 'gear' is 7" in capfd.readouterr().err


def test_latents_have_numbers_and_no_sheet(pipeline: Path, tmp_path: Path, call: Call, capfd: Say) -> None:
    status = call("inspect_data", "debug", "--data", pipeline / "latents/train", "--out", tmp_path, "--verify")
    assert status == 0 and not (tmp_path / "sheet.png").exists() and (tmp_path / "actions.png").exists()
    assert "latents, 4x16 a frame, of video 64x64, tokenizer" in capfd.readouterr().out
