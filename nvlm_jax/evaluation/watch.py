"""Evaluates the checkpoints of a run while it trains.

OUT/step-N has the evaluation of step N, OUT/steps.jsonl a line of scores for each, in the order they were done in.
"""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from nvlm_jax import json_text
from nvlm_jax.evaluation.results import RESULTS
from nvlm_jax.training.checkpoints import CheckpointError
from nvlm_jax.training.steps import saved_steps

STEPS = "steps.jsonl"


def watch(
    workdir: pathlib.Path,
    out: pathlib.Path,
    evaluate: Callable[[int, pathlib.Path], Mapping[str, Any]],
    poll_seconds: float,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Evaluate each step as its checkpoint appears, the newest first, until the run's last step is done.

    A step with finished results is not done again. One whose checkpoint the run removes meanwhile is left out.

    Args:
        workdir: of the run; may not be there yet.
        out: directory for the results.
        evaluate: evaluates a step into a directory and answers what its results.json holds.
        poll_seconds: between two looks.
        sleep: waits so many seconds.

    Raises:
        CheckpointError: a checkpoint that is there and cannot be read.
    """
    gone: set[int] = set()
    while True:
        waiting = [step for step in saved_steps(workdir) if step not in gone and not _done(out, step)]
        if not waiting:
            last = last_step(workdir)
            if last is not None and _done(out, last):
                return
            sleep(poll_seconds)
            continue
        step = waiting[-1]
        try:
            summary = evaluate(step, out / f"step-{step}")
        except CheckpointError:
            if step in saved_steps(workdir):
                raise
            print(f"step {step}: its checkpoint was removed before it was evaluated")
            gone.add(step)
            continue
        scores = {name: entry["score"] for name, entry in summary["scores"].items()}
        with (out / STEPS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "scores": scores}) + "\n")


def last_step(workdir: pathlib.Path) -> int | None:
    """The step at which the run ends, by its config.json; None where there is none yet."""
    try:
        return json_text.load(workdir / "config.json")["config"]["train"]["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _done(out: pathlib.Path, step: int) -> bool:
    return (out / f"step-{step}" / RESULTS).exists()
