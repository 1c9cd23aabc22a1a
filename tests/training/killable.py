"""A small run as a process of its own, to be killed: python -m tests.training.killable WORKDIR."""

import sys
import time

from nvlm_jax.training.loop import train
from tests.tiny import make_batches, make_run_config

CONFIG = make_run_config("d", steps=24, checkpoint_every=3, keep_checkpoints=2, trainable=("projector",))


def slow_batches(start: int):
    for item in make_batches(CONFIG, start):
        time.sleep(0.05)  # so that a kill meets a run that is under way
        yield item


if __name__ == "__main__":
    print(train(CONFIG, sys.argv[1], slow_batches, ("number", "word")))
