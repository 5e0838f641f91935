"""Tasks by their names: which number one has in data or in an environment."""

from collections.abc import Sequence

from tokenizer.shard_format import DatasetMeta


def number_of(task: str, tasks: Sequence[str], of: str) -> int:
    """Of a task in a list of names, the first where none is named. Raises ValueError where it is none of them."""
    if task and task not in tasks:
        raise ValueError(f"task {task!r} is none of the tasks of {of}: {', '.join(tasks)}")
    return tasks.index(task) if task else 0


def scored_task(task: str, meta: DatasetMeta, have: Sequence[str]) -> int:
    """Number in the environment, which has these, of a task of the data, their first where none is named.

    The environment's first where the data's first has a name of its own there. An environment that has one task alone
    scores by it, whatever data from elsewhere calls what was done.
    """
    name = task or meta.tasks[0]
    if name not in have and (not task or len(have) == 1):
        return 0
    return number_of(name, have, meta.environment)
