"""Which clips are worth cloning (Dreamer 4, sec. 3.3: half of a batch is uniform, half accomplishes a task)."""

from statistics import median

from tokenizer.shards import Dataset


def relevant_clips(dataset: Dataset) -> Dataset:
    """The better half of the clips by return; all of them where the rewards tell none apart.

    By the return of whole clips, not of windows: a window at the start of a drive, or one that recovers from a mistake,
    earns little, and a policy that never saw one neither starts nor recovers.
    """
    bound = median(sample.reward_sum for sample in dataset.samples)
    better = [sample for sample in dataset.samples if sample.reward_sum >= bound]
    return dataset.only(better)
