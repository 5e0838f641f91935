"""Make a dataset of VPT's recordings of Minecraft players: mp4 and jsonl files become shards with actions and rewards.

    python -m launch.import_vpt laptop --source ~/vpt --out runs/vpt/data
    python -m launch.import_vpt dreamer4 --index all_10xx_Jun_29.json --source ~/vpt --workers 64 --out runs/vpt/data
    python -m launch.import_vpt dreamer4 --index all_6xx_Jun_29.json --workers 64 --out runs/vpt6/data

--source is a folder or a URL that holds what the index files list (`10.0/NAME.mp4` and `10.0/NAME.jsonl`). With index
files alone each recording is fetched from where its index says, and deleted when it is read; with a folder alone all
in it is read. What cannot be read is left out, and OUT/quality.json says why. Sessions are held out whole, and the
last frame of a clip is the first of the next one (docs/minecraft.md).

OUT/train and OUT/held_out are what the training commands read. Run again, it goes on with the shards that are missing.
"""

import shutil
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path

from agent.envs.minecraft_actions import MINECRAFT
from agent.envs.minecraft_events import TASKS
from launch.command import main
from launch.importing import ImportConfig, Notes, import_recordings, presets
from launch.run_folder import write_json
from launch.vpt_report import print_report, quality_report
from launch.vpt_segments import FETCHED, FPS, Segment, file_of, find_segments
from tokenizer.shard_format import DatasetMeta
from tokenizer.storage import is_url

ENVIRONMENT = "Minecraft"


@dataclass(frozen=True, kw_only=True)
class ImportVPT(ImportConfig):
    """Of `held_out`, sessions are counted."""

    index: tuple[Path, ...] = ()
    """VPT's index files: of these recordings. Without them all of the source are meant."""
    source: str | None = None
    """Folder or URL that holds them; where not given, each index says it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_frames < 2:
            raise ValueError(f"clip_frames={self.clip_frames}: a clip shares a frame with the one before, it needs 2")


def import_vpt(config: ImportVPT) -> None:
    """Makes what is missing. Raises ValueError where nothing can be read, or the folder holds another dataset."""
    make = partial(_segment, config)
    segments, unreadable = find_segments(config.index, config.source, make)
    for name, reason in unreadable.items():
        print(f"left out {name}: {reason}")
    if not segments:
        raise ValueError(f"none of {len(unreadable)} recordings can be read: {next(iter(unreadable.values()))}")
    meta = DatasetMeta(
        environment=ENVIRONMENT, frame_size=config.size, fps=FPS, action_space=MINECRAFT.to_json(), tasks=TASKS
    )

    def report(notes: Notes) -> None:
        seen = quality_report(segments, unreadable, notes)
        write_json(config.out / "quality.json", seen)
        print_report(seen)

    import_recordings(
        config,
        segments,
        meta,
        sizes={name: size for segment in segments for name, size in _sizes(segment).items()},
        group=attrgetter("session"),
        shared=1,
        report=report,
    )
    for folder in config.out.glob(f"{FETCHED}*"):  # of commands that were killed
        shutil.rmtree(folder, ignore_errors=True)


def _segment(config: ImportVPT, base: str, name: str, frames: int) -> Segment:
    return Segment(base=base, name=name, frames=frames, size=config.size, fit=config.fit, scratch=config.out)


def _sizes(segment: Segment) -> dict[str, int]:
    """Bytes of its files; 0 where they are elsewhere."""
    names = {suffix: f"{segment.name}.{suffix}" for suffix in ("mp4", "jsonl")}
    if is_url(segment.base):
        return dict.fromkeys(names.values(), 0)
    return {name: file_of(Path(segment.base), segment.name, suffix).stat().st_size for suffix, name in names.items()}


_LAPTOP = ImportVPT(out=Path("runs/laptop/data"), size=(64, 64), fit="stretch")
_PRESETS = presets(_LAPTOP)
PRESETS = {**_PRESETS, "dreamer4": replace(_PRESETS["dreamer4"], shard_frames=24000, held_out=32)}

if __name__ == "__main__":
    main(PRESETS, import_vpt, description=__doc__, processes="first")
