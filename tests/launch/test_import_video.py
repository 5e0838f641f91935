"""A folder of video files becomes the dataset that it shows, with its actions in the house's time."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tokenizer.records import EpisodeClip
from tokenizer.shards import Dataset
from tokenizer.video import encode_video, probe_video, read_pictures, write_video

Call = Callable[..., int]
SPACE = {"continuous": ["steer"], "categorical": [["gear", 3]], "binary": []}


def moving(frames: int, seed: int = 0, size: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """A picture whose brightness tells the number of the frame."""
    video = np.zeros((frames, 3, *size), np.uint8)
    video += ((np.arange(frames) * 5 + seed) % 250).astype(np.uint8)[:, None, None, None]
    return video


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Five videos of 40 frames in folders, 20 frames a second."""
    for number in range(5):
        path = tmp_path / f"videos/part{number % 2}/drive{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, moving(40, number), 20)
    (tmp_path / "videos/notes.txt").write_text("no video")
    return tmp_path / "videos"


def brightness(clip: EpisodeClip) -> list[float]:
    return [float(value) for value in clip.frames.float().mean((1, 2, 3))]


def whole(dataset: Dataset, index: int) -> EpisodeClip:
    clip = dataset.read_window(index, 0, dataset.samples[index].length)
    assert isinstance(clip, EpisodeClip)
    return clip


@pytest.mark.parametrize("workers", [0, 2])
def test_videos_become_clips_of_their_frames(source: Path, tmp_path: Path, call: Call, workers: int) -> None:
    out = tmp_path / "out"
    options = ("--source", source, "--out", out, "--workers", workers, "--size", 24, 32)
    assert call("import_video", "debug", *options) == 0
    train, held_out = Dataset.open(out / "train"), Dataset.open(out / "held_out")
    assert train.num_frames == 160 and held_out.num_frames == 40 and train.meta.fps == 20
    assert [sample.length for sample in train.samples] == [32, 8] * 4  # clips of 32 frames
    assert [sample.start for sample in train.samples] == [0, 32] * 4
    for clip, offset in ((whole(train, 0), 0), (whole(train, 1), 32 * 5)):
        assert clip.frames.shape[1:] == (3, 24, 32) and not clip.labeled.any()
        wanted = [(offset + 5 * t) % 250 for t in range(clip.num_frames)]
        np.testing.assert_allclose(brightness(clip), wanted, atol=3)
    assert whole(train, 0).is_first.tolist() == [True] + [False] * 31 and not whole(train, 1).is_first.any()


def test_a_stopped_import_goes_on_with_what_is_missing(
    source: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    for folder in (out, again):
        assert call("import_video", "debug", "--source", source, "--out", folder) == 0
    kept = (out / "train/shard-000000.tar").stat().st_mtime_ns
    (out / "train/shard-000001.json").unlink()
    assert call("import_video", "debug", "--source", source, "--out", out) == 0
    assert (out / "train/shard-000000.tar").stat().st_mtime_ns == kept
    assert Dataset.open(out / "train").fingerprint() == Dataset.open(again / "train").fingerprint()
    capfd.readouterr()
    assert call("import_video", "debug", "--source", source, "--out", out) == 0
    assert f"already done: {out}/train" in capfd.readouterr().out
    assert call("import_video", "debug", "--source", source, "--out", out, "--clip-frames", 20) == 1
    assert "was imported with clip_frames=32: choose another --out" in capfd.readouterr().err
    shutil.copy(source / "part0/drive0.mp4", source / "part0/new.mp4")
    assert call("import_video", "debug", "--source", source, "--out", out) == 1
    assert "imported from other videos (part0/new.mp4 changed, came or went)" in capfd.readouterr().err


def test_a_dataset_that_another_command_made_is_left_as_it_is(
    source: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    imported = call("import_video", "debug", "--source", source, "--out", tmp_path)
    before = Dataset.open(tmp_path / "train").fingerprint()
    assert imported == 0 and call("collect", "debug", "--out", tmp_path) == 1
    (tmp_path / "import.json").rename(tmp_path / "collect.json")
    assert call("import_video", "debug", "--source", source, "--out", tmp_path) == 1
    assert capfd.readouterr().err.count("holds shards that this command did not write") == 2
    assert Dataset.open(tmp_path / "train").fingerprint() == before


def with_actions(source: Path) -> Path:
    for path in source.rglob("*.mp4"):
        rows = np.stack([np.linspace(-1, 1, 40), np.arange(40) % 3], axis=1)
        rows[5] = np.nan
        np.save(path.with_name(f"{path.stem}.actions.npy"), rows)
        np.save(path.with_name(f"{path.stem}.rewards.npy"), np.arange(40.0))
    space = source / "space.json"
    space.write_text(json.dumps(SPACE))
    return space


@pytest.mark.parametrize("time", ["led_to", "chosen_at"])
def test_actions_come_with_the_frame_that_they_led_to(source: Path, tmp_path: Path, call: Call, time: str) -> None:
    out, late = tmp_path / "out", int(time == "chosen_at")
    options = ("--source", source, "--out", out, "--actions", with_actions(source), "--action-time", time)
    assert call("import_video", "debug", *options) == 0
    train = Dataset.open(out / "train")
    assert train.meta.action_space["categorical"] == [["gear", 3]]
    first, second = whole(train, 0), whole(train, 1)
    steer = np.linspace(-1, 1, 40, dtype=np.float32)
    assert first.labeled.tolist() == [t not in (0, 5 + late) for t in range(32)] and second.labeled.all()
    np.testing.assert_allclose(first.actions[10:, 0], steer[10 - late : 32 - late], atol=1e-6)
    np.testing.assert_allclose(second.actions[:, 0], steer[32 - late : 40 - late], atol=1e-6)
    assert first.rewards.tolist() == list(range(32)) and second.rewards.tolist() == list(range(32, 40))


def test_what_does_not_fit_is_left_out_by_name(
    source: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    space, out = with_actions(source), tmp_path / "out"
    np.save(source / "part0/drive0.actions.npy", np.full((40, 2), 7.0))
    np.save(source / "part1/drive1.actions.npy", np.zeros((39, 2)))
    (source / "part1/broken.mp4").write_bytes(b"no video")
    torn = source / "part0/torn.mp4"
    torn.write_bytes(encode_video(moving(40), 20)[:-300])
    options = ("--source", source, "--out", out, "--actions", space, "--shard-frames", 1000)
    assert call("import_video", "debug", *options) == 0
    said = capfd.readouterr().out
    assert "left out part1/broken.mp4: the video cannot be opened" in said
    assert "left out part0/drive0.mp4, or what was left of it: drive0.actions.npy: action part 'steer' is 7" in said
    assert "it has 39 rows of actions, and 40 frames" in said
    assert Dataset.open(out / "train").num_frames >= 80


def test_wrong_options_are_named(source: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    given = ("--source", source, "--out", tmp_path / "out")
    write_video(source / "slow.mp4", moving(10), 10)
    for options, said in (
        ((), "20 frames a second and slow.mp4 10: say how many to keep with --fps"),
        (("--fps", 15), "fps=15.0 is more than slow.mp4 has, 10: give fewer"),
        (("--fps", 5, "--actions", "x.json"), "actions are of single frames: leave --fps out"),
        (("--fps", 5, "--held-out", 6), "held_out=6 of 6 recordings leaves none to train on"),
        (("--clip-frames", 0), "clip_frames=0, needs at least 1"),
    ):
        assert call("import_video", "debug", *given, *options) != 0
        assert said in capfd.readouterr().err
    for folder, said in ((tmp_path / "nowhere", "is no folder"), (tmp_path / "empty", "no video (.mp4, ")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert call("import_video", "debug", "--source", folder, "--out", tmp_path / "out") == 1
        assert said in capfd.readouterr().err


def test_fewer_frames_a_second_keep_every_so_manieth(source: Path) -> None:
    path = source / "part0/drive0.mp4"
    all_of_them = [float(picture.mean()) for picture in read_pictures(path, (48, 64), "crop")]
    some = [float(picture.mean()) for picture in read_pictures(path, (48, 64), "crop", 5)]
    assert len(all_of_them) == 40 and some == all_of_them[3::4]
    assert len(list(read_pictures(path, (48, 64), "crop", 8))) == 16


@pytest.mark.parametrize(
    ("fit", "size", "grey"), [("crop", (48, 48), 1.0), ("pad", (64, 64), 0.75), ("stretch", (30, 90), 1.0)]
)
def test_a_picture_comes_to_its_size(tmp_path: Path, fit: str, size: tuple[int, int], grey: float) -> None:
    write_video(tmp_path / "a.mp4", np.full((3, 3, 48, 64), 200, np.uint8), 20)
    (picture, *_) = read_pictures(tmp_path / "a.mp4", size, fit)  # type: ignore[arg-type]
    assert picture.shape == (*size, 3)
    assert (picture > 150).mean() == pytest.approx(grey, abs=0.02)
    if fit == "pad":
        assert (picture[:8] < 20).all() and (picture[8:56] > 150).all() and (picture[56:] < 20).all()


def test_rewards_of_single_frames_do_not_go_with_fewer_frames_a_second(
    source: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    np.save(source / "part0/drive0.rewards.npy", np.arange(40.0))
    assert call("import_video", "debug", "--source", source, "--out", tmp_path / "out", "--fps", 10) == 0
    said = capfd.readouterr().out
    assert "left out part0/drive0.mp4, or what was left of it: drive0.rewards.npy is of single frames" in said
    assert Dataset.open(tmp_path / "out/train").num_frames == 3 * 20


def test_a_refused_import_leaves_the_folder_free(source: Path, tmp_path: Path, call: Call) -> None:
    given = ("--source", source, "--out", tmp_path / "out")
    assert call("import_video", "debug", *given, "--held-out", 5) == 1
    assert call("import_video", "debug", *given, "--held-out", 2) == 0


def test_matroska_tells_its_frames_by_its_duration(source: Path, tmp_path: Path) -> None:
    with av.open(str(source / "part0/drive0.mp4")) as old, av.open(str(tmp_path / "a.mkv"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    info = probe_video(tmp_path / "a.mkv")
    assert abs(info.frames - 40) <= 1 and info.fps == 20 and not info.counted
    assert probe_video(source / "part0/drive0.mp4").counted
