"""Trains the tiny model on the rows of this rank: accelerate launch tests/launch/two_ranks.py RUN"""

import sys
from pathlib import Path

import torch
from tiny import TinyModel, TinyStream

from launch.distributed import accelerated
from launch.loop import LoopConfig, train

if __name__ == "__main__":
    run = Path(sys.argv[1])
    with accelerated("fp32", run) as accelerator:
        torch.manual_seed(accelerator.process_index)  # the ranks must agree on the first one's weights all the same
        stream = TinyStream(4, rank=accelerator.process_index, ranks=accelerator.num_processes)
        config = LoopConfig(steps=5, log_every=1, precision="fp32", schedule="constant", warmup_steps=0)
        train(TinyModel(noise=0), stream, config, run, accelerator=accelerator)
