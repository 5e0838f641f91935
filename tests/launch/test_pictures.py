"""Pictures are large enough to see and no larger than what they show."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from launch.pictures import LABEL_HEIGHT, LABEL_WIDTH, save_rows, save_side_by_side
from tokenizer.video import decode_video


@pytest.mark.parametrize(("size", "shown"), [((64, 64), (128, 128)), ((72, 72), (144, 144)), ((384, 640), (384, 640))])
def test_small_frames_are_enlarged_and_large_ones_are_not(
    tmp_path: Path, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    save_rows(tmp_path / "rows.png", {name: torch.rand(3, 3, *size) for name in ("real", "dreamt")})
    with Image.open(tmp_path / "rows.png") as picture:
        assert picture.size == (LABEL_WIDTH + 3 * shown[1], 2 * shown[0])


@pytest.mark.parametrize("panels", [1, 2, 4])
def test_each_panel_of_a_video_is_enlarged_however_many_stand_above_one_another(tmp_path: Path, panels: int) -> None:
    save_side_by_side(tmp_path / "film.mp4", {"dream": torch.rand(2, 3, 64 * panels, 64)}, 10.0, panels=panels)
    assert decode_video((tmp_path / "film.mp4").read_bytes()).shape == (2, 3, LABEL_HEIGHT + 256 * panels, 256)
