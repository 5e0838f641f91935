"""What the doctor says is what this process finds."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from launch import doctor
from launch.doctor import EXTRAS, Doctor, advice, examine


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "PRODUCT", 64)
        return examine()


def test_it_tells_what_is_here(
    found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: found)
    monkeypatch.setenv("COLUMNS", "300")
    doctor.doctor(Doctor(json=tmp_path / "found.json"))
    said = capsys.readouterr().out
    assert torch.__version__ in said and "h264 read and written" in said
    assert json.loads((tmp_path / "found.json").read_text()) == json.loads(json.dumps(found))
    assert found["processor"]["flops"]["bf16"] > 0 and found["memory_bytes"] > 1e9
    assert found["packages"]["torch"] == torch.__version__ and found["extras"].keys() == EXTRAS.keys()
    for name, extra in EXTRAS.items():
        assert (extra.install in said) != found["extras"][name]


def test_it_says_what_the_commands_would_use(found: dict[str, Any]) -> None:
    gpu = {"name": "Fine GPU", "memory_bytes": 80e9, "bf16": True}
    here = {**found, "compiler": "/usr/bin/c++", "bf16": True, "processor": {**found["processor"], "cores": 6}}
    (line,) = advice({**here, "gpus": []})
    assert "use the processor: 6 threads, bf16, layers compiled" in line
    (line,) = advice({**here, "gpus": [], "compiler": None})
    assert "layers not compiled" in line
    (line,) = advice({**here, "gpus": [], "bf16": False})
    assert "6 threads, fp32, since bf16 is only imitated here" in line
    one, all_of_them = advice({**here, "gpus": [gpu] * 4})
    assert (
        "use Fine GPU: bf16" in one and "--config_file launch/configs/ddp.yaml -m launch.train_dynamics" in all_of_them
    )
    (line,) = advice({**here, "gpus": [gpu], "bf16": False})
    assert "use Fine GPU: fp32" in line
