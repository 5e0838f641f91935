"""mp4 <-> uint8 frames, by PyAV.

Axes: t frames, c h w one RGB frame.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from fractions import Fraction
from io import BytesIO, RawIOBase
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from tokenizer.files import write_atomically


def encode_video(frames: NDArray[np.uint8], fps: float | int, *, crf: int = 20, gop: int = 16) -> bytes:
    """Encodes uint8 RGB frames [t, 3, h, w] as an H.264 mp4 with a keyframe every `gop` frames.

    Raises ValueError where the frames are of another shape or type.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"a video needs uint8 frames [t, 3, h, w], got {frames.dtype} {list(frames.shape)}")
    buffer = BytesIO()
    with closing(Film(buffer, (frames.shape[2], frames.shape[3]), fps, crf=crf, gop=gop)) as film:
        for picture in frames:
            film.add(picture)
    return buffer.getvalue()


class Film:
    """An H.264 mp4 that is written frame by frame, of this size (h, w); whole once it is closed."""

    def __init__(
        self, target: Path | BytesIO, size: tuple[int, int], fps: float | int, *, crf: int = 18, gop: int = 16
    ) -> None:
        self._rate = Fraction(fps).limit_denominator(1001)
        # One thread: the bytes then do not depend on the machine, and collectors that run side by side use the other
        # cores. No B-frames: presentation order is decoding order, so that a seek lands on the keyframe before.
        options = {"crf": str(crf), "preset": "veryfast", "threads": "1", "bf": "0"}
        options |= {"g": str(gop), "keyint_min": str(gop)}
        self._container = av.open(target if isinstance(target, BytesIO) else str(target), "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=self._rate, options=options)
        self._stream.height, self._stream.width = size
        # 4:2:0 needs even sides
        self._stream.pix_fmt = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
        self.frames = 0

    def add(self, picture: NDArray[np.uint8]) -> None:
        """uint8 RGB [3, h, w]."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture.transpose(1, 2, 0)), format="rgb24")
        frame.pts, frame.time_base = self.frames, 1 / self._rate
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def close(self) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()


def decode_video(data: bytes | RawIOBase, start: int = 0, length: int | None = None) -> NDArray[np.uint8]:
    """Decodes frames [start, start + length) of a video file, or all from `start` on: uint8 RGB [t, 3, h, w].

    Of an open file only what the window needs is read: decoding begins at the keyframe before `start`. Raises
    ValueError where the bytes are no video or hold too few frames.
    """
    if start < 0 or (length is not None and length < 1):
        raise ValueError(f"no window of frames: start={start}, length={length}")
    try:
        with av.open(BytesIO(data) if isinstance(data, bytes) else data, "r") as container:
            if not container.streams.video:
                raise ValueError("the file holds no video")
            frames = _decode_from(container, start, length, seek=start > 0)
            if frames is None:  # the seek landed past the window, as it may in files with B-frames
                frames = _decode_from(container, start, length, seek=False)
    except av.FFmpegError as error:
        raise ValueError(f"the video cannot be decoded: {error}") from error
    if not frames or (length is not None and len(frames) < length):
        raise ValueError(f"the video ends before frame {start + (length or 1)}")
    return np.stack([frame.transpose(2, 0, 1) for frame in frames])


def _decode_from(
    container: InputContainer, start: int, length: int | None, *, seek: bool
) -> list[NDArray[np.uint8]] | None:
    """The window's frames [h, w, 3]; None where the first frame that came is already past `start`."""
    stream = container.streams.video[0]
    stream.thread_type = "NONE"  # the workers that read side by side use the other cores
    if stream.average_rate is None or stream.time_base is None:
        raise ValueError("the video tells no frame rate")
    container.seek(
        int(start / stream.average_rate / stream.time_base) + (stream.start_time or 0) if seek else 0, stream=stream
    )
    frames: list[NDArray[np.uint8]] = []
    with closing(_pictures(container, stream)) as pictures:
        for index, frame in pictures:
            if not frames and index > start:
                return None if seek else []
            if index >= start:
                frames.append(np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8))
            if len(frames) == length:
                break
    return frames


def _pictures(
    container: InputContainer, stream: VideoStream, rate: Fraction | None = None
) -> Generator[tuple[int, av.VideoFrame]]:
    """Each decoded picture with its frame number in the video, at this or its own rate."""
    rate = rate or stream.average_rate
    assert rate is not None and stream.time_base is not None
    for frame in container.decode(stream):
        if frame.pts is None:
            raise ValueError("the video has a frame without a time")
        yield round((frame.pts - (stream.start_time or 0)) * stream.time_base * rate), frame


class VideoInfo(NamedTuple):
    """What a video file says of itself."""

    frames: int
    """As its header has it, or by its duration."""
    counted: bool
    """Whether the header has it."""
    fps: float
    num_bytes: int
    size: tuple[int, int]
    """Height and width."""


Fit = Literal["crop", "pad", "stretch"]
"""How a picture comes to another size: scaled to fill it and cropped, or to fit inside and padded in black, or out of
its proportions."""


Edit = Callable[[int, av.VideoFrame], av.VideoFrame]
"""Number of a frame in its file, and the frame -> the frame as it is wanted."""


def probe_video(path: Path) -> VideoInfo:
    """Raises ValueError where the file is no video."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("the file holds no video")
            stream = container.streams.video[0]
            rate = stream.average_rate
            if not rate:
                raise ValueError("the video tells no frame rate")
            seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
            if not seconds and container.duration:  # Matroska has it of the whole file only
                seconds = container.duration / av.time_base
            counted, size = stream.frames, (stream.height, stream.width)
    except av.FFmpegError as error:
        raise ValueError(f"the video cannot be opened: {error}") from error
    return VideoInfo(counted or round(seconds * rate), bool(counted), float(rate), path.stat().st_size, size)


def read_pictures(
    path: Path,
    size: tuple[int, int],
    fit: Fit,
    fps: float | None = None,
    first: int = 0,
    rate: float | None = None,
    edit: Edit | None = None,
) -> Generator[NDArray[np.uint8]]:
    """The frames of a video file in their order, from `first` on: uint8 RGB [h, w, 3] of this size (h, w).

    Frame `first` is the one shown first / rate seconds after the beginning; the rate is the file's where not given.
    `edit` may change frames before they come to their size.

    With fewer `fps` than the file has, those frames that are shown at the end of each 1/fps of a second. Raises
    ValueError where it cannot be decoded.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # the workers that read side by side use the other cores
            assert stream.average_rate is not None
            share = 1.0 if fps is None else min(1.0, fps / float(stream.average_rate))
            for number, frame in (
                _from(first, container, stream, rate) if first else enumerate(container.decode(stream))
            ):
                if int((number + 1) * share + 1e-9) > int(number * share + 1e-9):
                    yield fitted(frame if edit is None else edit(number, frame), size, fit)
    except av.FFmpegError as error:
        raise ValueError(f"the video cannot be decoded: {error}") from error


def _from(
    first: int, container: InputContainer, stream: VideoStream, rate: float | None
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames with their numbers, found by a seek where that lands before the first."""
    assert stream.average_rate is not None and stream.time_base is not None
    begin = stream.start_time or 0
    exact = stream.average_rate if rate is None else Fraction(rate).limit_denominator(10**6)
    for place in (int(first / exact / stream.time_base) + begin, begin):
        container.seek(place, stream=stream)
        pictures = _pictures(container, stream, exact)
        number, frame = next(pictures, (first, None))
        if frame is not None and (number <= first or place == begin):
            yield from ((n, picture) for n, picture in chain([(number, frame)], pictures) if n >= first)
            return


def fitted(frame: av.VideoFrame, size: tuple[int, int], fit: Fit) -> NDArray[np.uint8]:
    """The picture, uint8 RGB [h, w, 3] of this size (h, w)."""
    height, width = size
    down, across = height / frame.height, width / frame.width
    if fit != "stretch":
        down = across = max(down, across) if fit == "crop" else min(down, across, 1.0)
    scaled = round(frame.height * down), round(frame.width * across)
    scaled_frame = frame.reformat(width=scaled[1], height=scaled[0], format="rgb24", interpolation="AREA")
    picture: NDArray[Any] = scaled_frame.to_ndarray()
    for axis, wanted in enumerate(size):
        over = picture.shape[axis] - wanted
        if over > 0:
            picture = picture.take(range(over // 2, over // 2 + wanted), axis)
        elif over < 0:
            around = [(0, 0)] * 3
            around[axis] = (-over // 2, -over - -over // 2)
            picture = np.pad(picture, around)
    return np.asarray(picture, dtype=np.uint8)


def write_video(path: Path | str, frames: NDArray[np.uint8], fps: float | int, *, crf: int = 18) -> None:
    """Writes uint8 RGB frames [t, 3, h, w] as an mp4 file, whole or not at all."""
    write_atomically(Path(path), encode_video(frames, fps, crf=crf))
