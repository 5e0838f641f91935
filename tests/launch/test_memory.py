"""Memory that does not suffice is one sentence, at once; nothing is lost, and what the sentence says helps."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from agent.agent import Agent
from dynamics.simulator import Simulator
from dynamics.world_model import WorldModel
from launch import checkpoint, memory
from launch.memory import check_size, describe, fits, ran_out
from tokenizer.autoencoder import Encoder, Tokenizer
from tokenizer.records import LatentClip
from tokenizer.shards import Dataset

Call = Callable[..., int]
Say = pytest.CaptureFixture[str]
TOO_MUCH = 2**60
"""Bytes: more than a process can address, so that no system grants them."""
ON_A_GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total of 79 GiB.")
IN_A_READER = RuntimeError("Caught _ArrayMemoryError in DataLoader worker process 0.\nOriginal Traceback ...")
KILLED = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")


def raised_by(allocate: Callable[[], object]) -> Exception:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    return caught.value


def sentence(said: Say) -> str:
    text = said.readouterr().err
    assert "Traceback" not in text and text.count("error: ") == 1, text
    return text.partition("error: ")[2].partition("\n(in ")[0]


def full(*_: object, **__: object) -> Tensor:
    """Any function where memory runs out."""
    return torch.empty(TOO_MUCH, dtype=torch.uint8)


def test_an_error_of_memory_is_known_wherever_it_comes_from() -> None:
    of_torch = raised_by(lambda: torch.empty(TOO_MUCH, dtype=torch.uint8))
    of_numpy = raised_by(lambda: np.empty(TOO_MUCH, np.uint8))
    for error in (of_torch, of_numpy, ON_A_GPU, IN_A_READER, KILLED, MemoryError()):
        assert ran_out(error), error
    assert describe(of_torch) == f"out of memory ({TOO_MUCH} bytes more were asked for)"
    assert describe(of_numpy) == "out of memory (1.00 EiB more were asked for)"
    assert describe(ON_A_GPU) == "out of memory (20.00 GiB more were asked for)"
    assert describe(KILLED) == "out of memory (DataLoader worker (pid 7) is killed by signal: Killed.)"
    assert describe(MemoryError()) == "out of memory"
    for other in (RuntimeError("shapes do not match"), ValueError("out of memory"), KeyError("x")):
        assert not ran_out(other)


def test_what_did_not_fit_is_named_and_other_errors_stay_as_they_are() -> None:
    named = pytest.raises(ValueError, match=r"\(20.00 GiB more .*\): 8 clips did not fit; lower --batch-size")
    with named, fits("8 clips", "lower --batch-size"):
        raise ON_A_GPU
    with pytest.raises(RuntimeError, match="shapes"), fits("8 clips", "lower --batch-size"):
        raise RuntimeError("shapes do not match")


def test_clips_that_cannot_be_are_told_without_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "machine_memory", lambda: 10**9)
    check_size(10, 100, 10**6, "--batch")
    with pytest.raises(ValueError, match="11 clips x 100 frames take 1 GB, and this machine has 1 GB; lower --batch"):
        check_size(11, 100, 10**6, "--batch")


def test_the_machine_has_memory() -> None:
    assert 2**28 < memory.machine_memory() < 2**50


@pytest.mark.parametrize("option", ["--batch-size", "--long-batch-size", "--standardise-from"])
def test_a_batch_larger_than_the_machine_is_refused_before_the_first_clip_is_read(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say, option: str
) -> None:
    """The reader went through so many clips one by one, and filled the memory with them."""
    more = ("--long-length", 12) if option == "--long-batch-size" else ()
    options = ("--data", pipeline / "latents/train", "--run", tmp_path / "run", option, 10**12, *more)
    assert call("train_dynamics", "debug", *options) == 1
    said = sentence(capfd)
    assert f"out of memory: {10**12} clips x" in said and "GB, and this machine has" in said


def test_a_model_larger_than_the_machine_is_told_by_the_allocation_that_fails(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say
) -> None:
    options = ("--data", pipeline / "latents/train", "--run", tmp_path / "run")
    assert call("train_dynamics", "debug", *options, "--model.transformer.mlp-hidden", 2**49) == 1
    said = sentence(capfd)
    assert "bytes more were asked for): the model did not fit; choose smaller sizes for --model" in said
    assert call("train_dynamics", "debug", *options) == 0


def test_a_training_keeps_its_checkpoint_and_goes_on_with_what_the_sentence_says(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("debug", "--data", pipeline / "latents/train", "--run", tmp_path / "run")
    forward, calls = WorldModel.forward, []

    def fill_up(model: WorldModel, batch: object, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        calls.append(batch)
        if len(calls) == 4:
            full()
        return forward(model, batch, generator)  # type: ignore[arg-type]

    monkeypatch.setattr(WorldModel, "forward", fill_up)
    assert call("train_dynamics", *options) == 1
    said = sentence(capfd)
    assert f"out of memory ({TOO_MUCH} bytes more were asked for): a step of 4 clips x 8 frames" in said
    assert "lower --batch-size or --length, or give --activation-checkpointing" in said
    assert "A run that came to a checkpoint goes on from it" in said
    path = checkpoint.latest(tmp_path / "run")
    assert path is not None and path.name == "step_00000002"
    monkeypatch.undo()
    assert call("train_dynamics", *options, "--batch-size", 2, "--activation-checkpointing") == 0
    said = capfd.readouterr().out
    assert "resuming at step 3" in said and "batch_size 4 -> 2" in said


def test_options_that_a_training_does_not_have_are_not_recommended(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Simulator, "reset", full)
    options = ("--data", pipeline / "latents/train", "--agent", pipeline / "agent", "--run", tmp_path / "run")
    assert call("train_imagination", "debug", *options, "--long-length", 8) == 1
    said = sentence(capfd)
    assert "a step of 2 clips x 4 frames or 1 x 8" in said and "--activation-checkpointing" not in said
    assert "lower --batch-size or --length or --long-batch-size or --long-length" in said


def test_held_out_clips_that_do_not_fit_are_told_as_such(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = Tokenizer.decode

    def fill_up(model: Tokenizer, latents: Tensor, images: int = 0) -> Tensor:
        return decode(model, latents, images) if model.training else full()

    monkeypatch.setattr(Tokenizer, "decode", fill_up)
    data = ("--data", pipeline / "data/train", "--held-out", pipeline / "data/held_out", "--run", tmp_path / "run")
    assert call("train_tokenizer", "debug", *data) == 1
    assert "2 held-out clips x 4 frames did not fit; lower --held-out-clips" in sentence(capfd)


def test_shards_that_are_encoded_stay_and_fewer_frames_at_once_encode_the_others_alike(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = ("--data", pipeline / "data", "--tokenizer", pipeline / "tokenizer", "--out", tmp_path / "latents")
    step, seen = Encoder.step, []

    def fill_up(encoder: Encoder, frames: Tensor, cache: object) -> tuple[Tensor, object]:
        seen.append(frames.shape[1])
        if len(seen) == 6:
            full()
        return step(encoder, frames, cache)  # type: ignore[arg-type]

    monkeypatch.setattr(Encoder, "step", fill_up)
    assert call("encode_latents", "debug", *folders) == 1
    said = sentence(capfd)
    assert "32 frames of" in said and "give a smaller --frames-at-once or fewer --workers" in said
    assert [path.name for path in (tmp_path / "latents").rglob("*.tar")] == ["shard-000000.tar"]
    assert call("encode_latents", "debug", *folders, "--frames-at-once", 7) == 0
    assert max(seen[6:]) == 7
    encoded = [Dataset.open(run / "latents/train") for run in (tmp_path, pipeline)]
    for index in range(4):
        found, expected = (dataset.read_window(index, 0, 41) for dataset in encoded)
        assert isinstance(found, LatentClip) and isinstance(expected, LatentClip)
        torch.testing.assert_close(found.latents, expected.latents, atol=0.02, rtol=0)  # 16-bit sums


@pytest.mark.parametrize(("command", "remedy"), [("dream", "lower --starts"), ("evaluate_world", "lower --batch")])
def test_dreams_that_do_not_fit_are_told_and_leave_no_numbers(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch, command: str, remedy: str
) -> None:
    folders = {"held-out": "data/held_out", "tokenizer": "tokenizer", "dynamics": "dynamics"}
    given = [text for name, folder in folders.items() for text in (f"--{name}", pipeline / folder)]
    arguments = ("debug", "--run", tmp_path / "run", *given)
    monkeypatch.setattr(Simulator, "dream", full)
    assert call(command, *arguments) == 1
    said = sentence(capfd)
    assert "dreams of " in said and " frames" in said and remedy in said
    assert not list(tmp_path.rglob("*.json"))
    assert call(command, *arguments, "--starts" if command == "dream" else "--drift-frames", 10**12) == 1
    assert f"{10**12} " in sentence(capfd)


def test_episodes_side_by_side_that_do_not_fit_are_told(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Agent, "tokens", full)
    folders = {"data": "data/train", "tokenizer": "tokenizer", "cloned": "agent", "imagined": "imagination"}
    given = [text for name, folder in folders.items() for text in (f"--{name}", pipeline / folder)]
    assert call("evaluate", "debug", "--run", tmp_path / "run", *given) == 1
    assert "1 episodes side by side did not fit; lower --num-envs; scores that are there are kept" in sentence(capfd)
    assert [path.name for path in (tmp_path / "run").rglob("*.json")] == ["random.json"]


def test_a_bench_says_which_sizes_do_not_fit(call: Call, capfd: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.bench.peak_rate", lambda device, dtype: 1e15)
    options = ("model", "debug", "--repeats", 1, "--rate-seconds", 0.0005)
    monkeypatch.setattr(Simulator, "dream", full)
    assert call("bench", *options, "--parts", "generation") == 1
    assert "1 worlds x 6 frames did not fit; give smaller --batches or --contexts" in sentence(capfd)
    monkeypatch.setattr(WorldModel, "forward", full)
    assert call("bench", *options, "--parts", "dynamics") == 1
    assert "a step of 4 clips x 8 frames did not fit; choose a smaller preset" in sentence(capfd)
