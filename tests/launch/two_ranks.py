"""Trains the tiny model on the rows of this rank: accelerate launch tests/launch/two_ranks.py RUN [KILLED]

The second rank is killed before the batch of number KILLED.
"""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tiny import TinyModel, TinyStream

from launch.distributed import accelerated
from launch.loop import LoopConfig, train
from tokenizer.records import EpisodeClip


class Killed(TinyStream):
    killed = int(sys.argv[2]) if len(sys.argv) > 2 else 0

    def __iter__(self) -> Iterator[EpisodeClip]:
        for batch in super().__iter__():
            if self.rank == 1 and self.taken == self.killed:
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


if __name__ == "__main__":
    run = Path(sys.argv[1])
    with accelerated("fp32", run) as accelerator:
        torch.manual_seed(accelerator.process_index)  # the ranks must agree on the first one's weights all the same
        stream = Killed(4, rank=accelerator.process_index, ranks=accelerator.num_processes)
        config = LoopConfig(steps=5, log_every=1, precision="fp32", schedule="constant", warmup_steps=0, save_every=2)
        train(TinyModel(noise=0), stream, config, run, accelerator=accelerator)
