"""Which clips are worth cloning (Dreamer 4, sec. 3.3: half of a batch is uniform, half accomplishes a task)."""

import math
from collections.abc import Sequence

from tokenizer.shards import Dataset, Sample


def relevant_clips(dataset: Dataset, share: float = 0.5) -> Dataset:
    """The best `share` of each task's clips by return; all of them where the rewards tell none apart.

    Where fewer than that earned more than the least, only these: of rare events the clips that show one. A task of
    which nothing was ever earned is not cloned beside others. Nor is video without actions, of which nothing is known.

    By the return of whole clips, not of windows: a window at the start of a drive, or one that recovers from a mistake,
    earns little, and a policy that never saw one neither starts nor recovers.
    """
    tasks: dict[int, list[Sample]] = {}
    labeled = [sample for sample in dataset.samples if sample.has_actions] or dataset.samples
    for sample in labeled:
        tasks.setdefault(sample.task, []).append(sample)
    paid = {task for task, samples in tasks.items() if any(sample.reward_sum for sample in samples)} or set(tasks)
    bounds = {task: _bound(tasks[task], share) for task in paid}
    return dataset.only([s for s in labeled if s.task in paid and s.reward_sum >= bounds[s.task]])


def _bound(samples: Sequence[Sample], share: float) -> float:
    """The least return among the best; with an even number of clips half of them are above the median."""
    returns = sorted((sample.reward_sum for sample in samples), reverse=True)
    bound = returns[max(1, math.ceil(share * len(returns))) - 1]
    above = [value for value in returns if value > returns[-1]]
    return min(above) if above and bound == returns[-1] and share < 1 else bound
