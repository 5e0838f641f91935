"""Open loop: windows, dreams from equal noise, and pixels that do not depend on how a video is cut."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dynamics.world_model import WorldModel
from launch import open_loop as subject
from launch.distributed import say_once
from launch.dream import PRESETS
from launch.open_loop import (
    Models,
    OpenLoop,
    beyond_training,
    clip_batches,
    decode,
    episodes_of,
    load_clips,
    open_loop,
    other_actions,
)
from launch.run_folder import write_json
from launch.training import open_dataset
from tests.builders import DYNAMICS, META, MIXED, SMALL, TOKENIZER, action_rows, latent_clip, randomised
from tokenizer.autoencoder import Tokenizer
from tokenizer.records import EpisodeClip
from tokenizer.shard_format import clip_key
from tokenizer.shard_writer import ShardWriter, finish_dataset
from tokenizer.shards import Dataset

Call = Callable[..., int]
Say = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    config = replace(TOKENIZER, frame_size=(64, 64), patch=16)
    return randomised(Tokenizer(config)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def world() -> WorldModel:
    return randomised(WorldModel(DYNAMICS)).eval().requires_grad_(False)


@pytest.fixture
def held_out(pipeline: Path) -> Dataset:
    return open_dataset(pipeline / "data/held_out", "frames")


@pytest.fixture
def config(pipeline: Path) -> OpenLoop:
    return replace(PRESETS["debug"], held_out=pipeline / "data/held_out", starts=5)


def test_windows_of_two_clips_of_an_episode_are_of_one_episode(config: OpenLoop, tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 0, META) as shard:
        for key, start in (("a", 0), ("a", 5), ("b", 0)):
            shard.write(clip_key(key, start), start=start, frames=np.zeros((6, 3, 4, 4), np.uint8))
    finish_dataset(tmp_path, META)
    cut = replace(config, context=2, horizon=2, skip_frames=0)
    assert episodes_of(cut, Dataset.open(tmp_path), 6) == [0, 0, 0, 0, 1, 1]
    assert episodes_of(cut, Dataset.open(tmp_path, tmp_path), 6) == [0, 0, 1, 2, 2, 3], "parts may name episodes alike"


def test_batches_are_all_windows_once_and_never_so_small_that_a_clip_has_no_other(
    config: OpenLoop, held_out: Dataset, tokenizer: Tokenizer
) -> None:
    batches = list(clip_batches(config, held_out, tokenizer, 5, 2))
    assert [len(batch.places) for batch in batches] == [3, 2]
    assert [batch.seed for batch in batches] == [0, 1]
    places = sum((batch.places for batch in batches), [])
    assert len(places) == len(set(places)) == 5 and {sample for sample, _ in places} == {0, 1}
    for batch in batches:
        for row, (sample, first) in enumerate(batch.places):
            window = held_out.read_window(sample, first, config.length)
            assert isinstance(window, EpisodeClip)
            assert torch.equal(batch.clips.frames[row], window.frames)
            assert torch.equal(batch.latents.actions[row], window.actions)


def test_latents_of_a_window_know_the_episode_before_it(held_out: Dataset, tokenizer: Tokenizer) -> None:
    late = load_clips(held_out, [(0, 7)], 5, tokenizer)[1].latents
    whole = load_clips(held_out, [(0, 0)], 12, tokenizer)[1].latents
    torch.testing.assert_close(late, whole[:, 7:], atol=1e-5, rtol=1e-4)


def test_video_without_actions_is_no_answer_to_what_became_of_them(
    held_out: Dataset, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlabeled(dataset: Dataset, *place: int) -> EpisodeClip:
        clip = read_window(dataset, *place)
        assert isinstance(clip, EpisodeClip)
        return replace(clip, labeled=torch.zeros_like(clip.labeled))

    read_window = Dataset.read_window
    monkeypatch.setattr(Dataset, "read_window", unlabeled)
    with pytest.raises(ValueError, match="holds video whose actions are not known"):
        load_clips(held_out, [(0, 7)], 5, tokenizer)


def test_the_shuffled_actions_of_a_clip_are_never_its_own() -> None:
    for count in (2, 3, 16):
        actions = torch.arange(count).view(count, 1, 1).float()
        shuffled = other_actions(actions)
        assert (shuffled != actions).all() and sorted(shuffled.flatten().tolist()) == list(range(count))


def test_a_dream_heeds_its_actions_unless_they_are_unlabeled(world: WorldModel) -> None:
    context = latent_clip(2, 3)
    one, other = action_rows(MIXED, 2, 4), action_rows(MIXED, 2, 4, seed=1)
    torch.testing.assert_close(open_loop(world, context, one, seed=3)[:, :3], context.latents)
    assert torch.equal(open_loop(world, context, one, seed=3), open_loop(world, context, one, seed=3))
    assert not open_loop(world, context, one, seed=3).allclose(open_loop(world, context, other, seed=3), atol=1e-3)
    nothing = [open_loop(world, context, actions, seed=3, labeled=False) for actions in (one, other)]
    assert torch.equal(*nothing) and not nothing[0].allclose(open_loop(world, context, one, seed=3), atol=1e-3)


def test_a_long_dream_tells_how_far_it_is(world: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "FRAMES_AT_ONCE", 3)
    told: list[int] = []
    dream = open_loop(world, latent_clip(2, 3), action_rows(MIXED, 2, 8), seed=0, tell=told.append)
    assert told == [3, 3, 2] and dream.shape[1] == 11


def test_pixels_do_not_depend_on_how_a_video_is_cut(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    latents = torch.rand(2, 9, *tokenizer.config.latent_shape) - 0.5
    whole = tokenizer.decode(latents).clamp(0, 1)[:, 2:]
    monkeypatch.setattr(subject, "FRAMES_AT_ONCE", 4)
    torch.testing.assert_close(decode(tokenizer, latents, 2), whole, atol=1e-5, rtol=1e-4)


def test_a_context_beyond_the_window_dreams_on_and_it_is_said_what_the_dream_knows_of_it(
    pipeline: Path, tmp_path: Path, call: Call, capfd: Say
) -> None:
    """The debug models attend to 6 frames; they learned from clips of 4 (the tokenizer) and 8 frames."""
    say_once.cache_clear()
    folders = {"held-out": "data/held_out", "tokenizer": "tokenizer", "dynamics": "dynamics"}
    given = [text for name, folder in folders.items() for text in (f"--{name}", pipeline / folder)]
    for context in (6, 7):
        options = ("debug", "--run", tmp_path / str(context), *given, "--context", context)
        assert call("dream", *options) == 0
        said = capfd.readouterr().out
        assert ("context=7 is longer than the attention window of 6 frames: a dream" in said) == (context > 6)
    curves = json.loads((tmp_path / "7/dream.json").read_text())["psnr"]
    assert len(curves["dream"]) == 8 and all(0 < value < 100 for value in curves["dream"])


def test_frames_before_the_window_of_one_layer_are_out_of_sight() -> None:
    config = replace(DYNAMICS, transformer=replace(SMALL, depth=2), context_level=8)
    world = randomised(WorldModel(config)).eval().requires_grad_(False)
    context, actions = latent_clip(2, 9), action_rows(MIXED, 2, 4)
    whole = open_loop(world, context, actions, seed=0)[:, 9:]
    other = replace(context, latents=torch.cat([-context.latents[:, :7], context.latents[:, 7:]], dim=1))
    assert torch.equal(open_loop(world, other, actions, seed=0)[:, 9:], whole)
    seen = replace(context, latents=torch.cat([context.latents[:, :7], -context.latents[:, 7:]], dim=1))
    assert not open_loop(world, seen, actions, seed=0)[:, 9:].allclose(whole, atol=1e-3)


def test_dreams_beyond_the_clips_of_a_training_are_told_of_where_the_window_shows_them(
    config: OpenLoop, tokenizer: Tokenizer, world: WorldModel, tmp_path: Path
) -> None:
    """Both models attend to 3 frames."""
    models = Models(tokenizer, world)
    for length, long_length, told in ((2, None, 2), (2, 3, 0), (3, None, 0)):
        for name in ("tokenizer", "dynamics"):
            write_json(tmp_path / name / "config.json", {"length": length, "long_length": long_length})
        found = list(beyond_training(replace(config, tokenizer=tmp_path / "tokenizer"), tmp_path / "dynamics", models))
        assert len(found) == told + 1 and "context=4 is longer than the attention window of 3" in found[0]
        for said, name in zip(found[1:], ("tokenizer", "dynamics"), strict=True) if told else ():
            assert f"{tmp_path / name} learned from clips of at most 2 frames, and has 12 to go through with" in said
    short = replace(config, tokenizer=tmp_path / "nowhere", context=1, horizon=1)
    assert list(beyond_training(short, tmp_path / "nowhere", models)) == []


def test_drives_that_the_tokenizer_learned_from_are_said_to_be_not_held_out(
    config: OpenLoop, tokenizer: Tokenizer, world: WorldModel, tmp_path: Path
) -> None:
    drives = replace(config, tokenizer=tmp_path / "tokenizer", held_out=tmp_path / "data", context=1, horizon=1)
    for data, told in ((f"{tmp_path}/other", False), (f"{tmp_path}/other/../data", True)):
        write_json(tmp_path / "tokenizer/config.json", {"data": data})
        found = list(beyond_training(drives, tmp_path / "nowhere", Models(tokenizer, world)))
        assert found == [f"{tmp_path}/tokenizer was trained on {tmp_path}/data: these drives are not held out"] * told


def test_sizes_that_make_no_sense_are_named(config: OpenLoop) -> None:
    with pytest.raises(ValueError, match="starts=1, needs at least 2"):
        replace(config, starts=1)
