"""Records keep their fields together when they are stacked, joined, moved and indexed."""

from dataclasses import fields, replace

import torch

from tests.builders import episode_clip, latent_clip
from tokenizer.records import EpisodeClip, LatentClip


def same(one: LatentClip, other: LatentClip) -> bool:
    return all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))


def test_stacking_single_clips_gives_a_batch_whose_rows_they_are() -> None:
    batch = latent_clip(3, 4)
    singles = [LatentClip(**{f.name: getattr(batch, f.name)[i] for f in fields(batch)}) for i in range(3)]
    assert singles[0].task.shape == () and singles[0].num_frames == 4
    assert same(LatentClip.stack(singles), batch)


def test_concatenating_the_rows_of_a_batch_gives_it_back() -> None:
    batch = latent_clip(5, 4)
    assert same(LatentClip.concatenate([batch[:2], batch[2:]]), batch)


def test_an_index_selects_rows_of_every_field() -> None:
    batch = latent_clip(5, 4)
    chosen = batch[torch.tensor([3, 1])]
    for f in fields(batch):
        assert torch.equal(getattr(chosen, f.name)[0], getattr(batch, f.name)[3])
        assert torch.equal(getattr(chosen, f.name)[1], getattr(batch, f.name)[1])
    assert chosen.num_frames == 4


def test_a_window_cuts_every_field_in_time_and_leaves_the_task() -> None:
    batch = latent_clip(3, 6)
    cut = batch.window(2, 5)
    assert cut.num_frames == 3 and torch.equal(cut.task, batch.task)
    for f in fields(batch):
        if f.name != "task":
            assert torch.equal(getattr(cut, f.name), getattr(batch, f.name)[:, 2:5])
    single = LatentClip(**{f.name: getattr(batch, f.name)[1] for f in fields(batch)})
    assert torch.equal(single.window(2, 5).latents, batch.latents[1, 2:5]) and single.window(2, 5).task.ndim == 0


def test_moving_keeps_the_kind_and_moves_every_field() -> None:
    moved = episode_clip(2, 3).to("meta")
    assert isinstance(moved, EpisodeClip)
    assert all(getattr(moved, f.name).is_meta for f in fields(moved))


def test_a_clip_that_goes_on_with_other_episodes_tells_them_apart() -> None:
    """Of the second nothing is known but video; the first and the third have actions."""
    batch = replace(
        latent_clip(2, 6),
        is_first=torch.tensor([[False, False, True, False, True, False], [True, False, False, False, False, False]]),
        labeled=torch.tensor([[False, True, False, False, False, True], [False] * 6]),
    )
    assert batch.episode.tolist() == [[0, 0, 1, 1, 2, 2], [0] * 6]
    assert batch.has_actions.tolist() == [[True, True, False, False, True, True], [False] * 6]
    single = LatentClip(**{f.name: getattr(batch, f.name)[0] for f in fields(batch)})
    assert torch.equal(single.episode, batch.episode[0]) and torch.equal(single.has_actions, batch.has_actions[0])
