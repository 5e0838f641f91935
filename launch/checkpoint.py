"""Checkpoints: folders of safetensors and JSON that appear whole or not at all.

    <run>/checkpoints/step_00000500/
        model.safetensors      parameters and buffers, 32-bit
        ema.safetensors        averaged parameters, where the run keeps an average
        config.json            the model's class and config
        optimizer.safetensors  "<parameter>.<state key>" of every optimizer
        state.json             step, stream, hyperparameters; written last, with the sizes of the others

Nothing is pickled, so loading a checkpoint never runs code.
"""

import errno
import json
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from launch import sharding
from launch.serial import from_json, to_json
from tokenizer.files import write_atomically
from tokenizer.shard_format import read_json

FORMAT_VERSION = 1
CARD = "README.md"
"""The model card of an exported checkpoint, which is written last."""
T = TypeVar("T")


class Snapshot(NamedTuple):
    """What a checkpoint holds beside the loop's state: whole tensors in this process's memory, by name."""

    model: Mapping[str, Tensor]
    ema: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    """ "<parameter>.<field>"."""
    config: Mapping[str, Any]
    """See `describe`."""
    groups: Sequence[Any] = ()
    """The optimizers' settings."""


class IncompleteCheckpoint(UserWarning):
    """A whole sentence for the user, who need not know where in the code it was noticed."""


def save(run: Path, step: int, snapshot: Snapshot, state: Mapping[str, Any], *, keep: int = 2) -> Path:
    """Writes a checkpoint and deletes all but the newest `keep` whole ones. Call it on the main process only."""
    folder = run / "checkpoints"
    target = folder / f"step_{step:08d}"
    partial = folder / f".{target.name}.partial"
    for stale in folder.glob(".*.partial"):
        shutil.rmtree(stale)
    try:
        partial.mkdir(parents=True)
        _write_tensors(partial / "model.safetensors", snapshot.model)
        if snapshot.ema:
            _write_tensors(partial / "ema.safetensors", snapshot.ema)
        _write_tensors(partial / "optimizer.safetensors", snapshot.optimizer)
        _write_json(partial / "config.json", snapshot.config)
        sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
        _write_json(partial / "state.json", {**state, "step": step, "files": sizes, "optimizers": snapshot.groups})
        _sync_folder(partial)
        if target.exists():  # a torn one: a whole one of this step would have been resumed from
            shutil.rmtree(target)
        os.rename(partial, target)
        _sync_folder(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise _explain(error, target) from error
    _prune(folder, keep)
    return target


def latest(run: Path) -> Path | None:
    """The newest whole checkpoint of a run; torn ones are skipped with a warning."""
    for path in sorted((run / "checkpoints").glob("step_*"), reverse=True):
        if is_whole(path):
            return path
        warnings.warn(f"checkpoint {path} is incomplete, looking for an older one", IncompleteCheckpoint, stacklevel=2)
    return None


def find(run: Path) -> Path | None:
    """The newest whole checkpoint of a run, or the folder itself if it was exported (`launch.export`)."""
    return run if is_exported(run) else latest(run)


def is_exported(path: Path) -> bool:
    """Whether a folder is one that `export` wrote."""
    needed = (CARD, "config.json", "model.safetensors")
    return all((path / name).exists() for name in needed) and "exported_from" in read_json(path / "config.json")


def is_whole(path: Path) -> bool:
    """Whether every file is there in its full size."""
    try:
        files = json.loads((path / "state.json").read_text())["files"]
        return all((path / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


def load_state(path: Path) -> dict[str, Any]:
    return read_json(path / "state.json")


def load_config(path: Path, kind: type[T]) -> T:
    """The config of the model in a checkpoint, as the dataclass `kind`."""
    description = read_json(path / "config.json")
    if description["format_version"] != FORMAT_VERSION:
        raise ValueError(f"{path} has format {description['format_version']}, this version reads {FORMAT_VERSION}")
    if description["config_class"] != kind.__name__:
        raise ValueError(
            f"{path} holds a {description['class']} made from {description['config_class']}, not from {kind.__name__}"
        )
    return from_json(kind, description["config"], where=f"config of {path}")


def load_into(model: nn.Module, path: Path, *, ema: bool = False, part: str = "") -> None:
    """Loads a checkpoint's weights, or their moving average, into a model of the same shape.

    `part` names a submodule of the model that was saved, when `model` is only that.
    """
    tensors = read_tensors(path / "model.safetensors")
    if ema:
        if not (path / "ema.safetensors").exists():
            raise ValueError(f"{path} has no moving average: its run had ema_decay=0")
        tensors |= read_tensors(path / "ema.safetensors")  # frozen parameters and buffers are in the model's file only
    if part:
        tensors = {key.removeprefix(f"{part}."): t for key, t in tensors.items() if key.startswith(f"{part}.")}
    expected = model.state_dict(keep_vars=True)
    for key in sorted(tensors.keys() | expected.keys()):
        found, wanted = _shape(tensors, key), _shape(expected, key)
        if found != wanted:
            raise ValueError(f"{path} does not fit {type(model).__name__}: {key!r} is {found} there and {wanted} here")
    for key, tensor in tensors.items():
        sharding.fill(expected[key], tensor)


def load_matching(model: nn.Module, path: Path) -> list[str]:
    """Loads what a checkpoint has of this model, averaged where it has averages; names what is left as it was made.

    Raises ValueError where nothing of it fits.
    """
    tensors = read_tensors(path / "model.safetensors")
    if (path / "ema.safetensors").exists():
        tensors |= read_tensors(path / "ema.safetensors")
    expected = model.state_dict(keep_vars=True)
    fitting = {key for key in expected if _shape(tensors, key) == _shape(expected, key)}
    if not fitting:
        raise ValueError(f"nothing in {path} fits {type(model).__name__}: no weight has the same name and shape")
    for key in fitting:
        sharding.fill(expected[key], tensors[key])
    return [key for key in expected if key not in fitting]


def export(path: Path, out: Path, card: str, exported_from: str) -> None:
    """Writes a checkpoint's weights, averaged where it has averages, its config and a model card: the card last."""
    tensors = read_tensors(path / "model.safetensors")
    if (path / "ema.safetensors").exists():
        tensors |= read_tensors(path / "ema.safetensors")
    out.mkdir(parents=True, exist_ok=True)
    (out / CARD).unlink(missing_ok=True)
    try:
        _write_tensors(out / "model.safetensors", tensors)
        _write_json(out / "config.json", {**read_json(path / "config.json"), "exported_from": exported_from})
        write_atomically(out / CARD, card.encode())
    except SafetensorError as error:
        raise _explain(error, out) from error


def read_optimizer(path: Path) -> dict[str, dict[str, Tensor]]:
    """What the optimizers kept: {parameter: {field: value}}."""
    kept: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_tensors(path / "optimizer.safetensors").items():
        name, _, field = key.rpartition(".")
        kept.setdefault(name, {})[field] = tensor
    return kept


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of a checkpoint. Raises ValueError where it is damaged."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged ({error}): delete {path.parent}, and the run goes on from an older checkpoint"
        ) from error


def describe(model: nn.Module) -> dict[str, Any]:
    """What config.json says of a model."""
    config = getattr(model, "config", None)
    return {
        "format_version": FORMAT_VERSION,
        "class": type(model).__name__,
        "config_class": type(config).__name__,
        "config": to_json(config),
    }


def _shape(tensors: Mapping[str, Tensor], key: str) -> str:
    return str(tuple(sharding.shape(tensors[key]))) if key in tensors else "missing"


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file(dict(tensors), path)
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _write_json(path: Path, value: Any) -> None:
    with path.open("w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Makes renames and new names in the folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _explain(error: OSError | SafetensorError, target: Path) -> OSError:
    """safetensors reports a full disk as an error of its own; callers see one kind."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror, str(target))
    if "No space left" in str(error) or "os error 28" in str(error):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
    return OSError(errno.EIO, str(error), str(target))


def _prune(folder: Path, keep: int) -> None:
    paths = sorted(folder.glob("step_*"), reverse=True)
    whole = [path for path in paths if is_whole(path)]
    for path in paths:
        if path not in whole[:keep]:
            shutil.rmtree(path)


def model_class(path: Path) -> str:
    """Name of the class that a checkpoint holds."""
    name: str = read_json(path / "config.json")["class"]
    return name
