"""Make a dataset of video files: a folder of mp4, mkv, webm, avi or mov becomes shards, with actions where known.

    python -m launch.import_video laptop --source videos --out runs/mine/data
    python -m launch.import_video base --source robot --actions robot/space.json --out runs/robot/data

Beside NAME.mp4 may lie NAME.actions.npy, float [frames, a], and NAME.rewards.npy, float [frames]; a row of actions that
holds NaN is not known. --actions names the action space of all of them, a JSON file such as
{"continuous": ["steer", "gas"], "categorical": [["camera", 121]], "binary": ["jump"]}: continuous values lie in
[-1, 1], a categorical one is the number of its class. Video without actions needs none of this.

OUT/train and OUT/held_out are what the training commands read. Run again, it goes on with the shards that are missing.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dynamics.actions import ActionSpace
from launch.command import main
from launch.interrupt import Interrupts
from launch.run_folder import write_json
from launch.workers import Bar, Tell, carry_out
from tokenizer.shard_format import INDEX, DatasetMeta, read_json
from tokenizer.shard_writer import ShardWriter, finish_dataset, has_shard
from tokenizer.video import Fit, VideoInfo, probe_video, read_pictures

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")
UNKNOWN = ActionSpace(continuous=("action",))
"""What video without actions says of them: it goes with data of any other space."""


@dataclass(frozen=True, kw_only=True)
class ImportVideo:
    source: Path
    """Folder of video files, searched with the folders in it."""
    out: Path
    """Folder that gets `train` and `held_out`."""
    size: tuple[int, int]
    """Height and width of the frames."""
    fit: Fit = "crop"
    """How a frame comes to this size: what is over is cropped, what is missing padded in black, or all is stretched."""
    fps: float | None = None
    """Frames a second that are kept; all where not given."""
    clip_frames: int = 512
    """Frames of a clip: a longer video fills several."""
    shard_frames: int = 8192
    """Frames of a shard, about; a video is never split over two."""
    held_out: int = 1
    """Videos to judge models on, spread evenly over the folder."""
    actions: Path | None = None
    """JSON file of the action space; without it all video is without actions."""
    action_time: Literal["led_to", "chosen_at"] = "led_to"
    """Whether row t of the actions led to frame t, or was chosen when frame t was seen and led to frame t + 1."""
    environment: str = "video"
    """What the dataset says it shows."""
    tasks: tuple[str, ...] = ("video",)
    workers: int = 2
    """Processes that read; 0 reads in the command's own."""

    def __post_init__(self) -> None:
        for name in ("clip_frames", "shard_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}, needs at least 1")
        if self.held_out < 0 or self.workers < 0:
            raise ValueError(f"held_out={self.held_out} and workers={self.workers} must not be negative")
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"fps={self.fps} must be above 0")
        if self.fps is not None and self.actions is not None:
            raise ValueError("actions are of single frames: leave --fps out, or the frames between would lose theirs")


@dataclass(frozen=True, kw_only=True)
class VideoOrder:
    """One shard to make; goes to a worker process."""

    folder: Path
    number: int
    meta: DatasetMeta
    source: Path
    videos: tuple[str, ...]
    """Relative to the source."""
    config: ImportVideo

    @property
    def is_done(self) -> bool:
        return has_shard(self.folder, self.number)


def import_video(config: ImportVideo) -> None:
    """Makes what is missing. Raises ValueError where the folder holds a dataset of other settings or videos."""
    videos, unreadable = find_videos(config)
    for name, reason in unreadable.items():
        print(f"left out {name}: {reason}")
    fps = _common_fps(videos, config)
    chosen = set(np.linspace(0, len(videos) - 1, config.held_out + 2).round().astype(int)[1:-1].tolist())
    if config.held_out and (len(chosen) < config.held_out or len(videos) <= config.held_out):
        raise ValueError(f"held_out={config.held_out} of {len(videos)} videos leaves none to train on, or cannot be")
    parts = {
        "train": [name for place, name in enumerate(videos) if place not in chosen],
        "held_out": [name for place, name in enumerate(videos) if place in chosen],
    }
    orders = [
        order
        for part, names in parts.items()
        if names
        for order in _orders(config, config.out / part, names, videos, fps)
    ]
    _claim(config, videos)
    missing = [order for order in orders if not order.is_done]
    for order in missing:
        (order.folder / INDEX).unlink(missing_ok=True)
    total = sum(videos[name].frames for order in missing for name in order.videos)
    with Interrupts() as interrupts, Bar("frames", total) as bar:

        def tell(frames: int, said: str) -> None:
            if said:
                bar.say(said)
            bar.show(min(total, bar.done + frames), f"{(bar.done + frames) / bar.seconds:.0f} frames/s")

        carry_out(missing, make_shard, tell, processes=config.workers, stopped=lambda: bool(interrupts.received))
    for folder, meta in {order.folder: order.meta for order in orders}.items():
        if (folder / INDEX).exists():
            print(f"already done: {folder}")
            continue
        done = finish_dataset(folder, meta)
        print(f"{folder}: {done.num_samples} clips, {done.num_frames} frames, {done.num_bytes / 1e6:.0f} MB")


def find_videos(config: ImportVideo) -> tuple[dict[str, VideoInfo], dict[str, str]]:
    """What can be read, in the order of the names, and why the rest cannot."""
    if not config.source.is_dir():
        raise ValueError(f"{config.source} is no folder: give --source a folder of video files")
    found: dict[str, VideoInfo] = {}
    unreadable: dict[str, str] = {}
    for path in sorted(config.source.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        name = str(path.relative_to(config.source))
        try:
            found[name] = probe_video(path)
        except ValueError as error:
            unreadable[name] = str(error)
    if not found:
        tried = "".join(f"; {name}: {reason}" for name, reason in sorted(unreadable.items())[:1])
        raise ValueError(f"no video ({', '.join(SUFFIXES)}) that can be read in {config.source}{tried}")
    return found, unreadable


def make_shard(order: VideoOrder, tell: Tell) -> None:
    """Reads the videos of a shard one after another; what cannot be decoded is left out and said."""
    with ShardWriter(order.folder, order.number, order.meta) as shard:
        for name in order.videos:
            try:
                for clip in _clips(order, name):
                    shard.write(**clip)
                    tell(len(clip["frames"]), "")
            except ValueError as error:
                tell(0, f"left out {name}, or what was left of it: {error}")
        if not shard.samples:
            raise ValueError(
                f"none of {', '.join(order.videos)} can be read: take them out of {order.source} and "
                "import into a new --out"
            )


def _clips(order: VideoOrder, name: str) -> Iterator[dict[str, Any]]:
    """What the shard gets of a video, clip by clip: no more of it is in the memory at once."""
    config, path = order.config, order.source / name
    beside = _beside(order, path)
    if beside and config.fps is not None:
        raise ValueError(f"{path.stem}.{min(beside)}.npy is of single frames: leave --fps out, or take it away")
    info, start = probe_video(path), 0
    for what, rows in beside.items():
        if info.counted and len(rows) != info.frames:
            raise ValueError(f"{path.stem}.{what}.npy has {len(rows)} rows, and the video {info.frames} frames")
    for frames in _chunks(read_pictures(path, config.size, config.fit, config.fps), config.clip_frames):
        stop = start + len(frames)
        for what, rows in beside.items():
            if stop > len(rows):
                raise ValueError(f"{path.stem}.{what}.npy has {len(rows)} rows, and the video more frames")
        arrays = {what: rows[start:stop] for what, rows in beside.items()}
        key = f"{order.number:06d}-{order.videos.index(name):04d}-{start:08d}"
        yield {"key": key, "frames": frames, "start": start, "source": name, **arrays}
        start = stop
    for what, rows in beside.items():
        if len(rows) > start:
            raise ValueError(f"{path.stem}.{what}.npy has {len(rows)} rows, and the video {start} frames")


def _chunks(pictures: Iterator[NDArray[np.uint8]], size: int) -> Iterator[NDArray[np.uint8]]:
    """[t, 3, h, w] of up to so many frames."""
    held: list[NDArray[np.uint8]] = []
    for picture in pictures:
        held.append(picture.transpose(2, 0, 1))
        if len(held) == size:
            yield np.stack(held)
            held = []
    if held:
        yield np.stack(held)


def _beside(order: VideoOrder, path: Path) -> dict[str, NDArray[Any]]:
    """Actions, whether they are known, and rewards of every frame, as far as there are files of them."""
    found: dict[str, NDArray[Any]] = {}
    space = ActionSpace.from_json(order.meta.action_space)
    actions_path, rewards_path = (path.with_name(f"{path.stem}.{what}.npy") for what in ("actions", "rewards"))
    if order.config.actions is not None and actions_path.exists():
        rows = _load(actions_path, (space.size,))
        labeled: NDArray[np.bool_] = np.asarray(np.isfinite(rows).all(1))
        rows[~labeled] = 0
        try:
            space.check(rows[labeled])
        except ValueError as error:
            raise ValueError(f"{actions_path.name}: {error}") from error
        if order.config.action_time == "chosen_at":
            rows = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
            labeled = np.concatenate([np.zeros_like(labeled[:1]), labeled[:-1]])
        labeled[:1] = False  # nothing led to the first frame
        found |= {"actions": rows, "labeled": labeled}
    if rewards_path.exists():
        found["rewards"] = _load(rewards_path, ())
    return found


def _load(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is no npy file of numbers: {error}") from error
    if rows.shape[1:] != shape or rows.ndim != len(shape) + 1 or rows.dtype.kind not in "fiub":
        raise ValueError(f"{path} is {rows.dtype} {list(rows.shape)}, not numbers of {['frames', *shape]}")
    numbers: NDArray[np.float32] = rows.astype(np.float32)
    return numbers


def _common_fps(videos: dict[str, VideoInfo], config: ImportVideo) -> float:
    if config.fps is not None:
        slow = [name for name, info in videos.items() if info.fps < config.fps - 1e-3]
        if slow:
            raise ValueError(f"fps={config.fps} is more than {slow[0]} has, {videos[slow[0]].fps:g}: give fewer")
        return config.fps
    first = next(iter(videos))
    other = next((name for name, info in videos.items() if abs(info.fps - videos[first].fps) > 1e-2), None)
    if other is not None:
        raise ValueError(
            f"{first} has {videos[first].fps:g} frames a second and {other} {videos[other].fps:g}: say how many to "
            "keep with --fps"
        )
    return videos[first].fps


def _orders(
    config: ImportVideo, folder: Path, names: Sequence[str], videos: dict[str, VideoInfo], fps: float
) -> list[VideoOrder]:
    space = UNKNOWN if config.actions is None else ActionSpace.from_json(read_json(config.actions))
    meta = DatasetMeta(
        environment=config.environment,
        frame_size=config.size,
        fps=fps,
        action_space=space.to_json(),
        tasks=config.tasks,
    )
    groups: list[list[str]] = [[]]
    for name in names:
        if groups[-1] and sum(videos[one].frames for one in [*groups[-1], name]) > config.shard_frames:
            groups.append([])
        groups[-1].append(name)
    return [
        VideoOrder(folder=folder, number=number, meta=meta, source=config.source, videos=tuple(group), config=config)
        for number, group in enumerate(groups)
    ]


def _claim(config: ImportVideo, videos: dict[str, VideoInfo]) -> None:
    """Notes what is imported, so that no other settings or videos fill up the gaps."""
    settings = {name: str(value) for name, value in vars(config).items() if name not in ("out", "workers", "source")}
    settings["actions"] = "None" if config.actions is None else json.dumps(read_json(config.actions))
    mine: dict[str, dict[str, Any]] = {
        "settings": settings,
        "videos": {name: info.num_bytes for name, info in videos.items()},
    }
    path = config.out / "import.json"
    if not path.exists():
        write_json(path, mine)
        return
    before = json.loads(path.read_text())
    was, there = before["settings"], before["videos"]
    differing = [f"{name}={was.get(name)}" for name in settings if was.get(name) != settings[name]]
    if differing:
        raise ValueError(f"{config.out} was imported with {', '.join(differing)}: choose another --out")
    changed = sorted(name for name in there.keys() | videos if there.get(name) != mine["videos"].get(name))
    if changed:
        raise ValueError(
            f"{config.out} was imported from other videos ({changed[0]}{' and others' if changed[1:] else ''} changed, "
            "came or went): choose another --out"
        )


LAPTOP = ImportVideo(source=Path("videos"), out=Path("runs/laptop/data"), size=(64, 64))
PRESETS = {
    "debug": replace(LAPTOP, out=Path("runs/debug/data"), clip_frames=32, shard_frames=128, workers=0),
    "laptop": LAPTOP,
    "base": replace(LAPTOP, out=Path("runs/base/data"), size=(128, 128)),
    "dreamer4": replace(LAPTOP, out=Path("runs/dreamer4/data"), size=(384, 640), fit="pad"),
}

if __name__ == "__main__":
    main(PRESETS, import_video, description=__doc__, processes="first")
