"""Which clips are worth cloning (Dreamer 4, sec. 3.3: half of a batch is uniform, half accomplishes a task)."""

import math
from collections.abc import Sequence

from tokenizer.shards import Dataset, Sample


def relevant_clips(dataset: Dataset, share: float = 0.5) -> Dataset:
    """The best `share` of each task's clips by return; all of them where the rewards tell none apart.

    By the return of whole clips, not of windows: a window at the start of a drive, or one that recovers from a mistake,
    earns little, and a policy that never saw one neither starts nor recovers.
    """
    tasks = {sample.task for sample in dataset.samples}
    bounds = {task: _bound([s for s in dataset.samples if s.task == task], share) for task in tasks}
    return dataset.only([sample for sample in dataset.samples if sample.reward_sum >= bounds[sample.task]])


def _bound(samples: Sequence[Sample], share: float) -> float:
    """The least return among the best; with an even number of clips half of them are above the median."""
    returns = sorted((sample.reward_sum for sample in samples), reverse=True)
    return returns[max(1, math.ceil(share * len(returns))) - 1]
