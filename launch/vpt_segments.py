"""Segments of VPT's recordings: where they lie, of which session they are, and what an importer gets of them.

A segment is NAME.mp4 with NAME.jsonl beside it, where NAME is VERSION/PLAYER-SESSION-DATE-TIME: the recorder's version,
and a session of which each segment has up to five minutes.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from agent.envs.vpt_events import rarest
from agent.envs.vpt_lines import read_lines
from agent.envs.vpt_pointer import draw_pointer
from launch.import_clips import Content, Rows
from tokenizer.shard_format import read_json
from tokenizer.storage import Refused, copy_file, is_url, retried
from tokenizer.video import Edit, Fit, VideoInfo, probe_video, read_pictures

FPS = 20.0
SIZE = (360, 640)
SEGMENT_FRAMES = 6000
"""Of five minutes: what a segment is taken to have until it is there."""
FETCHED = "fetched-"
"""Begins the names of folders that hold a segment from elsewhere while it is read."""
ATTEMPTS, FIRST_WAIT = 6, 0.5

_NAME = re.compile(r"(?P<session>.+-[0-9a-f]+)-\d{8}-\d{6}")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A recording: two files in a folder, or behind a URL."""

    base: str
    """Folder or URL that its name is relative to."""
    name: str
    """Without suffix."""
    frames: int
    size: tuple[int, int]
    fit: Fit
    scratch: Path
    """Where it may lie while it is read."""

    @property
    def session(self) -> str:
        """Of player and session; a name of another form is a session of its own."""
        match = _NAME.fullmatch(PurePosixPath(self.name).name)
        return match["session"] if match else self.name

    @property
    def version(self) -> str:
        """Of the recorder: the name of the folder."""
        base = self.base if is_url(self.base) else Path(self.base).absolute()
        return PurePosixPath(f"{base}/{self.name}").parent.name

    @contextmanager
    def open(self) -> Iterator[Content]:
        with self._files() as folder:
            video, lines = (file_of(folder, self.name, suffix) for suffix in ("mp4", "jsonl"))
            info = probe_segment(video)
            reading = read_lines(_text(lines).split("\n"), info.frames, self.version)
            rows: Rows = {what: getattr(reading, what) for what in ("actions", "labeled", "events")}
            pictures = read_pictures(video, self.size, self.fit, edit=_with_pointer(reading.pointer))
            kept = len(reading.actions)
            yield Content(rows, kept, islice(pictures, kept), {"version": self.version, **reading.quality})

    def clip(self, rows: Rows) -> dict[str, Any]:
        """With the rewards of all tasks; its own is that of the rarest event."""
        others = {what: array for what, array in rows.items() if what != "events"}
        return {**others, "task": rarest(rows["events"]), "rewards": rows["events"].astype(np.float32)}

    def _files(self) -> AbstractContextManager[Path]:
        """The folder that its name is relative to, on this machine."""
        return self._fetched() if is_url(self.base) else nullcontext(Path(self.base))

    @contextmanager
    def _fetched(self) -> Iterator[Path]:
        """Raises ValueError where a file is missing or refused there, or cannot be had while the other one can; OSError
        where the server cannot be had."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(mkdtemp(prefix=FETCHED, dir=self.scratch))
        try:
            for suffix, other in (("jsonl", "mp4"), ("mp4", "jsonl")):
                url, path = self._url(suffix), folder / f"{self.name}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    retried(partial(copy_file, url, path), what=url, attempts=ATTEMPTS, wait=FIRST_WAIT)
                except FileNotFoundError as error:
                    raise ValueError(f"a file is missing: {url}") from error
                except Refused as error:
                    raise ValueError(f"a file is refused: {error}") from error
                except OSError as error:
                    if error.errno is not None or not self._is_given(other, folder):  # a full disk, or an outage
                        raise
                    raise ValueError(f"a file cannot be had, and its server gives the other: {error}") from error
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _url(self, suffix: str) -> str:
        return f"{self.base.rstrip('/')}/{self.name}.{suffix}"

    def _is_given(self, suffix: str, folder: Path) -> bool:
        """Whether the server gives this file now."""
        url = self._url(suffix)
        try:
            retried(partial(copy_file, url, folder / "tried"), what=url, attempts=1, wait=0)
        except OSError:
            return False
        return True


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise ValueError(f"a file cannot be read: {path}: {error.strerror}") from error


def probe_segment(video: Path) -> VideoInfo:
    """Raises ValueError where it is not as VPT's recorder makes them."""
    info = probe_video(video)
    if info.size != SIZE:
        raise ValueError(f"the size is another: {info.size[1]}x{info.size[0]}, not {SIZE[1]}x{SIZE[0]}")
    if abs(info.fps - FPS) > 0.1:
        raise ValueError(f"the frame rate is another: {info.fps:g} frames a second, not {FPS:g}")
    return info


def find_segments(
    indices: Sequence[Path], source: str | None, make: Callable[[str, str, int], Segment]
) -> tuple[list[Segment], dict[str, str]]:
    """Those of index files, or all of a folder, by name; and why others, which are on this machine, cannot be read.

    `make` is given base, name and number of frames. Without a source an index says where its files are.
    """
    found, unreadable = [], {}
    bases = _listed(indices, source) if indices else _in_folder(source)
    for name, base in sorted(bases.items()):
        try:
            frames = SEGMENT_FRAMES if is_url(base) else _probe_here(Path(base), name).frames
            found.append(make(base, name, frames))
        except ValueError as error:
            unreadable[name] = str(error)
    return found, unreadable


def file_of(folder: Path, name: str, suffix: str) -> Path:
    """Raises ValueError where it is missing."""
    path = folder / f"{name}.{suffix}"
    if not path.is_file():
        raise ValueError(f"a file is missing: {path}")
    return path


def _probe_here(folder: Path, name: str) -> VideoInfo:
    file_of(folder, name, "jsonl")
    return probe_segment(file_of(folder, name, "mp4"))


def _in_folder(source: str | None) -> dict[str, str]:
    if source is None or is_url(source):
        raise ValueError(f"source={source}: give --index files, or --source a folder of mp4 and jsonl files")
    folder = Path(source)
    if not folder.is_dir():
        raise ValueError(f"{source} is no folder: give --source a folder of mp4 and jsonl files")
    names = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.mp4")}
    if not names:
        raise ValueError(f"{source} holds no mp4 files")
    return dict.fromkeys(names, source)


def _listed(indices: Sequence[Path], source: str | None) -> dict[str, str]:
    """The base of each name; one that several index files list is one segment."""
    bases: dict[str, str] = {}
    for path in indices:
        index = read_json(path)
        names, base = index.get("relpaths"), source or index.get("basedir")
        if not isinstance(names, list) or not isinstance(base, str) or not all(isinstance(one, str) for one in names):
            raise ValueError(f'{path} is no index of VPT: it needs "basedir", a string, and "relpaths", a list of them')
        for name in names:
            place = PurePosixPath(name)
            if place.is_absolute() or ".." in place.parts or is_url(name):
                raise ValueError(f"{path} names a file outside of its base: {name}")
            bases[name.removesuffix(".mp4")] = base
    if not bases:
        raise ValueError(f"{', '.join(map(str, indices))} list no recordings")
    return bases


def _with_pointer(places: NDArray[np.float64]) -> Edit:
    shown: NDArray[np.bool_] = np.asarray(np.isfinite(places).all(1))

    def edit(number: int, frame: av.VideoFrame) -> av.VideoFrame:
        if number >= len(shown) or not shown[number]:
            return frame
        picture = np.ascontiguousarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
        draw_pointer(picture, places[number])
        return av.VideoFrame.from_ndarray(picture, format="rgb24")

    return edit
