"""Video of Minecraft at its own size, 640x360 padded to 640x384: from files to a tokenizer that reconstructs it.

Against real recordings where the variable MINECRAFT_VIDEO names a folder of them, or `make minecraft-video` made one.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tokenizer.records import EpisodeClip
from tokenizer.shards import Dataset
from tokenizer.video import write_video

Call = Callable[..., int]
RECORDINGS = Path(os.environ.get("MINECRAFT_VIDEO", Path(__file__).parents[2] / "runs/minecraft/video"))


def drawn(folder: Path) -> Path:
    """Two recordings of 24 frames of that size, in which a lighter square moves."""
    for number in range(2):
        video = np.full((24, 3, 360, 640), 60, np.uint8)
        for t in range(24):
            video[t, :, 100:200, 8 * t : 8 * t + 100] = 180 + 20 * number
        write_video(folder / f"{number}.mp4", video, 20)
    return folder


def recorded(folder: Path) -> Path:
    found = sorted(RECORDINGS.glob("*.mp4"))[:2]
    if len(found) < 2:
        pytest.skip(f"no recordings of Minecraft in {RECORDINGS}: `make minecraft-video` fetches some")
    for path in found:
        (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("recordings", [drawn, recorded])
def test_the_tokenizer_runs_at_minecrafts_own_size(
    recordings: Callable[[Path], Path], tmp_path: Path, call: Call
) -> None:
    source, data, run = tmp_path / "video", tmp_path / "data", tmp_path / "tokenizer"
    source.mkdir()
    assert call("import_video", "minecraft", "--source", recordings(source), "--out", data, "--workers", 0) == 0
    train = Dataset.open(data / "train")
    clip = train.read_window(0, 0, 4)
    assert isinstance(clip, EpisodeClip)
    assert clip.frames.shape == (4, 3, 384, 640)
    padding = torch.cat((clip.frames[:, :, :12], clip.frames[:, :, -12:]), dim=2).float()  # compressed with the rest
    assert padding.mean() < 2 and padding.median() == 0 and clip.frames[:, :, 12:-12].float().mean() > 20
    folders = ("--run", run, "--data", data / "train", "--held-out", data / "held_out")
    few = ("--steps", 4, "--warmup-steps", 1, "--no-compile")
    looked_at = ("--log-every", 1, "--evaluate-every", 2, "--held-out-clips", 2)
    assert call("train_tokenizer", "minecraft", *folders, *few, *looked_at) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    quality = [line["held_out_psnr"] for line in lines if "held_out_psnr" in line]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert quality[-1] > quality[0] and losses[-1] < losses[0]
    assert Image.open(run / "reconstructions.png").size[0] >= 2 * 640
