import errno
import random
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from launch import checkpoint
from launch.engine import whole_copies


@dataclass(frozen=True)
class SmallConfig:
    dim: int = 4


class Small(nn.Module):
    def __init__(self, config: SmallConfig) -> None:
        super().__init__()
        self.config = config
        self.body = nn.Linear(config.dim, config.dim)
        self.register_buffer("scale", torch.ones(()))


def save(run: Path, step: int, model: nn.Module, ema: dict[str, Tensor] | None = None, keep: int = 2) -> Path:
    tensors, averages = whole_copies(model.state_dict().items()), whole_copies((ema or {}).items())
    snapshot = checkpoint.Snapshot(model=tensors, ema=averages, optimizer={}, config=checkpoint.describe(model))
    return checkpoint.save(run, step, snapshot, {"seconds": 1.0}, keep=keep)


def steps(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_a_model_its_config_and_its_average_come_back(tmp_path: Path) -> None:
    model, other = Small(SmallConfig()), Small(SmallConfig())
    model.scale.fill_(3)
    average = {name: parameter.detach() * 2 for name, parameter in model.named_parameters()}
    path = save(tmp_path, 5, model, average)
    assert checkpoint.load_config(path, SmallConfig) == model.config
    assert checkpoint.load_state(path)["step"] == 5
    checkpoint.load_into(other, path)
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    checkpoint.load_into(other, path, ema=True)
    torch.testing.assert_close(other.body.weight, model.body.weight * 2, rtol=0, atol=0)
    assert other.scale == 3


def test_a_part_of_a_model_can_be_loaded_alone(tmp_path: Path) -> None:
    whole, body = Small(SmallConfig()), nn.Linear(4, 4)
    checkpoint.load_into(body, save(tmp_path, 1, whole), part="body")
    torch.testing.assert_close(body.weight, whole.body.weight)


def test_tied_weights_are_saved_under_both_names(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    path = save(tmp_path, 1, model)
    assert {"0.weight", "1.weight"} <= checkpoint.load_file(path / "model.safetensors").keys()


def test_low_precision_weights_are_saved_in_32_bits_and_return_exactly(tmp_path: Path) -> None:
    model, other = Small(SmallConfig()).bfloat16(), Small(SmallConfig()).bfloat16()
    path = save(tmp_path, 1, model)
    assert checkpoint.load_file(path / "model.safetensors")["body.weight"].dtype == torch.float32
    checkpoint.load_into(other, path)
    assert torch.equal(other.body.weight, model.body.weight)


def test_a_model_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    path = save(tmp_path, 1, Small(SmallConfig(dim=4)))
    with pytest.raises(ValueError, match=r"'body.bias' is \(4,\) there and \(8,\) here"):
        checkpoint.load_into(Small(SmallConfig(dim=8)), path)
    with pytest.raises(ValueError, match=r"'bias' is missing there and \(4,\) here"):
        checkpoint.load_into(nn.Linear(4, 4), path)
    with pytest.raises(ValueError, match="no moving average"):
        checkpoint.load_into(Small(SmallConfig()), path, ema=True)
    with pytest.raises(ValueError, match="holds a Small made from SmallConfig, not from Path"):
        checkpoint.load_config(path, Path)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, Small(SmallConfig()))
    assert steps(tmp_path) == ["step_00000002", "step_00000003"]


@pytest.mark.parametrize("tear", ["no state", "short tensors", "half a state"])
def test_a_torn_checkpoint_is_skipped_with_a_warning(tmp_path: Path, tear: str) -> None:
    good, torn = save(tmp_path, 1, Small(SmallConfig())), save(tmp_path, 2, Small(SmallConfig()))
    if tear == "no state":
        (torn / "state.json").unlink()
    else:
        file = torn / ("model.safetensors" if tear == "short tensors" else "state.json")
        file.write_bytes(file.read_bytes()[:50])
    with pytest.warns(UserWarning, match="step_00000002 is incomplete"):
        assert checkpoint.latest(tmp_path) == good
    assert save(tmp_path, 2, Small(SmallConfig())) == torn
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.latest(tmp_path) == torn


def test_without_checkpoints_there_is_no_latest(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None


@pytest.mark.parametrize(
    "error", [SafetensorError("I/O error: No space left on device (os error 28)"), OSError(28, "x")]
)
def test_a_full_disk_is_said_and_leaves_the_older_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    old = save(tmp_path, 1, Small(SmallConfig()))
    whole = checkpoint.save_file

    def fill_up(tensors: dict[str, Tensor], path: Path, **_: Any) -> None:
        if path.name == "optimizer.safetensors":
            path.write_bytes(b"half")
            raise error
        whole(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", fill_up)
    with pytest.raises(OSError) as caught:
        save(tmp_path, 2, Small(SmallConfig()))
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "checkpoints" / "step_00000002")
    assert steps(tmp_path) == [old.name]
    assert checkpoint.latest(tmp_path) == old


def test_what_a_killed_writer_left_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / "checkpoints" / ".step_00000001.partial"
    left.mkdir(parents=True)
    assert checkpoint.latest(tmp_path) is None
    save(tmp_path, 2, Small(SmallConfig()))
    assert steps(tmp_path) == ["step_00000002"]


SAVES_FOR_EVER = """
import sys
from pathlib import Path
import torch
from launch.checkpoint import Snapshot, save
for step in range(1, 10**6):
    tensors = {f"layer{n}": torch.full((256, 1024), float(step)) for n in range(8)}
    snapshot = Snapshot(model=tensors, ema=tensors, optimizer=tensors, config={"class": "Small"})
    save(Path(sys.argv[1]), step, snapshot, {"seconds": 0.0})
    print(step, flush=True)
"""


@pytest.mark.slow
def test_kill_9_while_saving_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """It is killed again and again, wherever it is with 24 MB."""
    chance, newest = random.Random(), 0
    for _ in range(4):
        command = [sys.executable, "-c", SAVES_FOR_EVER, str(tmp_path)]
        saving = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
        assert saving.stdout is not None
        for _ in range(2):
            newest = int(saving.stdout.readline())
        time.sleep(chance.uniform(0, 0.1))
        saving.kill()
        saving.communicate()
        path = checkpoint.latest(tmp_path)
        assert path is not None and int(path.name[5:]) >= newest
        for name in ("model", "ema", "optimizer"):
            tensors = checkpoint.read_tensors(path / f"{name}.safetensors")
            assert len(tensors) == 8
            assert all((t == int(path.name[5:])).all() for t in tensors.values())
    save(tmp_path, 10**6, Small(SmallConfig()))
    assert not list((tmp_path / "checkpoints").glob(".*"))
