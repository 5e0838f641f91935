"""Recordings of Minecraft players, written here in VPT's form, become the dataset that they show."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from agent.envs.minecraft_actions import KEYS
from agent.envs.minecraft_events import TASKS
from launch import vpt_segments
from launch.import_vpt import PRESETS
from tests.serving import serving
from tests.vpt_recordings import recording, video, write_recording
from tokenizer.records import EpisodeClip
from tokenizer.shards import Dataset

Call = Callable[..., int]
Say = pytest.CaptureFixture[str]
FRAMES = 40
PLAYERS = (
    "shabby-viridian-beaver-1a2b3c4d5e6f",
    "cheeky-cornflower-setter-02e496ce4abb",
    "woozy-ruby-ostrich-0123456789ab",
)
NAMES = [f"10.0/{player}-20220421-09263{part}" for player in PLAYERS for part in range(2)]
LOG, TABLE = "minecraft.mine_block:minecraft.oak_log", "minecraft.craft_item:minecraft.crafting_table"


@pytest.fixture(scope="module")
def mp4() -> dict[int, bytes]:
    return {frames: video(frames) for frames in (FRAMES, FRAMES + 1, FRAMES + 2)}


def played() -> list[str]:
    """Forward at line 7; a log comes with frame 31, which two clips show, and one and a crafting table with 35."""
    changes: dict[int, dict[str, Any]] = {7: {"keyboard": {"keys": ["key.keyboard.w"]}}}
    for number in range(31, FRAMES):
        late = number >= 35
        changes[number] = {"stats": {LOG: 2, TABLE: 1} if late else {LOG: 1}}
    return recording(changes, FRAMES)


@pytest.fixture
def source(tmp_path: Path, mp4: dict[int, bytes]) -> Path:
    """Two segments of each of three sessions, one of which has its last frame twice."""
    for number, name in enumerate(NAMES):
        write_recording(tmp_path / "vpt", name, mp4[FRAMES + (number == 0)], played())
    return tmp_path / "vpt"


def clips(folder: Path) -> Iterator[tuple[str, int, EpisodeClip]]:
    """Key, number of the first frame, and clip."""
    dataset = Dataset.open(folder)
    for index, sample in enumerate(dataset.samples):
        clip = dataset.read_window(index, 0, sample.length)
        assert isinstance(clip, EpisodeClip)
        yield sample.key, sample.start, clip


def quality(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "quality.json").read_text())
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_recordings_become_clips_that_share_a_frame_and_tell_each_transition_once(
    source: Path, tmp_path: Path, call: Call, workers: int
) -> None:
    out = tmp_path / "out"
    assert call("import_vpt", "debug", "--source", source, "--out", out, "--workers", workers) == 0
    train = Dataset.open(out / "train")
    assert train.meta.environment == "Minecraft" and train.meta.tasks == TASKS and train.meta.fps == 20
    assert [(sample.start, sample.length) for sample in train.samples] == [(0, 32), (31, 9)] * 4
    assert [sum(sample.reward_sums) for sample in train.samples] == [1.0, 2.0] * 4  # of all tasks
    told, rewards = Counter[int](), Counter[int]()
    for _, start, clip in clips(out / "train"):
        frames = np.arange(start, start + clip.num_frames)
        np.testing.assert_allclose(clip.frames.float().mean((1, 2, 3)).numpy(), 20 + 5 * frames, atol=3)
        assert not clip.labeled[0] and clip.labeled[1:].all() and clip.continues.all()
        assert clip.is_first.tolist() == [frame == 0 for frame in frames]
        told.update(frames[clip.labeled.numpy()].tolist())
        assert frames[clip.actions[:, 1 + KEYS.index("forward")].bool().numpy()].tolist() == [8] * (start == 0)
        assert TASKS[int(clip.task)] == ("craft_crafting_table" if start else "mine_log")
        rewards.update(frames[clip.rewards.bool().numpy()].tolist())
    assert told == dict.fromkeys(range(1, FRAMES), 4) and rewards == {31: 4, 35: 4}


def test_sessions_are_held_out_whole(source: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "out"
    assert call("import_vpt", "debug", "--source", source, "--out", out) == 0
    sides = {part: {*json.loads(next((out / "notes").glob(f"{part}-*")).read_text())} for part in ("train", "held_out")}
    held_out = {name for name in NAMES if PLAYERS[0] in name}
    assert sides["held_out"] == held_out and not sides["train"] & held_out
    assert Dataset.open(out / "held_out").num_frames == 2 * (FRAMES + 1)
    assert call("import_vpt", "debug", "--source", source, "--out", tmp_path / "more", "--held-out", 3) == 1


def test_the_report_counts_what_was_seen(source: Path, tmp_path: Path, call: Call, capfd: Say) -> None:
    out = tmp_path / "out"
    assert call("import_vpt", "debug", "--source", source, "--out", out) == 0
    said, report = capfd.readouterr().out, quality(out)
    assert "240 frames in" in said and "a core" in said and "last frame twice" in said
    assert (report["recordings"], report["imported"], report["sessions"]) == (6, 6, 3)
    assert (report["frames"], report["last_frame_twice"], report["left_out"]) == (240, 1, {})
    assert report["idle_share"] == pytest.approx(38 / 39) and report["null_mouse_share"] == 0
    assert report["events"]["mine_log"] == 12 and report["events"]["craft_crafting_table"] == 6
    assert call("import_vpt", "debug", "--source", source, "--out", out) == 0
    assert quality(out) == report


def test_what_is_bad_is_left_out_with_its_reason_and_the_rest_goes_on(
    source: Path, tmp_path: Path, call: Call, mp4: dict[int, bytes], capfd: Say
) -> None:
    lines = played()
    bad = {number: f"10.0/woozy-ruby-ostrich-0123456789ab-20220421-10000{number}" for number in range(7)}
    write_recording(source, bad[0], mp4[FRAMES + 2], lines)
    write_recording(source, bad[1], mp4[FRAMES], lines).with_suffix(".jsonl").unlink()
    write_recording(source, bad[2], mp4[FRAMES][: len(mp4[FRAMES]) // 2], lines)
    write_recording(source, bad[3], video(4, size=(48, 64)), lines)
    write_recording(source, bad[4], video(4, fps=30), lines)
    write_recording(source, bad[5], mp4[FRAMES], [*lines[:9], lines[9][:50], *lines[10:]])
    write_recording(source, bad[6], mp4[FRAMES], [*lines[: FRAMES - 1], lines[FRAMES - 1][:50]])
    out = tmp_path / "out"
    assert call("import_vpt", "debug", "--source", source, "--out", out, "--shard-frames", 1) == 0
    report = quality(out)
    reasons = report["left_out_recordings"]
    assert "40 lines need as many frames or one more, not 42" in reasons[bad[0]]
    assert reasons[bad[1]] == f"a file is missing: {source}/{bad[1]}.jsonl"
    assert "the video cannot be opened" in reasons[bad[2]]
    assert reasons[bad[3]] == "the size is another: 64x48, not 640x360"
    assert reasons[bad[4]] == "the frame rate is another: 30 frames a second, not 20"
    assert reasons[bad[5]] == "a line is broken: line 10 of 40 is no JSON"
    assert len(reasons) == 6 and report["imported"] == 7 and sum(report["left_out"].values()) == 6
    assert report["broken_last_lines"] == 1 and report["frames"] == 6 * FRAMES + FRAMES - 1
    assert f"left out {bad[0]}" in " ".join(capfd.readouterr().out.split())
    assert len(Dataset.open(out / "train")) == 10


def test_of_a_video_that_ends_early_the_clips_before_are_kept(source: Path, tmp_path: Path, call: Call) -> None:
    """Its header comes first and promises all frames."""
    path = source / f"{NAMES[4]}.mp4"
    whole = path.read_bytes()
    with av.open(BytesIO(whole)) as old, av.open(str(path), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 20)
    out = tmp_path / "out"
    assert call("import_vpt", "debug", "--source", source, "--out", out) == 0
    report = quality(out)
    assert list(report["left_out_recordings"]) == [NAMES[4]] and report["imported"] == 5
    assert 5 * FRAMES + 32 <= report["frames"] < 6 * FRAMES


def index(path: Path, names: list[str], base: str = "nowhere") -> Path:
    path.write_text(json.dumps({"basedir": base, "relpaths": [f"{name}.mp4" for name in names]}))
    return path


def test_index_files_say_which_recordings_of_a_folder(source: Path, tmp_path: Path, call: Call) -> None:
    one, other = index(tmp_path / "one.json", NAMES[:3]), index(tmp_path / "other.json", [*NAMES[2:4], "10.0/gone"])
    out = tmp_path / "out"
    assert call("import_vpt", "debug", "--index", one, other, "--source", source, "--out", out) == 0
    report = quality(out)
    assert (report["recordings"], report["imported"]) == (5, 4)
    assert report["left_out"] == {"a file is missing": 1}


def test_recordings_are_fetched_and_dead_links_left_out(source: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "out"
    with serving(source) as server:
        (source / f"{NAMES[3]}.mp4").unlink()
        server.faults[f"{Path(NAMES[4]).name}.jsonl"] = ["403"]
        server.faults[f"{Path(NAMES[0]).name}.mp4"] = ["503", "half"]
        listed = index(tmp_path / "index.json", NAMES, server.url + "/")
        assert call("import_vpt", "debug", "--index", listed, "--out", out) == 0
        assert server.asked[f"{Path(NAMES[0]).name}.mp4"] >= 3
    report = quality(out)
    reasons = report["left_out_recordings"]
    assert reasons[NAMES[3]] == f"a file is missing: {server.url}/{NAMES[3]}.mp4"
    assert "a file is refused" in reasons[NAMES[4]] and "403" in reasons[NAMES[4]]
    assert report["imported"] == 4 and not list(out.glob("fetched-*"))


def test_a_file_that_its_server_never_gives_is_left_out_and_an_outage_ends_the_import(
    source: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vpt_segments, "ATTEMPTS", 2)
    monkeypatch.setattr(vpt_segments, "FIRST_WAIT", 0.01)
    video, lines = (f"{Path(NAMES[0]).name}.{suffix}" for suffix in ("mp4", "jsonl"))
    with serving(source) as server:
        command = ["import_vpt", "debug", "--index", index(tmp_path / "index.json", NAMES, server.url + "/")]
        command += ["--workers", 0, "--out"]
        server.faults[video] = server.faults[lines] = ["503"] * 99
        assert call(*command, tmp_path / "out") == 1
        assert f"{lines} cannot be had after 2 attempts" in " ".join(capfd.readouterr().err.split())
        server.faults[lines] = []
        assert call(*command, tmp_path / "out") == 0, "the server is back, and never gives the video"
    reasons = quality(tmp_path / "out")["left_out_recordings"]
    assert list(reasons) == [NAMES[0]] and "its server gives the other: " in reasons[NAMES[0]]


def test_where_nothing_of_a_part_can_be_read_the_report_says_why(source: Path, tmp_path: Path, call: Call) -> None:
    for name in NAMES:
        if PLAYERS[0] in name:  # who is held out
            path = source / f"{name}.jsonl"
            path.write_text("\n".join(path.read_text().split("\n")[:-3]))
    out = tmp_path / "out"
    assert call("import_vpt", "debug", "--source", source, "--out", out) == 1
    assert {name for name in NAMES if PLAYERS[0] in name} == set(quality(out)["left_out_recordings"])


def test_a_stopped_import_goes_on_with_what_is_missing(source: Path, tmp_path: Path, call: Call) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    for folder in (out, again):
        assert call("import_vpt", "debug", "--source", source, "--out", folder) == 0
    kept = (out / "train/shard-000000.tar").stat().st_mtime_ns
    (out / "train/shard-000001.json").unlink()
    assert call("import_vpt", "debug", "--source", source, "--out", out) == 0
    assert (out / "train/shard-000000.tar").stat().st_mtime_ns == kept
    assert Dataset.open(out / "train").fingerprint() == Dataset.open(again / "train").fingerprint()
    assert quality(out) == quality(again)
    (source / f"{NAMES[0]}.jsonl").write_text("{}")
    assert call("import_vpt", "debug", "--source", source, "--out", out) == 1


def test_a_window_shows_the_pointer_in_a_padded_picture(tmp_path: Path, call: Call, mp4: dict[int, bytes]) -> None:
    window = {
        number: {"isGuiOpen": True, "mouse": {"x": 400.0 + 10 * number, "y": 200.0}} for number in range(30, FRAMES)
    }
    for name in NAMES[1:3]:
        write_recording(tmp_path / "vpt", name, mp4[FRAMES], recording(window, FRAMES))
    preset = PRESETS["dreamer4"]
    assert (preset.size, preset.fit) == ((384, 640), "pad")
    out = tmp_path / "out"
    options = ("--source", tmp_path / "vpt", "--out", out, "--held-out", 1, "--workers", 0)
    assert call("import_vpt", "dreamer4", *options) == 0
    ((_, _, clip),) = clips(out / "train")
    picture = clip.frames[35].float().mean(0)
    assert (picture[:10] < 30).all() and (picture[-10:] < 30).all()
    y, x = 12 + 100, 375
    assert picture[y + 4 : y + 9, x + 1 : x + 4].mean() > 220 and abs(picture[y + 5, x - 20] - 195) < 5
    assert (clip.frames[29].float().mean(0)[20:-20] - 165).abs().max() < 8


def test_wrong_options_are_named(source: Path, tmp_path: Path, call: Call, capfd: Say) -> None:
    out = ("--out", tmp_path / "out")
    strange, outside = index(tmp_path / "strange.json", []), index(tmp_path / "outside.json", ["../secret"])
    other = tmp_path / "other.json"
    other.write_text('{"files": []}')
    for options, said in (
        ((), "give --index files, or --source a folder of mp4 and jsonl files"),
        (("--source", tmp_path / "nowhere"), "nowhere is no folder"),
        (("--source", tmp_path), "leaves none to train on"),
        (("--index", strange), "list no recordings"),
        (("--index", outside), "names a file outside of its base: ../secret"),
        (("--index", other), 'needs "basedir", a string, and "relpaths"'),
        (("--index", index(tmp_path / "gone.json", ["10.0/gone"], str(tmp_path))), "none of 1 recordings can be read"),
    ):
        more = ("--held-out", 9) if said.startswith("leaves") else ()
        assert call("import_vpt", "debug", *out, *options, *more) == 1
        assert said in " ".join(capfd.readouterr().err.split())
    assert call("import_vpt", "debug", *out, "--source", source, "--clip-frames", 1) == 2
    assert "a clip shares a frame with the one before" in capfd.readouterr().err
