"""Make a dataset of a LeRobot dataset: robot video with continuous actions, of format 2 (v2.0, v2.1) or 3 (v3.0).

    python -m launch.import_lerobot laptop --source ~/lerobot/pusht --out runs/pusht/data
    python -m launch.import_lerobot base --source ~/lerobot/aloha --camera observation.images.top --out runs/aloha/data

--source is the folder that holds meta/info.json, as a hub's download leaves it. Each action is brought to [-1, 1] by
its smallest and largest value in the dataset, which OUT/actions.json keeps. LeRobot's row t was chosen when frame t was
seen: here it comes with frame t + 1, as does next.reward. That an episode is over says nothing of its world: it may go
on. OUT/train and OUT/held_out are what the training commands read. Run again, it goes on with what is missing.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamics.actions import ActionSpace
from launch.command import main
from launch.import_clips import Content, Rows, chosen_to_led
from launch.importing import ImportConfig, import_recordings, presets
from launch.run_folder import write_json
from tokenizer.shard_format import DatasetMeta, read_json
from tokenizer.video import read_pictures


@dataclass(frozen=True, kw_only=True)
class ImportLeRobot(ImportConfig):
    source: Path
    """Folder of what is imported."""
    camera: str | None = None
    """Which of several cameras."""


@dataclass(frozen=True, kw_only=True)
class Episode:
    """A recording: rows of a parquet file, and frames of a video that may hold others too."""

    config: ImportLeRobot
    number: int
    frames: int
    video: Path
    first: int
    """Its first frame in the video, by the time at which it is shown."""
    rate: float
    """Frames a second of the dataset, which its videos keep about."""
    data: Path
    task: int
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @property
    def name(self) -> str:
        return f"episode {self.number}"

    @contextmanager
    def open(self) -> Iterator[Content]:
        read = read_pictures(self.video, self.config.size, self.config.fit, first=self.first, rate=self.rate)
        yield Content(self._rows(), self.frames, islice(read, self.frames))

    def clip(self, rows: Rows) -> dict[str, Any]:
        return {"task": self.task, **rows}

    def _rows(self) -> Rows:
        columns = read_columns(self.data, ("action", "next.reward"), self.number)
        scale = np.where(self.high > self.low, self.high - self.low, 1)
        rows = np.where(self.high > self.low, 2 * (columns["action"] - self.low) / scale - 1, 0).astype(np.float32)
        actions, labeled = chosen_to_led(np.clip(rows, -1, 1), np.ones(len(rows), np.bool_))
        found: Rows = {"actions": actions, "labeled": labeled}
        if "next.reward" in columns:
            found["rewards"] = np.concatenate([[0], columns["next.reward"][:-1]]).astype(np.float32)
        return found


def import_lerobot(config: ImportLeRobot) -> None:
    """Makes what is missing. Raises ValueError where the folder holds no LeRobot dataset that can be read."""
    if not (config.source / "meta/info.json").exists():
        raise ValueError(f"{config.source} has no meta/info.json: give --source the folder of a LeRobot dataset")
    info = read_json(config.source / "meta/info.json")
    version = str(info.get("codebase_version", "unknown"))
    if version[:2] not in ("v2", "v3"):
        raise ValueError(f"{config.source} is a LeRobot dataset of format {version}, have: v2.0, v2.1, v3.0")
    camera = _camera(config, info)
    rows = _episodes_of_2(config, info, camera) if version[:2] == "v2" else _episodes_of_3(config, info, camera)
    if not rows:
        raise ValueError(f"{config.source} has no episodes")
    tasks = tuple(dict.fromkeys(row["task"] for row in rows))
    actions = [read_columns(path, ("action",))["action"] for path in dict.fromkeys(row["data"] for row in rows)]
    low, high = (pick([pick(part, 0) for part in actions], 0).astype(np.float32) for pick in (np.min, np.max))
    names = _action_names(info, len(low))
    meta = DatasetMeta(
        environment=str(info.get("robot_type") or "lerobot"),
        frame_size=config.size,
        fps=float(info["fps"]),
        action_space=ActionSpace(continuous=names).to_json(),
        tasks=tasks,
    )
    episodes = [
        Episode(
            config=config,
            number=row["number"],
            frames=row["frames"],
            video=row["video"],
            first=row["first"],
            rate=float(info["fps"]),
            data=row["data"],
            task=tasks.index(row["task"]),
            low=low,
            high=high,
        )
        for row in rows
    ]
    files = sorted({path for row in rows for path in (row["video"], row["data"])})
    import_recordings(
        config,
        episodes,
        meta,
        sizes={str(path.relative_to(config.source)): path.stat().st_size for path in files},
    )
    bounds = {name: [float(one), float(other)] for name, one, other in zip(names, low, high, strict=True)}
    write_json(config.out / "actions.json", bounds)


def _camera(config: ImportLeRobot, info: Mapping[str, Any]) -> str:
    cameras: list[str] = sorted(name for name, feature in info["features"].items() if feature["dtype"] == "video")
    if config.camera is not None and config.camera in cameras:
        return config.camera
    if config.camera is not None or len(cameras) != 1:
        raise ValueError(
            f"camera={config.camera!r} is none of the videos of {config.source}, have: {', '.join(cameras) or 'none'}"
        )
    return cameras[0]


def _episodes_of_2(config: ImportLeRobot, info: Mapping[str, Any], camera: str) -> list[dict[str, Any]]:
    """One video and one parquet file each; a line of JSON for each in meta/episodes.jsonl."""
    found = []
    for line in (config.source / "meta/episodes.jsonl").read_text().splitlines():
        episode = json.loads(line)
        number = int(episode["episode_index"])
        place = {
            "episode_index": number,
            "episode_chunk": number // int(info["chunks_size"]),
            "video_key": camera,
        }
        found.append(
            {
                "number": number,
                "frames": int(episode["length"]),
                "task": _task(episode["tasks"]),
                "video": _inside(config.source, info["video_path"].format(**place)),
                "data": _inside(config.source, info["data_path"].format(**place)),
                "first": 0,
            }
        )
    return found


def _episodes_of_3(config: ImportLeRobot, info: Mapping[str, Any], camera: str) -> list[dict[str, Any]]:
    """Several episodes a file; where each lies is in parquet files under meta/episodes."""
    found = []
    for path in sorted((config.source / "meta/episodes").rglob("*.parquet")):
        for episode in _parquet().read_table(path).to_pylist():
            video = {name: episode[f"videos/{camera}/{name}"] for name in ("chunk_index", "file_index")}
            data = {name: episode[f"data/{name}"] for name in ("chunk_index", "file_index")}
            found.append(
                {
                    "number": int(episode["episode_index"]),
                    "frames": int(episode["length"]),
                    "task": _task(episode["tasks"]),
                    "video": _inside(config.source, info["video_path"].format(video_key=camera, **video)),
                    "data": _inside(config.source, info["data_path"].format(**data)),
                    "first": round(float(episode[f"videos/{camera}/from_timestamp"]) * float(info["fps"])),
                }
            )
    return sorted(found, key=lambda row: int(row["number"]))


def _task(tasks: Sequence[str]) -> str:
    return tasks[0] if tasks else "lerobot"


def _inside(folder: Path, name: str) -> Path:
    """A file that must be there, and in the dataset: names in it are not to be trusted."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{folder} names a file outside of it: {name}")
    if not path.exists():
        raise ValueError(f"{path} is missing: download the dataset again, with its videos")
    return path


def _action_names(info: Mapping[str, Any], count: int) -> tuple[str, ...]:
    names = info["features"]["action"].get("names")
    if isinstance(names, Mapping):  # as {"motors": [...]} or {"delta_x": 0, ...}
        names = [name for key, group in names.items() for name in (group if isinstance(group, list) else [key])]
    if not names or len(set(names)) != count:
        return tuple(f"action_{number}" for number in range(count))
    return tuple(map(str, names))


def read_columns(path: Path, names: Sequence[str], episode: int | None = None) -> dict[str, NDArray[np.float32]]:
    """Those columns of a parquet file that it has, of one of its episodes or of all: float32 [rows ...]."""
    parquet = _parquet()
    there = set(parquet.read_schema(path).names)
    wanted = [name for name in names if name in there]
    if "action" not in wanted:
        raise ValueError(f"{path} has no column 'action'")
    only = None if episode is None else [("episode_index", "=", episode)]
    table = parquet.read_table(path, columns=wanted, filters=only)
    found = {name: np.asarray(table[name].to_pylist(), np.float32) for name in wanted}
    found["action"] = found["action"].reshape(len(table), -1)  # one of one number is stored without its list
    return found


def _parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("LeRobot's tables need pyarrow: pip install 'reverie[lerobot]'") from error
    return parquet


PRESETS = presets(ImportLeRobot(source=Path("lerobot"), out=Path("runs/laptop/data"), size=(64, 64)))

if __name__ == "__main__":
    main(PRESETS, import_lerobot, description=__doc__, processes="first")
