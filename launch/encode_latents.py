"""Encode video shards into latent shards with a trained tokenizer or V, episode by episode as a stream would.

    python -m launch.encode_latents laptop
    accelerate launch --config_file launch/configs/ddp.yaml -m launch.encode_latents laptop

Any number of processes share the work: the workers of a command, the ranks of a launcher, on one machine or several
that see the same folder, or the command started twice. Each takes a shard that is not there and that no living process
has in hand; so the shards of a process that was killed go to the others, or to the same command run again.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from launch.command import main
from launch.distributed import cores, rank_and_world
from launch.encoding import EpisodeEncoder, FrozenTokenizer
from launch.interrupt import Interrupts
from launch.memory import fits
from launch.models import default_device
from launch.run_folder import claimed_as, held
from launch.training import open_dataset
from launch.workers import Bar, Tell, carry_out
from tokenizer.autoencoder import Tokenizer
from tokenizer.records import EpisodeClip
from tokenizer.shard_format import INDEX, CorruptSample, DatasetMeta, shard_name
from tokenizer.shard_writer import ShardWriter, finish_dataset, has_shard
from tokenizer.shards import Dataset, Sample
from tokenizer.vae import VAE

PARTS = ("train", "held_out")
FRAMES_READ = 256
"""Frames of an episode that are held at once, however long it is."""
LOCK, WHOLE = "lock", 0
"""A lock file in each folder: place 0 is that of claim and index, place k + 1 that of shard k."""
SECONDS_BETWEEN_LOOKS = 10.0
"""At what other processes have finished."""
REMEDY = "give a smaller --frames-at-once or fewer --workers; run again, it goes on with the shards that are missing"


@dataclass(frozen=True, kw_only=True)
class EncodeLatents:
    tokenizer: Path
    """Run folder of the tokenizer, or of a V (`launch.train_vae`)."""
    data: Path
    """Folder with `train` and `held_out` video shards."""
    out: Path
    """Folder that gets `train` and `held_out` latent shards."""
    workers: int | None = None
    """Processes that encode, on each rank; one on a GPU, elsewhere one for each core where not given. On a GPU
    several encode small frames faster, 2.5 times as fast by five, with the tokenizer in its memory for each."""
    frames_at_once: int | None = None
    """Frames of one pass; as many as keep the processor busy where not given, and fewer take less memory."""

    def __post_init__(self) -> None:
        for name in ("workers", "frames_at_once"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}, needs at least 1")


@dataclass(frozen=True, kw_only=True)
class ShardOrder:
    """One video shard to encode; goes to a worker process."""

    video: Dataset
    """Its samples alone."""
    folder: Path
    number: int
    meta: DatasetMeta
    tokenizer: Path
    frames_at_once: int | None

    @property
    def path(self) -> Path:
        return self.folder / shard_name(self.number)

    @property
    def num_frames(self) -> int:
        return self.video.num_frames

    @property
    def is_done(self) -> bool:
        return has_shard(self.folder, self.number)


def encode_latents(config: EncodeLatents) -> None:
    """Encodes what is missing, and returns once all of it is there. Raises ValueError where other latents are."""
    videos = {part: open_dataset(config.data / part, "frames") for part in PARTS}
    tokenizer = FrozenTokenizer.load(config.tokenizer, torch.device("cpu"), half=False)
    orders: list[ShardOrder] = []
    for part, video in videos.items():
        meta = tokenizer.encoded(video.meta)
        _claim(config.out / part, {"tokenizer": tokenizer.mark, "video": video.fingerprint()[:16]})
        orders += _orders(config, video, config.out / part, meta)
    missing = [order for order in orders if not order.is_done]
    rank, world_size = rank_and_world()
    for order in missing:
        _reopen(order)
    count = _Count(missing, shown=rank == 0)
    with Interrupts() as interrupts, count.bar:
        _encode_all(_in_turn(missing, rank, world_size), config.workers, count, interrupts)
    for part in PARTS:
        _finish(config.out / part, orders)
    count.bar.say(count.summary(config.out) if missing else f"already done: {config.out}")


def _orders(config: EncodeLatents, video: Dataset, folder: Path, meta: DatasetMeta) -> list[ShardOrder]:
    """One latent shard for each video shard."""
    samples: dict[str, list[Sample]] = {}
    for sample in video.samples:
        samples.setdefault(sample.shard.name, []).append(sample)
    return [
        ShardOrder(
            video=video.only(samples[shard]),
            folder=folder,
            number=number,
            meta=meta,
            tokenizer=config.tokenizer,
            frames_at_once=config.frames_at_once,
        )
        for number, shard in enumerate(sorted(samples))
    ]


def _claim(out: Path, made_of: dict[str, str]) -> None:
    """Raises ValueError where other videos were encoded, or by another tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    with held(out / LOCK, WHOLE, wait=True):
        before = claimed_as(out / "encode.json", made_of)
    for name, value in made_of.items():
        if before.get(name) != value:
            raise ValueError(
                f"{out} holds latents of {name} {before.get(name)}, this one is {value}: "
                f"delete {out} or name another --out"
            )


def _in_turn(orders: Sequence[ShardOrder], rank: int, world_size: int) -> list[ShardOrder]:
    """A rank's own share first; then those of the others, from the end, in case they are slower or gone."""
    mine = orders[rank::world_size]
    return [*mine, *reversed([order for place, order in enumerate(orders) if place % world_size != rank])]


def _encode_all(orders: Sequence[ShardOrder], workers: int | None, count: "_Count", interrupts: Interrupts) -> None:
    """Returns when every shard is there, whoever wrote it."""
    processes = min(workers or _default_workers(), max(1, len(orders)))
    threads = max(1, cores() // processes)
    if processes == 1:
        torch.set_num_threads(threads)
        processes = 0
    missing = orders
    while missing:
        carry_out(
            missing,
            encode_shard,
            count.tell,
            processes=processes,
            threads=threads,
            stopped=lambda: bool(interrupts.received),
        )
        missing = [order for order in missing if not order.is_done]
        if missing:
            processes = 0  # a few, which a living process has in hand: they come to this one only where that one dies
            count.wait(missing)


def _default_workers() -> int:
    """One on a GPU; elsewhere one thread each, for the threads of one process wait for each other in every layer."""
    return cores() if default_device().type == "cpu" else 1


def encode_shard(order: ShardOrder, tell: Tell) -> None:
    """Encodes a shard, unless another process does so or did; tells its frames as they are done."""
    with held(order.folder / LOCK, order.number + 1) as mine:
        if not mine or order.is_done:
            return
        tokenizer = _tokenizer(order.tokenizer, order.meta.tokenizer)
        with ShardWriter(order.folder, order.number, order.meta) as writer:
            for index in range(len(order.video)):
                try:
                    writer.write(**_encode_sample(tokenizer, order, index, tell))
                except CorruptSample as error:
                    tell(order.path, 0, f"skipped: {error}")
            if not writer.samples:
                shard = order.video.samples[0].shard
                raise ValueError(f"every sample of {shard.place}/{shard} is corrupt: copy it again, or collect it anew")


@lru_cache(maxsize=1)
def _tokenizer(run: Path, mark: str) -> Tokenizer | VAE:
    """One for all shards of a process."""
    tokenizer = FrozenTokenizer.load(run, default_device())
    if tokenizer.mark != mark:
        raise ValueError(f"{run} was trained on while its latents were encoded: delete them, and run this again after")
    return tokenizer.model


def _encode_sample(tokenizer: Tokenizer | VAE, order: ShardOrder, index: int, tell: Tell) -> dict[str, Any]:
    """What goes into the latent shard; of a long episode only its latents, in 16 bits, are held as a whole."""
    sample, encoder = order.video.samples[index], EpisodeEncoder(tokenizer, order.frames_at_once)
    latents = np.empty((sample.length, *order.meta.item_shape), np.float16)
    others: dict[str, list[Tensor]] = {name: [] for name in ("actions", "labeled", "continues")}
    for start in range(0, sample.length, FRAMES_READ):
        clip = order.video.read_window(index, start, min(FRAMES_READ, sample.length - start))
        assert isinstance(clip, EpisodeClip)
        with fits(f"{encoder.at_once} frames of {sample.key} at once", REMEDY):
            latents[start : start + FRAMES_READ] = encoder(clip.frames.unsqueeze(0))[0].cpu().numpy()
        for name, pieces in others.items():
            pieces.append(getattr(clip, name))
        tell(order.path, clip.num_frames)
    whole = {name: torch.cat(pieces).numpy() for name, pieces in others.items()}
    if not whole["labeled"].any():
        del whole["actions"], whole["labeled"]
    rewards = order.video.read_rewards(index)
    return {
        "key": sample.key,
        "latents": latents,
        "rewards": rewards,
        "task": sample.task,
        "start": sample.start,
        **whole,
    }


def _reopen(order: ShardOrder) -> None:
    """A finished dataset that lost a shard since is no longer finished."""
    with held(order.folder / LOCK, WHOLE, wait=True):
        if not order.is_done:
            (order.folder / INDEX).unlink(missing_ok=True)


def _finish(out: Path, orders: Sequence[ShardOrder]) -> None:
    """Writes the index, unless another process did; says what is missing."""
    meta = next(order.meta for order in orders if order.folder == out)
    with held(out / LOCK, WHOLE, wait=True):
        if not (out / INDEX).exists():
            finish_dataset(out, meta)
    Dataset.open(out)


class _Count:
    """Frames of the missing shards that are there by now, whoever encoded them, for the bar."""

    def __init__(self, orders: Sequence[ShardOrder], *, shown: bool) -> None:
        self._orders = list(orders)
        self._missing = {order.path: order for order in orders}
        self.bar = Bar("frames", sum(order.num_frames for order in orders), shown=shown)
        self._parts = Counter[Path]()
        """Frames of shards in hand."""
        self._done, self._look_at = 0, SECONDS_BETWEEN_LOOKS

    def tell(self, path: Path, frames: int, said: str = "") -> None:
        if said:
            print(said, flush=True)
        self._parts[path] += frames
        self._done += frames
        if self.bar.seconds >= self._look_at:
            self._look_at = self.bar.seconds + SECONDS_BETWEEN_LOOKS
            self._missing = {path: order for path, order in self._missing.items() if not order.is_done}
            left = sum(order.num_frames - self._parts[path] for path, order in self._missing.items())
            self._done = self.bar.total - left
        self.bar.show(self._done, f"{self._done / self.bar.seconds:.0f} frames/s")

    def wait(self, missing: Sequence[ShardOrder]) -> None:
        """Gives other processes time for what they have in hand."""
        self.bar.show(self._done, f"waiting for {len(missing)} shards that other processes encode")
        time.sleep(1)

    def summary(self, out: Path) -> str:
        frames, seconds = self.bar.total, self.bar.seconds
        return f"{out}: {len(self._orders)} shards, {frames} frames in {seconds:.0f} s, {frames / seconds:.0f} frames/s"


_SHARED: dict[str, dict[str, Any]] = {"debug": {"workers": 1}, "laptop": {}}
_PLAIN = ("carracing", "study", "study_large", "crafter", "base", "dreamer4")
SIZES = {**_SHARED, **{name: {} for name in _PLAIN}, "crafter_debug": _SHARED["debug"]}
VMC_SIZES = {**_SHARED, "take_cover": {}, "paper": {}}
PRESETS = {
    name: EncodeLatents(
        tokenizer=Path(f"runs/{name}/tokenizer"),
        data=Path(f"runs/{name}/data"),
        out=Path(f"runs/{name}/latents"),
        **sizes,
    )
    for name, sizes in SIZES.items()
} | {
    f"vmc_{name}": EncodeLatents(
        tokenizer=Path(f"runs/{name}/vmc/vae"),
        data=Path(f"runs/{name}/vmc/data"),
        out=Path(f"runs/{name}/vmc/latents"),
        **sizes,
    )
    for name, sizes in VMC_SIZES.items()
}

if __name__ == "__main__":
    main(PRESETS, encode_latents, description=__doc__)
