"""mp4 files: what goes in comes out, any window of it, at any size."""

from io import BytesIO, RawIOBase
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tokenizer.video import decode_video, encode_video, write_video


def smooth_video(num_frames: int, height: int, width: int) -> NDArray[np.uint8]:
    """A pattern that drifts, so that no two frames are alike."""
    t = np.arange(num_frames)[:, None, None, None]
    phase = np.arange(3)[:, None, None]
    y, x = np.arange(height)[:, None], np.arange(width)[None]
    return (127 + 100 * np.sin((x + 4 * t) / 20 + phase) * np.cos((y - 2 * t) / 17)).astype(np.uint8)


def test_frames_come_back_within_the_error_of_the_codec() -> None:
    frames = smooth_video(20, 64, 96)
    back = decode_video(encode_video(frames, 15))
    assert back.shape == frames.shape and back.dtype == np.uint8
    assert np.abs(back.astype(float) - frames).mean() < 4


@pytest.mark.parametrize("fps", [12.5, 30])
def test_every_window_equals_that_of_the_whole(fps: float) -> None:
    data = encode_video(smooth_video(40, 64, 64), fps, gop=16)
    whole = decode_video(data)
    for start in range(40):
        length = min(3, 40 - start)
        np.testing.assert_array_equal(decode_video(data, start, length), whole[start : start + length])


class Counted(RawIOBase):
    """A file that counts the bytes read from it."""

    def __init__(self, data: bytes) -> None:
        self.file, self.count = BytesIO(data), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.count += len(data)
        return data


def test_a_window_of_a_long_file_reads_only_a_part_of_it() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (160, 3, 64, 64), np.uint8)
    data = encode_video(noise, 20)
    file = Counted(data)
    np.testing.assert_array_equal(decode_video(file, 100, 5), decode_video(data, 100, 5))
    assert file.count < len(data) / 3


def test_equal_frames_give_equal_bytes() -> None:
    frames = smooth_video(8, 64, 64)
    assert encode_video(frames, 20) == encode_video(frames, 20)


def test_odd_sizes_are_kept() -> None:
    assert decode_video(encode_video(smooth_video(3, 31, 33), 10)).shape == (3, 3, 31, 33)


def test_a_window_past_the_end_is_an_error() -> None:
    data = encode_video(smooth_video(8, 64, 64), 20)
    for start, length in [(7, 2), (8, 1), (100, 1)]:
        with pytest.raises(ValueError, match="ends before frame"):
            decode_video(data, start, length)


def test_what_is_no_video_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode_video(b"no video" * 100)
    with pytest.raises(ValueError, match=r"uint8 frames \[t, 3, h, w\]"):
        encode_video(np.zeros((4, 64, 64, 3), np.uint8), 20)


def test_a_result_video_is_written_whole(tmp_path: Path) -> None:
    write_video(tmp_path / "new" / "result.mp4", smooth_video(6, 64, 64), 20)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["result.mp4"]
    assert len(decode_video((tmp_path / "new" / "result.mp4").read_bytes())) == 6
