"""A device that only imitates bf16 is never used for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from launch import distributed
from launch.distributed import calculated_in, has_bf16, make_accelerator, processor_flags
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


def processor(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(distributed, "processor_flags", lambda: frozenset(flags))


@pytest.mark.usefixtures("old_gpu")
def test_a_training_in_bf16_is_refused_there_in_words(pipeline: Path, tmp_path: Path, call: Call, capfd: Say) -> None:
    run, options = tmp_path / "run", ("debug", "--data", pipeline / "latents/train", "--precision", "bf16")
    assert call("train_dynamics", *options, "--run", run) == 1
    assert "error: Old GPU cannot calculate in bf16: give auto or fp32" in capfd.readouterr().err
    assert not run.exists()


@pytest.mark.usefixtures("old_gpu")
def test_models_are_trained_and_used_in_fp32_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_bf16() and calculated_in("auto") == "fp32"
    monkeypatch.setattr(Tokenizer, "to", lambda self, device: self)
    model = for_inference(Tokenizer(TOKENIZER), torch.device("cuda"), compile=False)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        (("avx2",), torch.float32),
        (("avx2", "avx512f"), torch.float32),
        (("avx512f", "avx512_bf16"), torch.bfloat16),
        (("asimd", "bf16"), torch.bfloat16),
    ],
)
def test_a_processor_calculates_in_bf16_where_it_multiplies_in_it(
    flags: tuple[str, ...],
    dtype: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processor(monkeypatch, *flags)
    half = dtype == torch.bfloat16
    assert make_accelerator("auto", tmp_path).mixed_precision == ("bf16" if half else "no")
    model = for_inference(Tokenizer(TOKENIZER), torch.device("cpu"), compile=False)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert calculated_in("fp32") == "fp32"
    if half:
        assert calculated_in("bf16") == "bf16"
    else:
        with pytest.raises(ValueError, match="this processor cannot calculate in bf16: give auto or fp32"):
            calculated_in("bf16")


def test_the_flags_of_this_processor_are_found() -> None:
    if not Path("/proc/cpuinfo").exists():
        pytest.skip("no /proc/cpuinfo")
    assert {"fpu", "asimd"} & processor_flags()
