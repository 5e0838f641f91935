"""An exported folder is the model, everywhere that a run's folder is; and a training may begin with one."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launch.export import Export, export
from launch.models import fingerprint, load_agent, load_tokenizer, load_world

Call = Callable[..., int]
Say = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("stage", "load"),
    [("tokenizer", load_tokenizer), ("dynamics", load_world), ("agent", load_agent), ("imagination", load_agent)],
)
def test_what_is_exported_loads_as_the_run_does(
    pipeline: Path, tmp_path: Path, stage: str, load: Callable[[Path], torch.nn.Module], capfd: Say
) -> None:
    out = tmp_path / stage
    for _ in range(2):  # also over itself
        export(Export(run=pipeline / stage, out=out))
    one, other = load(pipeline / stage).state_dict(), load(out).state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert {path.name for path in out.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: reverie\n") and re.search(r"for \d+ steps", card) and "loss" in card
    json.loads(card.partition("```json\n")[2].partition("```")[0])
    export(Export(run=out, out=tmp_path / "again"))  # an exported folder is a run's
    assert load_file(tmp_path / "again/model.safetensors").keys() == load_file(out / "model.safetensors").keys()


def test_the_commands_read_an_exported_folder(pipeline: Path, tmp_path: Path, call: Call) -> None:
    for stage in ("tokenizer", "dynamics"):
        export(Export(run=pipeline / stage, out=tmp_path / stage))
    assert fingerprint(load_tokenizer(tmp_path / "tokenizer")) == load_world(tmp_path / "dynamics").config.tokenizer
    options = ("--tokenizer", tmp_path / "tokenizer", "--dynamics", tmp_path / "dynamics")
    given = ("--run", tmp_path / "dream", "--held-out", pipeline / "data/held_out", *options)
    assert call("dream", "debug", *given) == 0


def test_a_folder_of_other_files_is_left_alone(pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("precious")
    with pytest.raises(ValueError, match="holds other files: name a new folder"):
        export(Export(run=pipeline / "tokenizer", out=tmp_path))
    with pytest.raises(ValueError, match="holds no checkpoint"):
        export(Export(run=tmp_path / "nothing", out=tmp_path / "out"))


def test_a_training_begins_with_the_weights_of_another(pipeline: Path, tmp_path: Path, call: Call, capfd: Say) -> None:
    options = ("--data", pipeline / "latents/train", "--learning-rate", 1e-12, "--warmup-steps", 0)
    run, given = tmp_path / "run", ("--init-from", pipeline / "dynamics", "--steps", 1, "--ema-decay", 0)
    assert call("train_dynamics", "debug", "--run", run, *options, *given) == 0
    assert f"begins with the weights of {pipeline}/dynamics\n" in capfd.readouterr().out
    one, other = load_world(pipeline / "dynamics").state_dict(), load_world(run).state_dict()
    for key in one:
        torch.testing.assert_close(one[key], other[key], atol=1e-6, rtol=1e-4)
    other_registers = ("--model.num-registers", 3)
    assert call("train_dynamics", "debug", "--run", tmp_path / "b", *options, *given, *other_registers) == 0
    assert "begins with the weights of " in (said := capfd.readouterr().out) and "; new are register_embed\n" in said
    wrong = ("--init-from", pipeline / "tokenizer", "--steps", 1)
    assert call("train_dynamics", "debug", "--run", tmp_path / "c", *options, *wrong) == 1
    assert "is the run of a Tokenizer, not of a WorldModel" in capfd.readouterr().err


def test_an_export_is_a_function_of_the_checkpoint(pipeline: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export(replace(Export(run=pipeline / "tokenizer", out=tmp_path), out=tmp_path / name))
    files = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert files[0] == files[1]
