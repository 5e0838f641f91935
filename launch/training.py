"""What the training commands share: claim the run's folder, open the data, build the model, run the one loop."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated

import torch
import tyro
from accelerate import Accelerator
from torch import nn

from dynamics.mdn_rnn import MDNRNN
from dynamics.world_model import WorldModel
from launch import checkpoint
from launch.compiling import SLOWER, RecomputesLayers, checkpoint_activations, compile_model
from launch.curves import plot_training
from launch.distributed import accelerated, calculated_in, parallelism, say_once
from launch.encoding import EncodedStream, FrozenTokenizer
from launch.engines import spread_as_made
from launch.loop import LoopConfig, Stream, train
from launch.memory import check_size, fits
from launch.models import check_same_tokenizer, newest
from launch.run_folder import claimed
from launch.sharding import is_sharded
from launch.zero import complete_config, launcher_config
from tokenizer.records import EpisodeClip, LatentClip
from tokenizer.shards import Dataset
from tokenizer.storage import ShardCache
from tokenizer.stream import (
    AlternatingStream,
    AnyStream,
    Batch,
    ClipStream,
    PairedStream,
    StreamConfig,
    window_places,
    windows,
)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where data are read from."""

    data: tuple[str, ...]
    """Shards: a folder or its index.json, some shards by a brace pattern (data/shard-{000000..000007}.tar), or
    any of these at a URL (https://, s3:// and whatever else fsspec reads). Several are read as one."""
    weights: tuple[float, ...] = ()
    """How often a sample of each of several datasets is shown; without them by their numbers of samples."""
    cache: Path = Path("~/.cache/reverie")
    """Folder on this machine for shards from URLs; processes and runs may share it."""
    cache_gb: float = 50.0
    """Room in it: those shards stay that were used last."""

    def __post_init__(self) -> None:
        if self.cache_gb <= 0:
            raise ValueError(f"cache_gb={self.cache_gb} must be above 0")

    def open_data(self) -> Dataset:
        """The shards, wherever they are."""
        cache = ShardCache(folder=self.cache.expanduser(), max_bytes=round(self.cache_gb * 1e9))
        return Dataset.open(*self.data, weights=self.weights, cache=cache)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DataConfig):
    """What every training command is told, beside its model."""

    run: Path
    """Folder of this run; the same command goes on where it stopped."""
    batch_size: int
    """Clips of a step, on each process."""
    length: int
    """Frames of a clip."""
    long_length: int | None = None
    """Frames of a long clip; above the dynamics' attention window, so that contexts without a start frame are met."""
    long_share: float = 0.1
    """Share of the steps that learn from long clips."""
    long_batch_size: int | None = None
    """Clips of a long step, on each process; where not given so many that the frames are those of a short one."""
    labeled_share: float = 1.0
    """Share of the episodes whose actions are shown; the others are video without actions."""
    mix_shards: int | None = None
    """Shards whose samples are mixed at a time; where not given all, of shards at URLs 16."""
    init_from: Path | None = None
    """Run or exported folder whose weights this training begins with, as far as they fit: to other data or actions."""
    num_workers: int = 0
    """Processes that read the data; 0 reads in the training process."""
    evaluate_every: int = 0
    """Steps between evaluations; 0 evaluates at the end only."""
    loop: Annotated[LoopConfig, tyro.conf.arg(name="")] = LoopConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mix_shards is not None and self.mix_shards < 1:
            raise ValueError(f"mix_shards={self.mix_shards} must be at least 1")
        if self.long_length is not None and self.long_length <= self.length:
            raise ValueError(f"long_length={self.long_length} is not above length={self.length}")
        for name in ("long_share", "labeled_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is not in [0, 1]")
        if self.long_batch_size is not None and self.long_batch_size < 1:
            raise ValueError(f"long_batch_size={self.long_batch_size} must be at least 1")

    @property
    def joins_episodes(self) -> bool:
        """Whether a window that comes to an episode's end goes on with another (see `StreamConfig.joined`)."""
        return False

    @property
    def long_rows(self) -> int:
        """Clips of a long step."""
        assert self.long_length is not None
        return self.long_batch_size or max(1, self.batch_size * self.length // self.long_length)

    @property
    def clips(self) -> str:
        """Those of a step, in words."""
        short = f"{self.batch_size} clips x {self.length} frames"
        return short if self.long_length is None else f"{short} or {self.long_rows} x {self.long_length}"


@dataclass(frozen=True, kw_only=True)
class TrainOnLatents(TrainConfig):
    """`data` holds latent shards, or video shards that a frozen tokenizer encodes as they are read."""

    tokenizer: Path | None = None
    """Run folder of the tokenizer that encodes video shards; latent shards need none."""

    @property
    def encoder(self) -> str:
        """Where the latents come from, for an error about them."""
        return str(self.tokenizer or " + ".join(self.data))


MIXED_FROM_AFAR = 16
"""Shards from URLs whose samples are mixed at a time, where nothing else is asked for."""
Evaluate = Callable[[nn.Module, int], Mapping[str, float]]


class Source:
    """A dataset as the model gets to see it: as it is stored, or encoded by a frozen tokenizer."""

    def __init__(self, dataset: Dataset, tokenizer: FrozenTokenizer | None = None) -> None:
        self.dataset, self.tokenizer = dataset, tokenizer
        self.meta = dataset.meta if tokenizer is None else tokenizer.encoded(dataset.meta)
        """Of video that is encoded what latent shards of it would say."""

    def windows(self, length: int, count: int) -> Batch:
        """As of `tokenizer.stream`, encoded one by one: all their pixels together may not fit into the memory."""
        check_size(count, length, frame_bytes(self.dataset), "the number of clips or --length")
        if self.tokenizer is None:
            return windows(self.dataset, length, count)
        return LatentClip.concatenate(
            [self._encoded(index, first, length) for index, first in window_places(self.dataset, length, count)]
        )

    def _encoded(self, index: int, first: int, length: int) -> LatentClip:
        clip = self.dataset.read_window(index, first, length)
        assert isinstance(clip, EpisodeClip) and self.tokenizer is not None
        return self.tokenizer.encode(EpisodeClip.stack([clip]))

    def stream(self, clips: AnyStream) -> Stream:
        return clips if self.tokenizer is None else EncodedStream(clips, self.tokenizer)


def run_training(
    config: TrainConfig,
    build: Callable[[Source], nn.Module],
    *,
    kind: str,
    tokenizer: Path | None = None,
    relevant: Callable[[Dataset], Dataset] | None = None,
    evaluate: Evaluate | None = None,
) -> None:
    """Trains what `build` makes for the data; `kind` is what the model learns from ("frames" or "latents").

    Video becomes latents by the `tokenizer` of that run. With `relevant` the second half of each batch comes from the
    part of the dataset that it selects.
    """
    with (
        accelerated(config.loop.precision, config.run, config.loop.tracker) as accelerator,
        claimed(config.run, config, main_process=accelerator.is_main_process),
    ):
        if parallelism() == "DeepSpeed":
            complete_config(
                launcher_config(accelerator),
                ranks=accelerator.num_processes,
                rows=config.batch_size,
                accumulate=config.loop.accumulate,
                grad_clip=config.loop.grad_clip,
                half=calculated_in(config.loop.precision) == "bf16",
            )
        source = open_source(config, kind, tokenizer, accelerator.device)
        model = _build(config, build, source, accelerator)
        stream = open_stream(config, source.dataset, relevant, accelerator)
        for length, count in stream.too_short.items():
            if count:
                accelerator.print(f"{count} clips are shorter than {length} frames and are left out")
        with fits(f"a step of {config.clips}, with the model and its optimizer,", _remedy(config, model)):
            train(
                model,
                source.stream(stream),
                config.loop,
                config.run,
                accelerator=accelerator,
                evaluate=evaluate,
                evaluate_every=config.evaluate_every,
            )
        if evaluate is not None and accelerator.is_main_process:
            plot_training(config.run / "curves.png", [config.run])
        for key, reason in stream.corrupt.items():
            print(f"skipped corrupt sample {key}: {reason}")


def _build(
    config: TrainConfig, build: Callable[[Source], nn.Module], source: Source, accelerator: Accelerator
) -> nn.Module:
    torch.manual_seed(config.loop.seed)  # the initial weights
    with fits("the model", "choose smaller sizes for --model"):
        with spread_as_made(accelerator):
            model = build(source)
        if config.init_from is not None and checkpoint.latest(config.run) is None:
            _begin_with(model, config.init_from)
        if config.loop.activation_checkpointing:
            checkpoint_activations(model)
        if config.loop.compile and any(map(is_sharded, model.parameters())):
            say_once(f"DeepSpeed's ZeRO stage 3 would compile each layer anew in each step: {SLOWER}")
        elif config.loop.compile:
            if parallelism() != "FSDP":  # which brings it there layer by layer
                model.to(accelerator.device)
            say_once(compile_model(model))
            if source.tokenizer is not None:
                say_once(compile_model(source.tokenizer.model))
    return model


def _begin_with(model: nn.Module, run: Path) -> None:
    path = newest(run, type(model).__name__)
    if isinstance(model, WorldModel | MDNRNN):
        known = checkpoint.load_config(path, type(model.config)).tokenizer
        check_same_tokenizer(known, model.config.tokenizer, model=run, other="the data")
    fresh = checkpoint.load_matching(model, path)
    say_once(f"begins with the weights of {run}" + (f"; new are {', '.join(fresh)}" if fresh else ""))


def _remedy(config: TrainConfig, model: nn.Module) -> str:
    """What takes less memory, and that nothing is lost."""
    options = ["--batch-size", "--length", *(["--long-batch-size", "--long-length"] if config.long_length else [])]
    if config.num_workers:
        options.append("--num-workers")
    recompute = isinstance(model, RecomputesLayers) and not config.loop.activation_checkpointing
    return (
        f"lower {' or '.join(options)}{', or give --activation-checkpointing' if recompute else ''}. "
        "A run that came to a checkpoint goes on from it"
    )


def open_source(config: TrainConfig, kind: str, tokenizer: Path | None, device: torch.device) -> Source:
    """The data of a training, with the tokenizer of a run on the device where it is to encode them."""
    dataset = config.open_data()
    if tokenizer is None:
        return Source(of_kind(dataset, kind))
    if dataset.meta.kind != "frames":
        raise ValueError(
            f"{dataset.name} holds {dataset.meta.kind}, and --tokenizer {tokenizer} encodes frames: "
            "leave --tokenizer out, or give the folder of the video shards"
        )
    return Source(dataset, FrozenTokenizer.load(tokenizer, device, half=calculated_in(config.loop.precision) == "bf16"))


def open_stream(
    config: TrainConfig,
    dataset: Dataset,
    relevant: Callable[[Dataset], Dataset] | None,
    accelerator: Accelerator,
) -> AnyStream:
    """This rank's batches."""
    place = accelerator.process_index, accelerator.num_processes
    chosen = None if relevant is None else relevant(dataset)

    def clips(length: int, rows: int) -> ClipStream | PairedStream:
        check_size(rows, length, frame_bytes(dataset), "--batch-size or --length")
        settings = StreamConfig(
            length=length,
            batch_size=rows if chosen is None else max(1, rows // 2),
            seed=config.loop.seed,
            num_workers=config.num_workers,
            labeled_share=config.labeled_share,
            mix_shards=shards_mixed(config, dataset),
            joined=config.joins_episodes,
        )
        uniform = ClipStream(dataset, settings, *place)
        return uniform if chosen is None else PairedStream(uniform, ClipStream(chosen, settings, *place))

    short = clips(config.length, config.batch_size)
    if config.long_length is None:
        return short
    long = clips(config.long_length, config.long_rows)
    return AlternatingStream(short, long, long_share=config.long_share, seed=config.loop.seed)


def frame_bytes(dataset: Dataset) -> int:
    """Of a frame in memory: 8-bit pixels, or latents in 32 bits."""
    return prod(dataset.meta.item_shape) * (1 if dataset.meta.kind == "frames" else 4)


def shards_mixed(config: TrainConfig, dataset: Dataset) -> int | None:
    """How many at a time; None are all. Raises ValueError where the cache would lose those still to be read."""
    remote = {sample.shard for sample in dataset.samples if sample.shard.place.remote}
    if not remote:
        return config.mix_shards
    mixed = min(config.mix_shards or MIXED_FROM_AFAR, len({sample.shard for sample in dataset.samples}))
    largest = max(shard.num_bytes for shard in remote)
    # Those that are mixed and those that come next, of each dataset with weights and of each kind of clips.
    orders = (len(config.weights) or 1) * (2 if config.long_length else 1)
    ahead = min(2 * mixed * orders, len(remote))
    if ahead * largest > config.cache_gb * 1e9:
        raise ValueError(
            f"cache_gb={config.cache_gb} holds fewer than {ahead} shards of up to {largest / 1e9:.3g} GB, and so many "
            f"are needed to mix {mixed} at a time: give --cache-gb {math.ceil(ahead * largest / 1e8) / 10} or more, or "
            "a smaller --mix-shards"
        )
    return mixed


def open_dataset(folder: Path, kind: str) -> Dataset:
    """The dataset in a folder, if it holds `kind` ("frames" or "latents")."""
    return of_kind(Dataset.open(folder), kind)


def of_kind(dataset: Dataset, kind: str) -> Dataset:
    """The dataset, if it holds `kind` ("frames" or "latents")."""
    if dataset.meta.kind != kind:
        remedy = (
            "`python -m launch.encode_latents` turns frames into latents, or --tokenizer RUN does as they are read"
            if kind == "latents"
            else "give the folder of video shards that `python -m launch.collect` made"
        )
        raise ValueError(f"{dataset.name} holds {dataset.meta.kind}, this command needs {kind}: {remedy}")
    return dataset
