"""How fast the stream delivers windows, beside plain webdataset decoding the same ones, and how long a training waits.

Axes: t frames, c h w one RGB frame.
"""

import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import webdataset
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from dynamics.world_model import WorldModel
from launch.compiling import compile_model
from launch.measuring import Conditions, wake
from launch.presets import Clips
from tokenizer.autoencoder import Tokenizer
from tokenizer.draws import Rows
from tokenizer.records import Clip
from tokenizer.shard_format import DatasetMeta
from tokenizer.shard_writer import ShardWriter, finish_dataset
from tokenizer.shards import Dataset
from tokenizer.stream import ClipStream, StreamConfig
from tokenizer.video import decode_video

WARM_BATCHES = 2


def write_moving_pictures(folder: Path, size: tuple[int, int], *, clips: int, frames: int, shards: int) -> Dataset:
    """A dataset of smooth pictures that move, uint8 arrays where they are small and h264 where they are not."""
    meta = DatasetMeta(
        environment="bench",
        frame_size=size,
        fps=20,
        action_space={"continuous": ["steering", "gas", "brake"], "categorical": [], "binary": []},
        tasks=("bench",),
    )
    rng, numbers = np.random.default_rng(0), np.array_split(np.arange(clips), shards)
    for shard, chosen in enumerate(numbers):
        with ShardWriter(folder, shard, meta) as writer:
            for number in chosen:
                actions = rng.uniform(-1, 1, (frames, 3)).astype(np.float32)
                writer.write(f"clip-{number:06d}", frames=_moving(rng, size, frames), actions=actions)
    finish_dataset(folder, meta)
    return Dataset.open(folder)


def _moving(rng: np.random.Generator, size: tuple[int, int], frames: int) -> NDArray[np.uint8]:
    """A coarse field of colours, enlarged, that drifts by a pixel or two a frame."""
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 8, 12)).astype(np.float32))
    wide = torch.nn.functional.interpolate(coarse, (size[0], size[1] + 2 * frames), mode="bilinear")[0]
    grain = torch.from_numpy(rng.normal(0, 4, tuple(wide.shape)).astype(np.float32))
    picture = (wide + grain).clamp(0, 255).byte().numpy()
    return np.stack([picture[:, :, 2 * t : 2 * t + size[1]] for t in range(frames)])


def measure_reading(dataset: Dataset, clips: Clips, *, workers: int, seconds: float, repeats: int) -> dict[str, Any]:
    """Windows a second of the stream and of plain webdataset, by turns, so that a slow spell falls on both."""
    config = StreamConfig(length=clips.frames, batch_size=clips.batch, num_workers=workers)
    readers: dict[str, Callable[[], Iterator[Any]]] = {
        "stream": lambda: iter(ClipStream(dataset, config)),
        "webdataset": lambda: plain_windows(dataset, clips, workers=workers),
    }
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(repeats):
        for name, reader in readers.items():
            rates[name].append(clips.batch * _batches_per_second(reader(), seconds))
    ratio = median(one / other for one, other in zip(rates["stream"], rates["webdataset"], strict=True))
    return {
        "frame_size": list(dataset.meta.frame_size),
        "window": clips.frames,
        "batch": clips.batch,
        "workers": workers,
        **{
            name: {"windows_per_s": median(found), "frames_per_s": clips.frames * median(found)}
            for name, found in rates.items()
        },
        "ratio": ratio,
    }


def _batches_per_second(batches: Iterator[Any], seconds: float) -> float:
    for _ in range(WARM_BATCHES):
        next(batches)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds or not count:
        next(batches)
        count += 1
    return count / (time.perf_counter() - began)


def plain_windows(dataset: Dataset, clips: Clips, *, workers: int) -> Iterator[Any]:
    """What a user of webdataset would write: shuffled samples, a random window decoded of each, and batches of them."""
    shards = sorted({str(Path(dataset.name) / sample.shard.name) for sample in dataset.samples})
    windows = webdataset.WebDataset(shards, shardshuffle=len(shards), empty_check=False).repeat().shuffle(8)
    pipeline = windows.map(_Window(clips.frames))
    yield from DataLoader(pipeline, batch_size=clips.batch, num_workers=min(workers, len(shards)))


class _Window:
    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        arrays = {name: _array(data) for name, data in sample.items() if name.endswith(".npy") and name != "frames.npy"}
        count = len(arrays["rewards.npy"])
        start = int(np.random.randint(count - self.length + 1))
        stop = start + self.length
        if "frames.mp4" in sample:
            frames = decode_video(sample["frames.mp4"], start, self.length)
        else:
            frames = _array(sample["frames.npy"])[start:stop].copy()
        return {"frames": frames, **{name: rows[start:stop] for name, rows in arrays.items()}}


def _array(data: bytes) -> NDArray[Any]:
    array: NDArray[Any] = np.lib.format.read_array(BytesIO(data), allow_pickle=False)
    return array


def measure_waiting(
    model: Tokenizer | WorldModel, batches: Iterator[Clip], conditions: Conditions, *, steps: int
) -> dict[str, float]:
    """Share of the training's steps (forward, backward and optimizer) that is spent waiting for the next batch."""
    accelerator = conditions.accelerator
    wake(model)
    if conditions.compile:
        print(compile_model(model), flush=True)
    wrapped, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True))
    waited, whole, frames = 0.0, 0.0, 0
    for step in range(WARM_BATCHES + steps):
        began = time.perf_counter()
        batch = next(batches).to(accelerator.device)
        came = time.perf_counter()
        loss, _ = wrapped(batch, Rows(0, step, 0, len(batch.task), accelerator.device))
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        if step >= WARM_BATCHES:
            waited += came - began
            whole += time.perf_counter() - began
            frames += batch.labeled.numel()
    return {"share": waited / whole, "frames_per_s": frames / whole, "step_s": whole / steps}
