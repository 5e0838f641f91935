"""Encoding a dataset: the same bytes whoever does it and however often it is cut short, and never two at one shard."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from launch.encode_latents import EncodeLatents, encode_latents
from launch.run_folder import held
from tokenizer.shard_format import DatasetMeta
from tokenizer.shard_writer import ShardWriter, finish_dataset
from tokenizer.shards import Dataset

ROOT = Path(__file__).parents[2]
SHARDS = 6
Call = Callable[..., int]
Say = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def data(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in the shape of the pipeline's video: episodes longer than what is read at once, and short ones."""
    folder, rng = tmp_path_factory.mktemp("video"), np.random.default_rng(0)
    found = Dataset.open(pipeline / "data/train").meta
    meta = DatasetMeta(
        environment="toy", frame_size=found.frame_size, fps=20, action_space=found.action_space, tasks=("one", "two")
    )
    for part, shards in (("train", SHARDS), ("held_out", 1)):
        for number in range(shards):
            with ShardWriter(folder / part, number, meta) as shard:
                for index, length in enumerate((300, 40)):
                    frames = rng.integers(0, 256, (length, 3, *meta.frame_size), np.uint8)
                    actions = rng.uniform(-1, 1, (length, meta.action_size)) if number else None
                    rewards = rng.normal(size=(length, 2) if number else length)
                    first = {"task": index, "start": index * 300}
                    shard.write(f"clip-{number}-{index}", frames=frames, actions=actions, rewards=rewards, **first)
        finish_dataset(folder / part, meta)
    return folder


def config(pipeline: Path, data: Path, out: Path, workers: int = 1) -> EncodeLatents:
    return EncodeLatents(tokenizer=pipeline / "tokenizer", data=data, out=out, workers=workers)


@pytest.fixture(scope="module")
def straight(pipeline: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of it in one go."""
    out = tmp_path_factory.mktemp("latents")
    encode_latents(config(pipeline, data, out))
    return out


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_latents_keep_what_came_with_the_frames(data: Path, straight: Path) -> None:
    video, latents = Dataset.open(data / "train"), Dataset.open(straight / "train")
    assert [(s.key, s.length, s.start) for s in video.samples] == [(s.key, s.length, s.start) for s in latents.samples]
    assert latents.meta.tasks == ("one", "two") and [s.task for s in latents.samples] == [0, 1] * SHARDS
    for index in (0, 1, 2):
        shown = video.read_window(index, 0, video.samples[index].length)
        hidden = latents.read_window(index, 0, video.samples[index].length)
        for name in ("actions", "labeled", "rewards", "continues", "is_first", "task"):
            assert getattr(shown, name).equal(getattr(hidden, name)), name
        np.testing.assert_array_equal(latents.read_rewards(index), video.read_rewards(index))
    assert latents.read_rewards(2).shape == (300, 2)
    assert "actions.npy" not in latents.samples[0].members and "actions.npy" in latents.samples[2].members


def test_two_workers_make_the_bytes_of_one(pipeline: Path, data: Path, straight: Path, tmp_path: Path) -> None:
    encode_latents(config(pipeline, data, tmp_path, workers=2))
    assert digests(tmp_path) == digests(straight)


def test_a_run_again_is_done_already_and_a_lost_shard_is_made_again(
    pipeline: Path, data: Path, straight: Path, tmp_path: Path, capsys: Say
) -> None:
    encode_latents(config(pipeline, data, tmp_path))
    assert f"{tmp_path}: 7 shards, 2380 frames in " in capsys.readouterr().out
    encode_latents(config(pipeline, data, tmp_path))
    assert capsys.readouterr().out == f"already done: {tmp_path}\n"
    (tmp_path / "train/shard-000002.tar").unlink()
    (tmp_path / "train/shard-000004.json").unlink()
    encode_latents(config(pipeline, data, tmp_path))
    assert f"{tmp_path}: 2 shards, 680 frames in " in capsys.readouterr().out
    assert digests(tmp_path) == digests(straight)


def test_a_rank_takes_its_own_share_first_and_only_the_first_one_speaks(
    pipeline: Path, data: Path, straight: Path, tmp_path: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "1")
    encode_latents(config(pipeline, data, tmp_path))
    assert not capsys.readouterr().out
    assert digests(tmp_path) == digests(straight)  # the other ranks never came
    # The held-out shard is order 6: ranks have the orders 0 3 6, 1 4 and 2 5.
    made = sorted((tmp_path / "train").glob("*.tar"), key=lambda path: path.stat().st_mtime_ns)
    assert [int(path.stem[-1]) for path in made] == [1, 4, 5, 3, 2, 0]
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(ValueError, match="RANK=3 is not one of WORLD_SIZE=3"):
        encode_latents(config(pipeline, data, tmp_path))


def start(config: EncodeLatents) -> subprocess.Popen[str]:
    folders = [f"--{name}={getattr(config, name)}" for name in ("tokenizer", "data", "out", "workers")]
    command = [sys.executable, "-m", "launch.encode_latents", "debug", *folders]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_for(process: subprocess.Popen[str], begun: Callable[[], object]) -> None:
    while process.poll() is None and not begun():
        time.sleep(0.001)


@pytest.mark.parametrize("end", [signal.SIGCONT, signal.SIGKILL])
def test_two_commands_share_the_work_and_one_that_dies_leaves_its_shards_to_the_other(
    pipeline: Path, data: Path, straight: Path, tmp_path: Path, end: signal.Signals
) -> None:
    """The first is stopped with a shard in its hands, while the second does the rest."""
    settings = config(pipeline, data, tmp_path)
    lock = tmp_path / "train/lock"
    with start(settings) as first:
        wait_for(first, lambda: [*(tmp_path / "train").glob("shard-*.tmp")])
        os.killpg(first.pid, signal.SIGSTOP)
        with held(lock, 1) as mine:  # that of shard 0
            assert not mine
        rest = [tmp_path / f"train/shard-{number:06d}.json" for number in range(1, SHARDS)]

        def end_first() -> bool:
            """Once the second has only to wait for it."""
            wait_for(first, lambda: all(path.exists() for path in rest))
            alone = not (tmp_path / "train/index.json").exists() and not (tmp_path / "train/shard-000000.tar").exists()
            os.killpg(first.pid, end)
            return alone

        with ThreadPoolExecutor(1) as thread:
            ended = thread.submit(end_first)
            encode_latents(settings)
        assert ended.result()
        first.communicate(timeout=60)
    assert first.returncode == (0 if end == signal.SIGCONT else -signal.SIGKILL)
    assert digests(tmp_path) == digests(straight)


def children(pid: int) -> list[int]:
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def workers_of(pid: int) -> list[int]:
    """The children of its fork server. None, if a process (a compiler's, say) ends while it is read."""
    try:
        servers = [child for child in children(pid) if b"forkserver" in Path(f"/proc/{child}/cmdline").read_bytes()]
        return [worker for server in servers for worker in children(server)]
    except (FileNotFoundError, ProcessLookupError):
        return []


def test_a_worker_that_is_killed_is_told_and_the_same_command_goes_on(
    pipeline: Path, data: Path, straight: Path, tmp_path: Path
) -> None:
    """One worker is stopped as soon as it is there, so that the command cannot end before it is killed."""
    with start(config(pipeline, data, tmp_path, workers=2)) as process:
        workers: list[int] = []

        def both_are_there() -> bool:
            workers[:] = workers_of(process.pid)
            return len(workers) == 2

        wait_for(process, both_are_there)
        victim = workers[-1]
        os.kill(victim, signal.SIGSTOP)
        wait_for(process, lambda: [*tmp_path.rglob("shard-*.json")])
        os.kill(victim, signal.SIGKILL)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: a worker process was killed" in said and "Traceback" not in said, said
    assert not (tmp_path / "held_out/index.json").exists()
    encode_latents(config(pipeline, data, tmp_path))
    assert digests(tmp_path) == digests(straight)


def test_other_latents_never_mix_whoever_is_first(pipeline: Path, data: Path, straight: Path) -> None:
    claim = straight / "train/encode.json"
    before = json.loads(claim.read_text())
    assert before.keys() == {"tokenizer", "video"}
    with pytest.raises(ValueError, match="holds latents of video"):
        encode_latents(config(pipeline, pipeline / "data", straight))
    assert json.loads(claim.read_text()) == before


def test_a_corrupt_sample_is_skipped_and_a_wholly_corrupt_shard_an_error(
    pipeline: Path, data: Path, tmp_path: Path, capsys: Say
) -> None:
    video = tmp_path / "video"
    (video / "held_out").mkdir(parents=True)
    (video / "train").mkdir()
    for path in data.rglob("*.*"):
        (video / path.relative_to(data)).write_bytes(path.read_bytes())

    def damage(index: int) -> None:
        sample = Dataset.open(video / "train").samples[index]
        with (video / "train" / sample.shard.name).open("r+b") as file:
            file.seek(sample.members["frames.npy"].offset + 500)
            file.write(b"\0\1\2\3")

    damage(2)
    encode_latents(config(pipeline, video, tmp_path / "out"))
    assert "skipped: sample 'clip-1-0' in shard-000001.tar" in capsys.readouterr().out
    assert len(Dataset.open(tmp_path / "out/train")) == 2 * SHARDS - 1
    damage(3)
    with pytest.raises(ValueError, match=r"every sample of .*train/shard-000001.tar is corrupt"):
        encode_latents(config(pipeline, video, tmp_path / "other"))


def test_no_workers_are_refused(pipeline: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="workers=0"):
        config(pipeline, data, tmp_path, workers=0)
