"""The dataset format: a folder of WebDataset tars, a JSON sidecar for each, and an index that marks it complete.

shard-000000.tar    samples, one after another; a sample is a clip of one episode, and its members are
    KEY.frames.npy      uint8 [t, c, h, w]; or KEY.frames.mp4; or KEY.latents.npy float16/float32 [t, n, d]
    KEY.actions.npy     float32 [t, a], with KEY.labeled.npy bool [t]; both absent where no action is known
    KEY.rewards.npy     float32 [t]; or [t, k] of what each of the dataset's k tasks pays
    KEY.continues.npy   bool [t]
    KEY.meta.json       environment, task, fps, action space, source, length, start, extras
shard-000000.json   where each member lies in the tar, with its crc32; the tar's sha256
index.json          what the whole dataset is, and its shards
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

FORMAT = "reverie-clips"
VERSION = 1
INDEX = "index.json"
KINDS = ("frames", "latents")


class CorruptSample(Exception):
    """A sample whose bytes are not those that were written, or that holds what its dataset has no room for."""

    def __init__(self, key: str, shard: str, reason: str) -> None:
        super().__init__(key, shard, reason)
        self.key, self.shard, self.reason = key, shard, reason

    def __str__(self) -> str:
        return f"sample {self.key!r} in {self.shard}: {self.reason}"


ROUNDING = 1e-5
"""How far beyond its bounds a value may lie that was calculated."""


def action_bounds(space: Mapping[str, Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lowest and highest value of each entry of a row, of an `ActionSpace` as JSON."""
    classes = tuple(count for _, count in space["categorical"])
    return _bounds(len(space["continuous"]), classes, len(space["binary"]))


@cache
def _bounds(
    continuous: int, categorical: tuple[int, ...], binary: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    low = np.array([-1.0] * continuous + [0.0] * (len(categorical) + binary), dtype=np.float32)
    high = np.array([1.0] * continuous + [classes - 1 for classes in categorical] + [1] * binary, dtype=np.float32)
    for bounds in (low, high):
        bounds.flags.writeable = False  # they are the same two for all who ask
    return low, high


def check_actions(space: Mapping[str, Any], rows: NDArray[Any]) -> None:
    """Raises ValueError where a row [..., a] holds a value that the part has not, and says which."""
    low, high = action_bounds(space)
    whole = np.arange(len(low)) >= len(space["continuous"])
    bad = (
        ~(rows >= low - ROUNDING) | ~(rows <= high + ROUNDING) | whole & (rows != np.round(rows))
    )  # what is no number is neither
    if not bad.any():
        return
    where = tuple(np.argwhere(bad)[0])
    entry = where[-1]
    names = [*space["continuous"], *(name for name, _ in space["categorical"]), *space["binary"]]
    raise ValueError(
        f"action part {names[entry]!r} is {rows[where]}, allowed: {low[entry]:g} to {high[entry]:g}"
        + (", whole numbers" if whole[entry] else "")
    )


class Member(NamedTuple):
    """Where one file of a sample lies in its tar, in bytes."""

    offset: int
    size: int
    crc32: int


@dataclass(frozen=True, kw_only=True)
class SampleEntry:
    """What a sidecar says of one sample."""

    key: str
    length: int
    """Frames."""
    start: int
    """Number of the first frame in its episode."""
    task: int
    reward_sum: float
    """Of its task."""
    item_shape: tuple[int, ...]
    """Shape of one frame [c, h, w] or of one frame's latents [n, d]."""
    members: dict[str, Member]
    reward_sums: tuple[float, ...] = ()
    """Of each of the dataset's tasks, where the rewards are of all of them."""

    @property
    def has_actions(self) -> bool:
        """Whether any action is known; else it is video, of which no reward is known either."""
        return "actions.npy" in self.members

    @property
    def episode(self) -> str:
        """What its episode is called within its dataset, whether it was cut into clips or not."""
        return self.key.removesuffix(_from_frame(self.start))

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "members": {name: list(member) for name, member in self.members.items()}}

    @classmethod
    def from_json(cls, data: dict[str, Any], **more: Any) -> Self:
        """With `more` of what a subclass has beside it."""
        members = {name: Member(*member) for name, member in data["members"].items()}
        arrays = {name: tuple(data.get(name, ())) for name in ("item_shape", "reward_sums")}
        return cls(**{**data, **more, **arrays, "members": members})


@dataclass(frozen=True, kw_only=True)
class DatasetMeta:
    """What a dataset is. The writer gives the first part; `finish_dataset` fills in the second."""

    environment: str
    frame_size: tuple[int, int]
    """Height and width in pixels; in a latent dataset, of the frames that were encoded."""
    fps: float | int
    """Frames per second of the clips, after action repeat."""
    action_space: dict[str, Any]
    """An `ActionSpace` as JSON: "continuous" names, "categorical" (name, classes) pairs, "binary" names."""
    tasks: tuple[str, ...]
    action_repeat: int = 1
    kind: Literal["frames", "latents"] = "frames"
    tokenizer: str = ""
    """Fingerprint of the tokenizer that made the latents; empty for frames."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Anything else that JSON can carry."""

    item_shape: tuple[int, ...] = ()
    """Shape of one frame [c, h, w] or of one frame's latents [n, d]."""
    num_shards: int = 0
    num_samples: int = 0
    num_frames: int = 0
    num_bytes: int = 0
    return_mean: float = 0.0
    """Of the samples' reward sums."""
    return_std: float = 0.0
    return_best: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of dataset {self.kind!r}, have {KINDS}")
        if (self.kind == "latents") != bool(self.tokenizer):
            raise ValueError(f"latents name their tokenizer and frames have none: {self.kind=}, {self.tokenizer=}")
        if not self.tasks:
            raise ValueError("a dataset needs at least one task name")
        if self.fps <= 0 or self.action_repeat < 1 or min(self.frame_size) < 1:
            raise ValueError(f"not positive: {self.fps=}, {self.action_repeat=} or {self.frame_size=}")

    @property
    def action_size(self) -> int:
        """Length of an action row."""
        return sum(len(self.action_space[part]) for part in ("continuous", "categorical", "binary"))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "DatasetMeta":
        values = {f.name: data[f.name] for f in fields(cls)}
        for name in ("frame_size", "tasks", "item_shape"):
            values[name] = tuple(values[name])
        return cls(**values)


def of_task(rewards: NDArray[np.float32], task: int) -> NDArray[np.float32]:
    """What a task pays, [t], of rewards [t] or [t, k]."""
    return rewards[:, task] if rewards.ndim == 2 else rewards


SAMPLE_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
"""What a sample may be called: no name that a program which unpacks the tar would write elsewhere."""


def clip_key(episode: str, start: int) -> str:
    """What the clip of an episode is called that begins at this frame, where episodes are cut."""
    return episode + _from_frame(start)


def _from_frame(start: int) -> str:
    return f"-t{start:08d}"


def shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def sidecar_path(shard: Path) -> Path:
    return shard.with_suffix(".json")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ValueError names a file that holds none."""
    return parse_json(path.read_bytes(), str(path))


def parse_json(text: bytes, where: str) -> dict[str, Any]:
    """The JSON object that a file holds; ValueError names one that holds none."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON file: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{where} holds no JSON object")
    return data
