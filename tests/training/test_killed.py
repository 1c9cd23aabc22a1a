"""A run killed at any moment and started again computes the losses of one that was left alone, bit for bit."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nvlm_jax.training.telemetry import METRICS, read_metrics
from tests.commands import Command
from tests.training.killable import CONFIG
from tests.training.test_loop import exact_record

SECONDS = 300  # that a start may take on a busy machine


def lines(workdir: Path) -> int:
    path = workdir / METRICS
    return path.read_bytes().count(b"\n") if path.exists() else 0


def unfinished(workdir: Path) -> list[Path]:
    return list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def run(workdir: Path, kill_when: Callable[[], bool] = lambda: False) -> int:
    """Start the run; SIGKILL it as soon as `kill_when` holds. Returns the exit code."""
    process = Command("tests.training.killable", str(workdir)).process
    try:
        end = time.monotonic() + SECONDS
        while process.exitcode is None:
            assert time.monotonic() < end, "the run neither ended nor reached the moment to kill it"
            if kill_when():
                process.kill()
            time.sleep(0.001)
    finally:
        process.kill()
        process.join()
    return process.exitcode


@pytest.mark.slow
def test_killed_five_times(tmp_path):
    whole, workdir = tmp_path / "whole", tmp_path / "killed"
    assert run(whole) == 0
    steps = CONFIG.train.steps
    assert lines(whole) == steps

    draw = random.Random(0)
    # Before the first step; at three random steps; and while a checkpoint is being written.
    assert run(workdir, (workdir / "config.json").exists) == -9
    assert lines(workdir) == 0
    for low, high in ((1, 4), (7, 11), (13, 16)):
        at, pause = draw.randint(low, high), draw.random() * 0.05
        assert run(workdir, lambda at=at, pause=pause: lines(workdir) >= at and not time.sleep(pause)) == -9
        assert at <= lines(workdir) < steps
    for _ in range(5):  # the save may have been finished when the signal came
        saved = lines(workdir)
        assert run(workdir, lambda saved=saved: lines(workdir) > saved and bool(unfinished(workdir))) == -9
        if unfinished(workdir):
            break
    assert unfinished(workdir), "no kill met a save"

    assert run(workdir) == 0
    assert not unfinished(workdir)
    records = read_metrics(workdir)
    assert [record["step"] for record in records] == list(range(1, steps + 1))
    assert [exact_record(r) for r in records] == [exact_record(r) for r in read_metrics(whole)]
