"""Look at a dataset: how much there is, its actions and rewards, and a sheet of its frames; --verify checks every byte.

    python -m launch.inspect_data laptop --data runs/laptop/data/train --verify

Data are named as for the training commands: folders, some shards by braces, URLs; several are looked at as one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from dynamics.actions import ActionSpace
from launch.command import main
from launch.pictures import save_rows
from launch.run_folder import write_json
from launch.training import DataConfig
from launch.workers import Bar
from tokenizer.autoencoder import to_float
from tokenizer.records import EpisodeClip
from tokenizer.shard_format import CorruptSample
from tokenizer.shards import Dataset

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (after the backend is chosen)

BINS = 21
"""Of a continuous action's histogram."""
FRAMES_READ = 256
"""Of a clip at a time."""


@dataclass(frozen=True, kw_only=True)
class InspectData(DataConfig):
    out: Path
    """Folder that gets the sheet of frames, the histogram of actions and the numbers."""
    verify: bool = False
    """Read every sample and check its checksums, shapes and values, in place of some of them."""
    clips: int = 64
    """Samples that are read, spread evenly over the dataset, where not all are verified."""
    sheet: tuple[int, int] = (8, 8)
    """Rows and columns of the sheet: clips, and frames of each."""
    json: Path | None = None
    """Also write the numbers here."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clips < 1 or min(self.sheet) < 1:
            raise ValueError(f"clips={self.clips} and sheet={self.sheet} need at least 1")


@dataclass
class Seen:
    """What was read so far."""

    samples: int = 0
    frames: int = 0
    labeled: int = 0
    ends: int = 0
    rewards: list[NDArray[np.float32]] = field(default_factory=list)
    """Those that are not 0."""
    actions: list[NDArray[np.float32]] = field(default_factory=list)
    """Rows that are known."""
    corrupt: dict[str, str] = field(default_factory=dict)
    strange: dict[str, str] = field(default_factory=dict)
    """Samples whose bytes are those that were written, and whose rewards are no numbers."""


def inspect_data(config: InspectData) -> None:
    """Raises ValueError, after everything was said, where a sample is damaged."""
    dataset = config.open_data()
    chosen = range(len(dataset)) if config.verify else _spread(len(dataset), config.clips)
    seen = Seen()
    with Bar("samples", len(chosen)) as bar:
        for number, index in enumerate(chosen, start=1):
            _read(dataset, index, seen)
            bar.show(number, "")
    numbers = summarise(dataset, seen, verified=config.verify)
    show(dataset, numbers, seen)
    config.out.mkdir(parents=True, exist_ok=True)
    made = ["inspect_data.json"]
    if dataset.meta.kind == "frames":
        save_sheet(config.out / "sheet.png", dataset, config.sheet, seen)
        made.append("sheet.png")
    if seen.actions:
        plot_actions(config.out / "actions.png", ActionSpace.from_json(dataset.meta.action_space), seen)
        made.append("actions.png")
    for path in filter(None, (config.json, config.out / "inspect_data.json")):
        write_json(path, numbers)
    print(f"{', '.join(made)} in {config.out}")
    damaged = seen.corrupt | seen.strange
    if damaged:
        raise ValueError(
            f"{len(damaged)} of {seen.samples} samples are damaged, the first: {next(iter(damaged.values()))}. Copy "
            "their shards again, or make them anew; training leaves out those whose checksums or actions are wrong"
        )


def _spread(count: int, wanted: int) -> Sequence[int]:
    places: list[int] = np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(int)).tolist()
    return places


def _read(dataset: Dataset, index: int, seen: Seen) -> None:
    sample = dataset.samples[index]
    seen.samples += 1
    try:
        for start in range(0, sample.length, FRAMES_READ):
            clip = dataset.read_window(index, start, min(FRAMES_READ, sample.length - start))
            known = clip.actions[clip.labeled].numpy()
            rewards = clip.rewards.numpy()
            seen.frames += clip.num_frames
            seen.labeled += len(known)
            seen.ends += int((~clip.continues).sum())
            seen.actions.append(known)
            seen.rewards.append(rewards[rewards != 0])
            if not np.isfinite(rewards).all():
                raise ValueError("a reward is not finite")
    except CorruptSample as error:
        seen.corrupt[sample.key] = str(error)
    except ValueError as error:
        seen.strange[sample.key] = f"sample {sample.key!r} in {sample.shard}: {error}"


def summarise(dataset: Dataset, seen: Seen, *, verified: bool) -> dict[str, Any]:
    meta = dataset.meta
    shards = {sample.shard for sample in dataset.samples}
    lengths = np.array([sample.length for sample in dataset.samples])
    returns = np.array([sample.reward_sum for sample in dataset.samples])
    tasks = [meta.tasks[sample.task] for sample in dataset.samples]
    return {
        "name": dataset.name,
        "kind": meta.kind,
        "environment": meta.environment,
        "shards": len(shards),
        "bytes": sum(shard.num_bytes for shard in shards),
        "samples": len(dataset),
        "with_actions": sum(sample.has_actions for sample in dataset.samples),
        "frames": dataset.num_frames,
        "hours": dataset.num_frames / meta.fps / 3600,
        "fps": meta.fps,
        "frame_size": list(meta.frame_size),
        "item_shape": list(meta.item_shape),
        "action_space": meta.action_space,
        "tasks": {task: tasks.count(task) for task in meta.tasks},
        "length": {"shortest": int(lengths.min()), "median": float(np.median(lengths)), "longest": int(lengths.max())},
        "return": {"mean": float(returns.mean()), "std": float(returns.std()), "best": float(returns.max())},
        "read": {
            "all": verified,
            "samples": seen.samples,
            "frames": seen.frames,
            "labeled_share": seen.labeled / max(1, seen.frames),
            "ends": seen.ends,
            "rewards": int(sum(map(len, seen.rewards))),
            "corrupt": seen.corrupt,
            "strange": seen.strange,
        },
    }


def show(dataset: Dataset, numbers: dict[str, Any], seen: Seen) -> None:
    table = Table(title=numbers["name"], show_header=False)
    meta, read = dataset.meta, numbers["read"]
    height, width = meta.frame_size
    space = ActionSpace.from_json(meta.action_space)
    parts = [f"{name} in [-1, 1]" for name in space.continuous]
    parts += [f"{name} of {count}" for name, count in space.categorical] + [f"{name} or not" for name in space.binary]
    of = "all of them" if read["all"] else f"of {read['samples']} samples that were read"
    rows = {
        "environment": meta.environment,
        "what": f"{meta.kind}, {'x'.join(map(str, meta.item_shape))} a frame"
        + (f", of video {height}x{width}, tokenizer {meta.tokenizer}" if meta.tokenizer else ""),
        "size": f"{numbers['samples']} samples in {numbers['shards']} shards, {numbers['bytes'] / 1e6:,.1f} MB",
        "time": f"{numbers['frames']} frames, {numbers['hours']:.2f} hours at {meta.fps:g} a second",
        "samples' frames": "{shortest} to {longest}, median {median:g}".format(**numbers["length"]),
        "actions": ", ".join(parts),
        "labels": f"{numbers['with_actions']} samples; {read['labeled_share']:.1%} of the frames, {of}",
        "tasks": ", ".join(f"{task}: {count}" for task, count in numbers["tasks"].items()),
        "returns": "mean {mean:.1f}, std {std:.1f}, best {best:.1f}".format(**numbers["return"]),
        "rewards, ends": f"{read['rewards']} frames with a reward, {read['ends']} ends, {of}",
        "damaged": f"{len(seen.corrupt) + len(seen.strange)}, {of}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)
    for reason in (seen.corrupt | seen.strange).values():
        print(f"damaged: {reason}")


def save_sheet(path: Path, dataset: Dataset, size: tuple[int, int], seen: Seen) -> None:
    """Frames at equal distances of clips at equal distances."""
    rows = {}
    for index in _spread(len(dataset), size[0]):
        sample = dataset.samples[index]
        if sample.key in seen.corrupt:
            continue
        places = _spread(sample.length, size[1])
        try:
            clips = [dataset.read_window(index, place, 1) for place in places]
        except CorruptSample:
            continue
        frames = torch.cat([clip.frames for clip in clips if isinstance(clip, EpisodeClip)])
        missing = size[1] - len(frames)
        rows[sample.key[-16:]] = to_float(torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)]))
    if rows:
        save_rows(path, rows, height=64)


def plot_actions(path: Path, space: ActionSpace, seen: Seen) -> None:
    """How often each value of each part came."""
    rows = np.concatenate(seen.actions)
    figure, grid = pyplot.subplots(
        -(-space.size // 4),
        min(4, space.size),
        figsize=(3 * min(4, space.size), 2.2 * -(-space.size // 4)),
        squeeze=False,
    )
    for axes in grid.flat:
        axes.set_visible(False)
    low, high = space.bounds()
    for part, (name, axes) in enumerate(zip(space.names, grid.flat, strict=False)):
        axes.set_visible(True)
        if name in space.continuous:
            axes.hist(rows[:, part], bins=BINS, range=(-1, 1))
        else:
            values = np.arange(int(low[part]), int(high[part]) + 1)
            axes.bar(values, [(rows[:, part] == value).sum() for value in values])
        axes.set(title=name, yscale="log")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


PRESETS = {
    name: InspectData(data=(f"runs/{name}/data/train",), out=Path(f"runs/{name}/inspected"))
    for name in ("debug", "laptop", "carracing")
}

if __name__ == "__main__":
    main(PRESETS, inspect_data, description=__doc__, processes="first")
