"""Encode video shards into latent shards with a trained tokenizer, episode by episode as a stream would.

python -m launch.encode_latents laptop
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from launch.command import main
from launch.models import default_device, fingerprint, for_inference, load_tokenizer
from launch.run_folder import write_json
from launch.training import open_dataset
from tokenizer.autoencoder import Tokenizer, to_float
from tokenizer.records import EpisodeClip
from tokenizer.shard_format import INDEX, CorruptSample
from tokenizer.shard_writer import ShardWriter, finish_dataset, has_shard
from tokenizer.shards import Dataset


@dataclass(frozen=True, kw_only=True)
class EncodeLatents:
    tokenizer: Path
    """Run folder of the tokenizer."""
    data: Path
    """Folder with `train` and `held_out` video shards."""
    out: Path
    """Folder that gets `train` and `held_out` latent shards."""


def encode_latents(config: EncodeLatents) -> None:
    tokenizer = load_tokenizer(config.tokenizer)
    mark = fingerprint(tokenizer)
    tokenizer = for_inference(tokenizer, default_device(), compile=False)
    for part in ("train", "held_out"):
        encode_dataset(tokenizer, mark, open_dataset(config.data / part, "frames"), config.out / part)


def encode_dataset(tokenizer: Tokenizer, mark: str, dataset: Dataset, out: Path) -> None:
    """Writes one latent shard for each video shard; shards that are there already are kept."""
    _claim(out, {"tokenizer": mark, "video": dataset.fingerprint()[:16]})
    if (out / INDEX).exists():
        Dataset.open(out)  # says what is missing
        print(f"already done: {out}")
        return
    meta = replace(dataset.meta, kind="latents", tokenizer=mark, item_shape=tokenizer.config.latent_shape)
    shards = sorted({sample.shard for sample in dataset.samples})
    began, frames = time.perf_counter(), 0
    for number, shard in enumerate(shards):
        if has_shard(out, number):
            continue
        with ShardWriter(out, number, meta) as writer:
            for index, sample in enumerate(dataset.samples):
                if sample.shard == shard:
                    frames += _encode_sample(tokenizer, dataset, index, writer)
        rate = frames / (time.perf_counter() - began)
        left = sum(sample.length for sample in dataset.samples if sample.shard in shards[number + 1 :]) / max(rate, 1)
        print(f"{out}: shard {number + 1} of {len(shards)}, {rate:.0f} frames/s, {left:.0f} s left", flush=True)
    finish_dataset(out, meta)


def _claim(out: Path, made_of: dict[str, str]) -> None:
    """Notes in the folder what is encoded there with what, so that no other shards fill up its gaps."""
    path = out / "encode.json"
    if not path.exists():
        if any(out.glob("shard-*")):
            raise ValueError(f"{out} holds shards that this command did not write: delete it or name another --out")
        write_json(path, made_of)
        return
    before = json.loads(path.read_text())
    for name, value in made_of.items():
        if before.get(name) != value:
            raise ValueError(
                f"{out} holds latents of {name} {before.get(name)}, this one is {value}: "
                f"delete {out} or name another --out"
            )


@torch.no_grad()
def _encode_sample(tokenizer: Tokenizer, dataset: Dataset, index: int, writer: ShardWriter) -> int:
    sample = dataset.samples[index]
    try:
        clip = dataset.read_window(index, 0, sample.length)
    except CorruptSample as error:
        print(f"skipped: {error}")
        return 0
    assert isinstance(clip, EpisodeClip)
    latents = encode_episode(tokenizer, clip.frames)
    known = bool(clip.labeled.any())
    writer.write(
        sample.key,
        latents=latents.numpy().astype(np.float16),
        actions=clip.actions.numpy() if known else None,
        labeled=clip.labeled.numpy() if known else None,
        rewards=clip.rewards.numpy(),
        continues=clip.continues.numpy(),
        task=sample.task,
        start=sample.start,
    )
    return sample.length


def encode_episode(tokenizer: Tokenizer, frames: torch.Tensor, chunk: int = 256) -> torch.Tensor:
    """Latents [t, n, d] of an episode's frames [t, c, h, w], each with the past that the window shows it."""
    device = next(tokenizer.parameters()).device
    reach = tokenizer.config.encoder.window * max(1, tokenizer.config.encoder.time_layers)
    parts = []
    for start in range(0, len(frames), chunk):
        first = max(0, start - reach)
        latents = tokenizer.encode(to_float(frames[first : start + chunk].to(device)).unsqueeze(0))[0]
        parts.append(latents[start - first :].float().cpu())
    return torch.cat(parts)


PRESETS = {
    name: EncodeLatents(
        tokenizer=Path(f"runs/{name}/tokenizer"), data=Path(f"runs/{name}/data"), out=Path(f"runs/{name}/latents")
    )
    for name in ("debug", "laptop")
}

if __name__ == "__main__":
    main(PRESETS, encode_latents, description=__doc__, processes="first")
