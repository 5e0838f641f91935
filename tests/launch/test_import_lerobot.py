"""LeRobot datasets, written here in their published formats, become the dataset that they show."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tokenizer.records import EpisodeClip
from tokenizer.shards import Dataset
from tokenizer.video import write_video

Call = Callable[..., int]
LENGTHS = (30, 40, 25, 35)
CAMERA = "observation.images.top"
FPS = 10


def pictures(episode: int) -> NDArray[np.uint8]:
    """The brightness tells episode and frame."""
    numbers = 20 + 50 * episode + np.arange(LENGTHS[episode])
    return np.broadcast_to(numbers[:, None, None, None], (LENGTHS[episode], 3, 48, 64)).astype(np.uint8)


def columns(episode: int) -> dict[str, list[Any]]:
    """The first action runs over [0, 100 (episode + 1)], the second is always 7."""
    count = LENGTHS[episode]
    first = np.linspace(0, 100 * (episode + 1), count)
    return {
        "action": [[float(value), 7.0] for value in first],
        "next.reward": [float(t) for t in range(count)],
        "timestamp": [t / FPS for t in range(count)],
        "frame_index": list(range(count)),
        "episode_index": [episode] * count,
        "task_index": [episode % 2] * count,
    }


def write_table(path: Path, table: dict[str, list[Any]]) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.table(table), path)


def info(version: str, **paths: str) -> dict[str, Any]:
    return {
        "codebase_version": version,
        "robot_type": "so100",
        "fps": FPS,
        "chunks_size": 3,
        "total_episodes": len(LENGTHS),
        "features": {
            CAMERA: {"dtype": "video", "shape": [48, 64, 3], "names": ["height", "width", "channels"]},
            "action": {"dtype": "float32", "shape": [2], "names": {"motors": ["shoulder", "gripper"]}},
        },
        **paths,
    }


def write_2(root: Path) -> Path:
    """v2.1: one file an episode."""
    paths = {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info("v2.1", **paths)))
    lines = []
    for episode, length in enumerate(LENGTHS):
        place = {"episode_chunk": episode // 3, "episode_index": episode, "video_key": CAMERA}
        video = root / paths["video_path"].format(**place)
        video.parent.mkdir(parents=True, exist_ok=True)
        write_video(video, pictures(episode), FPS)
        write_table(root / paths["data_path"].format(**place), columns(episode))
        lines.append(json.dumps({"episode_index": episode, "length": length, "tasks": [f"task {episode % 2}"]}))
    (root / "meta/episodes.jsonl").write_text("\n".join(lines) + "\n")
    return root


def write_3(root: Path) -> Path:
    """v3.0: all episodes in two files."""
    paths = {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info("v3.0", **paths)))
    rows: dict[str, list[Any]] = {}
    for file, group in enumerate(((0, 1, 2), (3,))):
        place = {"chunk_index": 0, "file_index": file, "video_key": CAMERA}
        video = root / paths["video_path"].format(**place)
        video.parent.mkdir(parents=True, exist_ok=True)
        write_video(video, np.concatenate([pictures(episode) for episode in group]), FPS)
        parts = [columns(episode) for episode in group]
        write_table(
            root / paths["data_path"].format(**place), {name: sum((p[name] for p in parts), []) for name in parts[0]}
        )
        begin = 0
        for episode in group:
            row = {
                "episode_index": episode,
                "length": LENGTHS[episode],
                "tasks": [f"task {episode % 2}"],
                "data/chunk_index": 0,
                "data/file_index": file,
                f"videos/{CAMERA}/chunk_index": 0,
                f"videos/{CAMERA}/file_index": file,
                f"videos/{CAMERA}/from_timestamp": begin / FPS,
                f"videos/{CAMERA}/to_timestamp": (begin + LENGTHS[episode]) / FPS,
            }
            begin += LENGTHS[episode]
            for name, value in row.items():
                rows.setdefault(name, []).append(value)
    write_table(root / "meta/episodes/chunk-000/file-000.parquet", rows)
    return root


WRITERS = {"v2.1": write_2, "v3.0": write_3}


@pytest.mark.parametrize("version", WRITERS)
@pytest.mark.parametrize("workers", [0, 2])
def test_episodes_come_with_their_frames_actions_rewards_and_tasks(
    tmp_path: Path, call: Call, version: str, workers: int
) -> None:
    source, out = WRITERS[version](tmp_path / "source"), tmp_path / "out"
    assert call("import_lerobot", "debug", "--source", source, "--out", out, "--workers", workers) == 0
    train, held_out = Dataset.open(out / "train"), Dataset.open(out / "held_out")
    assert train.num_frames + held_out.num_frames == sum(LENGTHS)
    assert train.meta.fps == FPS and train.meta.tasks == ("task 0", "task 1")
    assert train.meta.action_space["continuous"] == ["shoulder", "gripper"]
    assert json.loads((out / "actions.json").read_text()) == {"shoulder": [0.0, 400.0], "gripper": [7.0, 7.0]}
    seen = set()
    for dataset in (train, held_out):
        for index, sample in enumerate(dataset.samples):
            clip = dataset.read_window(index, 0, sample.length)
            assert isinstance(clip, EpisodeClip)
            brightness = clip.frames.float().mean((1, 2, 3)).numpy()
            episode = round((float(brightness[0]) - 20 - sample.start) / 50)
            seen.add((episode, sample.start))
            frames = np.arange(sample.start, sample.start + sample.length)
            np.testing.assert_allclose(brightness, 20 + 50 * episode + frames, atol=3)
            assert clip.labeled.tolist() == [t > 0 for t in frames]
            chosen = np.linspace(0, 100 * (episode + 1), LENGTHS[episode])[frames - 1] / 200 - 1
            expected = np.where(frames > 0, chosen, 0)
            np.testing.assert_allclose(clip.actions[:, 0].numpy(), expected, atol=1e-5)
            assert not clip.actions[:, 1].any() and clip.continues.all()
            assert clip.rewards.tolist() == [max(0, t - 1) for t in frames]
            assert clip.task.item() == episode % 2
    assert seen == {(0, 0), (1, 0), (1, 32), (2, 0), (3, 0), (3, 32)}


def test_an_import_goes_on_and_refuses_what_changed(
    tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    source, out = write_2(tmp_path / "source"), tmp_path / "out"
    options = ("import_lerobot", "debug", "--source", source, "--out", out)
    assert call(*options) == 0
    before = Dataset.open(out / "train").fingerprint()
    (out / "train/shard-000000.json").unlink()
    assert call(*options) == 0
    assert Dataset.open(out / "train").fingerprint() == before
    (source / "videos/chunk-000" / CAMERA / "episode_000001.mp4").unlink()
    assert call(*options) == 1
    assert "episode_000001.mp4 is missing: download the dataset again" in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"codebase_version": "v1.6"}, "of format v1.6, have: v2.0, v2.1, v3.0"),
        ({"video_path": "../../{video_key}.mp4"}, "names a file outside of it"),
        ({"features": {}}, "camera=None is none of the videos"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(
    tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str], change: dict[str, Any], sentence: str
) -> None:
    source = write_2(tmp_path / "source")
    path = source / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert call("import_lerobot", "debug", "--source", source, "--out", tmp_path / "out") == 1
    assert sentence in " ".join(capfd.readouterr().err.split())
    assert call("import_lerobot", "debug", "--source", tmp_path, "--out", tmp_path / "out") == 1
    assert "has no meta/info.json" in " ".join(capfd.readouterr().err.split())
