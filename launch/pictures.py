"""Pictures and videos of results: rows of frames with a label each, and side-by-side clips."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from tokenizer.autoencoder import to_uint8
from tokenizer.video import write_video

LABEL_WIDTH = 110
LABEL_HEIGHT = 16
PANEL_HEIGHT = 256
"""Of a picture in a video, about."""


def save_rows(path: Path, rows: Mapping[str, Tensor], height: int = 128) -> None:
    """One PNG; each row is a label and its frames [k, c, h, w] in [0, 1], small ones enlarged to about this height."""
    lines = []
    for label, frames in rows.items():
        picture = np.concatenate(list(_pixels(frames, height)), axis=1)
        lines.append(np.concatenate([_label(label, LABEL_WIDTH, picture.shape[0]), picture], axis=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(lines, axis=0)).save(path)


def save_side_by_side(path: Path, clips: Mapping[str, Tensor], fps: float, panels: int = 1) -> None:
    """One mp4; each clip [t, c, h, w] in [0, 1] stands beside the next under its label, enlarged as above.

    `panels` counts the pictures above one another in each frame, each of which is to be tall enough to see.
    """
    columns = []
    for label, frames in clips.items():
        pixels = _pixels(frames, PANEL_HEIGHT * panels)
        head = _label(label, pixels.shape[2], LABEL_HEIGHT)
        columns.append(np.concatenate([np.broadcast_to(head, (len(pixels), *head.shape)), pixels], axis=1))
    video = np.concatenate(columns, axis=2)
    write_video(path, np.ascontiguousarray(video.transpose(0, 3, 1, 2)), fps)


def _pixels(frames: Tensor, height: int) -> NDArray[np.uint8]:
    """[k, h, w, c], each pixel as many times as brings the frames nearest to this height."""
    scale = max(1, round(height / frames.shape[-2]))
    pixels: NDArray[np.uint8] = to_uint8(frames).permute(0, 2, 3, 1).cpu().numpy()
    return pixels.repeat(scale, axis=1).repeat(scale, axis=2)


def _label(text: str, width: int, height: int) -> NDArray[np.uint8]:
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).text((4, max(0, height // 2 - 6)), text, fill="black")
    return np.asarray(image)
