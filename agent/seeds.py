"""Which seeds belong to what, so that no track is both trained on and judged.

A seed names a track. Each purpose owns the block of a million seeds from its start on.
"""

BLOCK = 1_000_000
TRAIN_TRACKS = 0 * BLOCK
HELD_OUT_TRACKS = 1 * BLOCK
EVALUATION_TRACKS = 2 * BLOCK
EVOLUTION_TRACKS = 3 * BLOCK
CHAMPION_TRACKS = 4 * BLOCK
"""On which an evolution chooses which of its controllers to keep."""


def track_seed(start: int, seed: int, episode: int) -> int:
    """The track of an episode: run `seed` owns 10,000 tracks in the block at `start`, and goes on into the next run's.

    Raises ValueError where the run or the episode has no place in the block.
    """
    if not 0 <= seed < 100:
        raise ValueError(f"seed={seed}, allowed: 0 to 99 (each owns 10,000 tracks)")
    place = 10_000 * seed + episode
    if episode < 0 or place >= BLOCK:
        raise ValueError(f"episode {episode} of a run of seed {seed}, allowed: 0 to {BLOCK - 10_000 * seed - 1}")
    return start + place
