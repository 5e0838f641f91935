"""Recordings in the form of VPT's, in which nothing happens but what a test says."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tokenizer.video import encode_video


def line(number: int, **changed: Any) -> dict[str, Any]:
    """Nothing happens in it; `mouse` and `keyboard` change parts of theirs."""
    mouse = {"x": 640.0, "y": 360.0, "dx": 0.0, "dy": 0.0, "scaledX": 0.0, "scaledY": 0.0, "dwheel": 0.0}
    found: dict[str, Any] = {
        "mouse": {**mouse, "buttons": [], "newButtons": []},
        "keyboard": {"keys": [], "newKeys": [], "chars": ""},
        "isGuiOpen": False,
        "isGuiInventory": False,
        "hotbar": 0,
        "yaw": 90.0,
        "pitch": 10.0,
        "tick": number,
        "milli": 1649575088006 + 50 * number,
        "inventory": [{"type": "oak_planks", "quantity": 2}],
        "stats": {"minecraft.custom:minecraft.play_one_minute": 6000 + number},
    }
    for name, value in changed.items():
        found[name] = {**found[name], **value} if name in ("mouse", "keyboard") and value is not None else value
    return found


def text(*lines: dict[str, Any]) -> list[str]:
    return [json.dumps(one) for one in lines] + [""]


def recording(changes: dict[int, dict[str, Any]], count: int) -> list[str]:
    return text(*(line(number, **changes.get(number, {})) for number in range(count)))


def video(frames: int, size: tuple[int, int] = (360, 640), fps: float = 20.0) -> bytes:
    """An mp4 whose brightness tells the number of the frame."""
    pictures = np.zeros((frames, 3, *size), np.uint8)
    pictures += (20 + 5 * np.arange(frames)).astype(np.uint8)[:, None, None, None]
    return encode_video(pictures, fps)


def write_recording(folder: Path, name: str, mp4: bytes, lines: list[str]) -> Path:
    """The video's path; lines of another number than its frames are no mistake here."""
    path = folder / f"{name}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(mp4)
    path.with_suffix(".jsonl").write_text("\n".join(lines))
    return path
