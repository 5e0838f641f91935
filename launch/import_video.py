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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dynamics.actions import ActionSpace
from launch.command import main
from launch.import_clips import Content, Rows, chosen_to_led
from launch.importing import ImportConfig, import_recordings, presets
from tokenizer.shard_format import DatasetMeta, read_json
from tokenizer.video import VideoInfo, probe_video, read_pictures

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")
UNKNOWN = ActionSpace(continuous=("action",))
"""What video without actions says of them: it goes with data of any other space."""


@dataclass(frozen=True, kw_only=True)
class ImportVideo(ImportConfig):
    source: Path
    """Folder of what is imported, searched with the folders in it."""
    fps: float | None = None
    """Frames a second that are kept; all where not given."""
    actions: Path | None = None
    """JSON file of the action space; without it all video is without actions."""
    action_time: Literal["led_to", "chosen_at"] = "led_to"
    """Whether row t of the actions led to frame t, or was chosen when frame t was seen and led to frame t + 1."""
    environment: str = "video"
    """What the dataset says it shows."""
    tasks: tuple[str, ...] = ("video",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"fps={self.fps} must be above 0")
        if self.fps is not None and self.actions is not None:
            raise ValueError("actions are of single frames: leave --fps out, or the frames between would lose theirs")


@dataclass(frozen=True, kw_only=True)
class VideoFile:
    """A recording: a file and those beside it."""

    config: ImportVideo
    name: str
    """Relative to the source."""
    frames: int
    space: ActionSpace

    @property
    def path(self) -> Path:
        return self.config.source / self.name

    @contextmanager
    def open(self) -> Iterator[Content]:
        """With what lies beside the video."""
        found = self._beside()
        if found and self.config.fps is not None:
            raise ValueError(f"{self.path.stem}.{min(found)}.npy is of single frames: leave --fps out, or take it away")
        info = probe_video(self.path)
        pictures = read_pictures(self.path, self.config.size, self.config.fit, self.config.fps)
        yield Content(found, info.frames if info.counted else None, pictures)

    def clip(self, rows: Rows) -> dict[str, Any]:
        return {**rows}

    def _beside(self) -> Rows:
        found: Rows = {}
        actions_path, rewards_path = (
            self.path.with_name(f"{self.path.stem}.{what}.npy") for what in ("actions", "rewards")
        )
        if self.config.actions is not None and actions_path.exists():
            rows = _load(actions_path, (self.space.size,))
            labeled: NDArray[np.bool_] = np.asarray(np.isfinite(rows).all(1))
            rows[~labeled] = 0
            try:
                self.space.check(rows[labeled])
            except ValueError as error:
                raise ValueError(f"{actions_path.name}: {error}") from error
            if self.config.action_time == "chosen_at":
                rows, labeled = chosen_to_led(rows, labeled)
            labeled[:1] = False  # nothing led to the first frame
            found |= {"actions": rows, "labeled": labeled}
        if rewards_path.exists():
            found["rewards"] = _load(rewards_path, ())
        return found


def import_video(config: ImportVideo) -> None:
    """Makes what is missing. Raises ValueError where the folder holds a dataset of other settings or videos."""
    videos, unreadable = find_videos(config)
    for name, reason in unreadable.items():
        print(f"left out {name}: {reason}")
    space = UNKNOWN if config.actions is None else ActionSpace.from_json(read_json(config.actions))
    meta = DatasetMeta(
        environment=config.environment,
        frame_size=config.size,
        fps=_common_fps(videos, config),
        action_space=space.to_json(),
        tasks=config.tasks,
    )
    import_recordings(
        config,
        [VideoFile(config=config, name=name, frames=info.frames, space=space) for name, info in videos.items()],
        meta,
        sizes={name: info.num_bytes for name, info in videos.items()},
        more={"actions": "None" if config.actions is None else json.dumps(read_json(config.actions))},
    )


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


PRESETS = presets(ImportVideo(source=Path("videos"), out=Path("runs/laptop/data"), size=(64, 64)))
PRESETS["minecraft"] = replace(
    PRESETS["dreamer4"],
    source=Path("runs/minecraft/video"),
    out=Path("runs/minecraft/data"),
    clip_frames=64,
    shard_frames=512,
    environment="Minecraft",
)

if __name__ == "__main__":
    main(PRESETS, import_video, description=__doc__, processes="first")
