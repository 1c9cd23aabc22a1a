"""Two runs of one config that several tests look at: one to the end, one stopped on its way."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from nvlm_jax.config import RunConfig
from nvlm_jax.training.loop import Outcome, train
from tests.tiny import make_batches, make_run_config

GROUPS = ("number", "word")
STOP_IN = 4  # the batch of step 5 is on its way when the signal comes


class Runs(NamedTuple):
    config: RunConfig
    whole: Path
    whole_outcome: Outcome
    stopped: Path
    stopped_outcome: Outcome


def stopping(config: RunConfig, start: int, number: int) -> Iterator:
    for i, item in enumerate(make_batches(config, start), start):
        if i == STOP_IN:
            os.kill(os.getpid(), number)
        yield item


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Runs:
    """Six steps of X, saved every two; the second run is stopped by SIGINT in its fifth."""
    config = make_run_config("x", checkpoint_every=2, trainable=("projector", "cross_attention"))
    whole, stopped = tmp_path_factory.mktemp("whole") / "run", tmp_path_factory.mktemp("stopped") / "run"
    outcome = train(config, whole, lambda start: make_batches(config, start), GROUPS)
    interrupted = train(config, stopped, lambda start: stopping(config, start, signal.SIGINT), GROUPS)
    return Runs(config, whole, outcome, stopped, interrupted)
