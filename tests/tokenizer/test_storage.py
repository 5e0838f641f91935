"""Shards from elsewhere: the same windows as from here, through a cache that stays small, from servers that fail."""

import errno
import fcntl
import hashlib
import itertools
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.builders import META
from tests.serving import Fault, Server, serving
from tokenizer import storage
from tokenizer.files import DiskFull
from tokenizer.records import EpisodeClip
from tokenizer.shard_writer import ShardWriter, finish_dataset
from tokenizer.shards import Dataset, expand
from tokenizer.storage import RemoteFolder, Shard, ShardCache
from tokenizer.stream import ClipStream, StreamConfig

SHARDS, CLIPS = 4, 3
FIRST = "shard-000000.tar"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Shards of clips of 8 frames, each of noise of its own."""
    rng, out = np.random.default_rng(0), tmp_path / "served/data"
    for number in range(SHARDS):
        with ShardWriter(out, number, META) as shard:
            for clip in range(CLIPS):
                frames = rng.integers(0, 256, (8, 3, 4, 4), np.uint8)
                shard.write(f"clip-{number}-{clip}", frames=frames, actions=rng.uniform(-1, 1, (8, 1)).astype("f4"))
    finish_dataset(out, META)
    return out


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with serving(folder.parent) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    return ShardCache(folder=tmp_path / "cache", max_bytes=10**9, attempts=3, first_wait=0.01)


def frames(dataset: Dataset) -> list[torch.Tensor]:
    clips = [dataset.read_window(index, 2, 3) for index in range(len(dataset))]
    return [clip.frames for clip in clips if isinstance(clip, EpisodeClip)]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("named", ["", "/", "/index.json", "/shard-{000000..000003}.tar"])
def test_a_dataset_behind_http_is_the_one_in_the_folder(
    folder: Path, server: Server, cache: ShardCache, named: str
) -> None:
    local = Dataset.open(folder)
    remote = Dataset.open(f"{server.url}/data{named}", cache=cache)
    assert remote.meta == local.meta and remote.fingerprint() == local.fingerprint()
    assert same(frames(remote), frames(local)) and same(frames(remote), frames(local))
    assert [server.asked[f"shard-{number:06d}.tar"] for number in range(SHARDS)] == [1] * SHARDS  # kept after that


def test_other_places_that_fsspec_reads_work_alike(folder: Path, cache: ShardCache) -> None:
    remote = Dataset.open(folder.as_uri(), cache=cache)
    assert same(frames(remote), frames(Dataset.open(folder)))
    assert remote.samples[0].shard.place.remote and len(list(cache.folder.glob("*.tar"))) == SHARDS


def test_braces_choose_shards_and_folders(folder: Path) -> None:
    some = Dataset.open(f"{folder}/shard-{{000001..000002}}.tar")
    assert [sample.key for sample in some.samples] == [f"clip-{s}-{c}" for s in (1, 2) for c in range(CLIPS)]
    assert expand("a/{b,c}") == {"a/b": [], "a/c": []} and expand("index.json") == {".": []}
    with pytest.raises(ValueError, match=r"has no shard-000004.tar and 1 others: its 4 shards are shard-000000.tar to"):
        Dataset.open(f"{folder}/shard-{{000003..000005}}.tar")
    with pytest.raises(ValueError, match="would run a program"):
        Dataset.open("pipe:rm -rf /")


@pytest.mark.parametrize("fault", ["503", "drop", "half"])
def test_a_server_that_fails_now_and_then_is_asked_again(
    folder: Path, server: Server, cache: ShardCache, fault: Fault
) -> None:
    names = ("index.json", "shard-000001.json", FIRST)
    server.faults = {name: [fault, fault] for name in names}
    assert same(frames(Dataset.open(f"{server.url}/data", cache=cache)), frames(Dataset.open(folder)))
    assert [server.asked[name] for name in names] == [3, 3, 3]


def test_a_server_that_fails_for_good_is_named(server: Server, cache: ShardCache) -> None:
    remote = Dataset.open(f"{server.url}/data", cache=cache)
    server.faults = {FIRST: ["503"] * 3}
    with pytest.raises(OSError, match=f"{server.url}/data/{FIRST} cannot be had after 3 attempts: .*503"):
        remote.read_window(0, 0, 1)
    assert list(cache.folder.glob("*.partial")) == []
    assert remote.read_window(0, 0, 1).num_frames == 1  # it recovered


def test_what_is_missing_or_forbidden_is_not_asked_for_again(folder: Path, server: Server, cache: ShardCache) -> None:
    remote = Dataset.open(f"{server.url}/data", cache=cache)
    (folder / FIRST).unlink()
    with pytest.raises(FileNotFoundError, match=FIRST):
        remote.read_window(0, 0, 1)
    server.faults = {"shard-000001.tar": ["403"]}
    with pytest.raises(OSError, match="shard-000001.tar cannot be had: .*403"):
        remote.read_window(CLIPS, 0, 1)
    assert server.asked[FIRST] == server.asked["shard-000001.tar"] == 1
    with pytest.raises(ValueError, match="is no dataset: looked for .*/nowhere/index.json"):
        Dataset.open(f"{server.url}/nowhere", cache=cache)


def test_bytes_that_are_not_those_of_the_index_never_reach_the_cache(
    folder: Path, server: Server, cache: ShardCache
) -> None:
    remote = Dataset.open(f"{server.url}/data", cache=cache)
    data = bytearray((folder / FIRST).read_bytes())
    data[3000] ^= 1
    (folder / FIRST).write_bytes(data)
    with pytest.raises(OSError, match="is not the shard of the index"):
        remote.read_window(0, 0, 1)
    assert server.asked[FIRST] == 3 and list(cache.folder.glob("*.tar")) == []


def test_the_cache_stays_within_its_room_and_keeps_what_was_used_last(
    folder: Path, server: Server, cache: ShardCache
) -> None:
    size = (folder / FIRST).stat().st_size
    remote = Dataset.open(f"{server.url}/data", cache=replace(cache, max_bytes=2 * size + 1))
    for turn, shard in enumerate((0, 1, 0, 2, 0, 3, 0)):
        remote.read_window(shard * CLIPS, 0, 1)
        for number, path in enumerate(sorted(cache.folder.glob("*.tar"), key=lambda path: path.stat().st_mtime)):
            os.utime(path, (turn * 10 + number, turn * 10 + number))  # a clock that tells the turns apart
        assert sum(path.stat().st_size for path in cache.folder.glob("*.tar")) <= 2 * size
    assert server.asked[FIRST] == 1


def test_a_shard_that_is_read_may_be_driven_out(folder: Path, server: Server, cache: ShardCache) -> None:
    small = replace(cache, max_bytes=(folder / FIRST).stat().st_size)
    remote = Dataset.open(f"{server.url}/data", cache=small)
    with remote.samples[0].shard.open() as file:
        remote.samples[-1].shard.open().close()
        assert len(list(cache.folder.glob("*.tar"))) == 1
        assert hashlib.sha256(file.read()).hexdigest() == remote.samples[0].shard.sha256


def test_a_shard_above_the_whole_cache_is_refused(server: Server, cache: ShardCache) -> None:
    remote = Dataset.open(f"{server.url}/data", cache=replace(cache, max_bytes=100))
    with pytest.raises(ValueError, match=f"{FIRST} has .* GB, the whole cache"):
        remote.read_window(0, 0, 1)


def test_many_readers_fetch_a_shard_once(server: Server, cache: ShardCache) -> None:
    remote = Dataset.open(f"{server.url}/data", cache=cache)
    threads = [threading.Thread(target=lambda: remote.samples[0].shard.open().close()) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.asked[FIRST] == 1


def test_what_a_killed_process_left_behind_takes_no_room(folder: Path, server: Server, cache: ShardCache) -> None:
    size = (folder / FIRST).stat().st_size
    cache.folder.mkdir()
    stale = cache.folder / f"{'0' * 64}.{size}.partial"
    stale.write_bytes(bytes(size))
    remote = Dataset.open(f"{server.url}/data", cache=replace(cache, max_bytes=size))
    assert remote.read_window(0, 0, 1).num_frames == 1
    assert not stale.exists()


def test_a_full_disk_is_told_and_leaves_nothing(
    server: Server, cache: ShardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(url: str, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "copy_file", full)
    remote = Dataset.open(f"{server.url}/data", cache=cache)
    with pytest.raises(DiskFull, match=f"free some space in {cache.folder}"):
        remote.read_window(0, 0, 1)
    assert list(cache.folder.glob("*.partial")) == list(cache.folder.glob("*.tar")) == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_from_elsewhere_is_the_same_and_fetches_ahead(
    folder: Path, server: Server, cache: ShardCache, num_workers: int
) -> None:
    config = StreamConfig(length=4, batch_size=2, mix_shards=2, num_workers=num_workers)
    local = ClipStream(Dataset.open(folder), config)
    remote = ClipStream(Dataset.open(f"{server.url}/data", cache=cache), config)
    for mine, other in itertools.islice(zip(local, remote, strict=True), 2 * SHARDS * CLIPS):
        assert isinstance(mine, EpisodeClip) and isinstance(other, EpisodeClip)
        assert torch.equal(mine.frames, other.frames)
    assert all(server.asked[f"shard-{number:06d}.tar"] == 1 for number in range(SHARDS))


def test_the_next_shards_come_before_they_are_read(folder: Path, server: Server, cache: ShardCache) -> None:
    remote = Dataset.open(f"{server.url}/data", cache=cache)
    stream = ClipStream(remote, StreamConfig(length=4, batch_size=1, mix_shards=1))
    next(iter(stream))
    order = stream.slots.orders[0]
    here, after = order.next_shards(0, 0)
    assert here == remote.samples[order.sample(0, 0)].shard != after
    deadline = threading.Event()
    for _ in range(100):
        if server.asked[after.name]:
            break
        deadline.wait(0.05)
    assert server.asked[after.name] == 1 and sum(server.asked[s.name] for s in order.shards) == 2


def test_the_package_that_reads_a_place_is_named(cache: ShardCache) -> None:
    with pytest.raises(ValueError, match="nosuch://bucket/data/index.json cannot be read: .*nosuch"):
        Dataset.open("nosuch://bucket/data", cache=cache)
    with pytest.raises(ValueError, match="is not of this machine: shards from there need a cache"):
        Dataset.open("https://example.org/data")


def test_shards_go_to_worker_processes() -> None:
    place = RemoteFolder("http://x", ShardCache(folder=Path("c"), max_bytes=1))
    shard = Shard(place=place, name="a.tar", num_bytes=1, sha256="0")
    assert {shard} == {replace(shard)} and str(shard) == "a.tar"


@pytest.mark.parametrize("sha256", ["../../thesis", "/etc/passwd", "0" * 63])
def test_an_index_cannot_name_files_outside_the_cache(
    folder: Path, server: Server, cache: ShardCache, sha256: str
) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0]["sha256"] = sha256
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="index.json says of shard-000000.tar: sha256"):
        Dataset.open(f"{server.url}/data", cache=cache)


def test_shards_on_their_way_count_as_whole_ones(folder: Path, server: Server, cache: ShardCache) -> None:
    """Another process has just begun to fetch one, and there is room for two."""
    size = (folder / FIRST).stat().st_size
    remote = Dataset.open(f"{server.url}/data", cache=replace(cache, max_bytes=2 * size))
    coming = remote.samples[-1].shard
    cache.folder.mkdir()
    (cache.folder / f"{coming.sha256}.{coming.num_bytes}.partial").touch()
    with open(cache.folder / f"{coming.sha256}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for sample in (0, CLIPS):
            remote.read_window(sample, 0, 1)
            assert len(list(cache.folder.glob("*.tar"))) == 1
