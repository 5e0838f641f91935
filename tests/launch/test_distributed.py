"""A device that only imitates bf16 is never used for it without a word."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from launch.distributed import has_bf16, make_accelerator, say_once
from launch.models import for_inference
from tests.builders import TOKENIZER
from tokenizer.autoencoder import Tokenizer

Call = Callable[..., int]
Say = pytest.CaptureFixture[str]


@pytest.fixture
def old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of compute capability 7: torch imitates bf16 there, and says so only if asked."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Old GPU")
    say_once.cache_clear()


@pytest.mark.usefixtures("old_gpu")
def test_a_training_in_bf16_names_the_precision_that_there_is(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say
) -> None:
    assert not has_bf16()
    run = tmp_path / "run"
    assert call("train_dynamics", "debug", "--data", pipeline / "latents/train", "--run", run) == 1
    assert "error: Old GPU cannot calculate in bf16: give --precision fp32" in capfd.readouterr().err
    assert not run.exists()


@pytest.mark.usefixtures("old_gpu")
def test_models_are_used_in_fp32_there_which_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Tokenizer, "to", lambda self, device: self)
    for device, dtype in [("cpu", torch.bfloat16), ("cuda", torch.float32), ("cuda", torch.float32)]:
        model = for_inference(Tokenizer(TOKENIZER), torch.device(device), compile=False)
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert capsys.readouterr().out.count("Old GPU cannot calculate in bf16: models run in fp32") == 1


def test_elsewhere_bf16_is_taken_and_nothing_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert make_accelerator("bf16", tmp_path).mixed_precision == "bf16"
    model = for_inference(Tokenizer(TOKENIZER), torch.device("cpu"), compile=False)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert has_bf16()


def test_what_is_said_once_is_said_by_the_first_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say_once.cache_clear()
    monkeypatch.setenv("RANK", "1")
    say_once("slower")
    say_once.cache_clear()
    monkeypatch.setenv("RANK", "0")
    for text in ("slower", "slower", "slow"):
        say_once(text)
    assert capsys.readouterr().out == "slower\nslow\n"
