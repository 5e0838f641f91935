"""What the training commands share: claim the run's folder, open the data, build the model, run the one loop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from accelerate import Accelerator
from torch import nn

from launch.compiling import compile_model
from launch.distributed import accelerated
from launch.loop import LoopConfig, train
from launch.run_folder import claimed
from tokenizer.shards import Dataset
from tokenizer.stream import ClipStream, PairedStream, StreamConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every training command is told, beside its model."""

    run: Path
    """Folder of this run; the same command goes on where it stopped."""
    data: Path
    """Folder of the training shards."""
    batch_size: int
    """Clips of a step, on each process."""
    length: int
    """Frames of a clip."""
    num_workers: int = 0
    """Processes that read the data; 0 reads in the training process."""
    evaluate_every: int = 0
    """Steps between evaluations; 0 evaluates at the end only."""
    loop: Annotated[LoopConfig, tyro.conf.arg(name="")] = LoopConfig()


Evaluate = Callable[[nn.Module, int], Mapping[str, float]]


def run_training(
    config: TrainConfig,
    build: Callable[[Dataset], nn.Module],
    *,
    kind: str,
    relevant: Callable[[Dataset], Dataset] | None = None,
    evaluate: Evaluate | None = None,
) -> None:
    """Trains what `build` makes for the dataset; `kind` is what the data must hold ("frames" or "latents").

    With `relevant` the second half of each batch comes from the part of the dataset that it selects.
    """
    with (
        accelerated(config.loop.precision, config.run, config.loop.tracker) as accelerator,
        claimed(config.run, config, main_process=accelerator.is_main_process),
    ):
        dataset = open_dataset(config.data, kind)
        torch.manual_seed(config.loop.seed)  # the initial weights
        model = build(dataset)
        if config.loop.compile:
            accelerator.print(compile_model(model.to(accelerator.device)))
        stream = open_stream(config, dataset, relevant, accelerator)
        if stream.num_too_short:
            accelerator.print(f"{stream.num_too_short} clips are shorter than {config.length} frames and are left out")
        train(
            model,
            stream,
            config.loop,
            config.run,
            accelerator=accelerator,
            evaluate=evaluate,
            evaluate_every=config.evaluate_every,
        )
        for key, reason in stream.corrupt.items():
            print(f"skipped corrupt sample {key}: {reason}")


def open_stream(
    config: TrainConfig,
    dataset: Dataset,
    relevant: Callable[[Dataset], Dataset] | None,
    accelerator: Accelerator,
) -> ClipStream | PairedStream:
    """This rank's batches."""
    rows = config.batch_size if relevant is None else config.batch_size // 2
    settings = StreamConfig(
        length=config.length, batch_size=rows, seed=config.loop.seed, num_workers=config.num_workers
    )
    place = accelerator.process_index, accelerator.num_processes
    uniform = ClipStream(dataset, settings, *place)
    return uniform if relevant is None else PairedStream(uniform, ClipStream(relevant(dataset), settings, *place))


def open_dataset(folder: Path, kind: str) -> Dataset:
    """The dataset, if it holds `kind` ("frames" or "latents")."""
    dataset = Dataset.open(folder)
    if dataset.meta.kind != kind:
        remedy = (
            "`python -m launch.encode_latents` turns frames into latents"
            if kind == "latents"
            else "give the folder of video shards that `python -m launch.collect` made"
        )
        raise ValueError(f"{folder} holds {dataset.meta.kind}, this command needs {kind}: {remedy}")
    return dataset
