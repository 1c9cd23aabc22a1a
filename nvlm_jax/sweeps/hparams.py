"""A finished run for TensorBoard's HParams tab, written without TensorFlow: `tensorboard --logdir=SWEEP`."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from nvlm_jax.sweeps.record import value

METRICS = ("loss", "seconds", "samples_per_second", "parameters", "flops")


def write(directory: pathlib.Path, found: Mapping[str, Any], metric: str) -> None:
    """Write the run's settings and results as one session of the tab; an earlier one is replaced."""
    shutil.rmtree(directory, ignore_errors=True)
    settings = settings_of(found)
    scores = {name: value(found, name) for name in (metric, *METRICS)}
    scores |= {f"accuracy/{key}": value(found, f"accuracy.{key}") for key in ("vision", "text")}
    scores = {name: number for name, number in scores.items() if number is not None}
    with SummaryWriter(str(directory)) as writer:
        for summary in hparams(settings, {f"result/{name}": None for name in scores}):
            writer.file_writer.add_summary(summary)
        for name, number in scores.items():
            writer.add_scalar(f"result/{name}", number, 0)


def settings_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """What tells a run from others: variant, seed and every setting that differs in the sweep."""
    settings = {"variant": found["variant"], "seed": found["seed"], **found["settings"]}
    return {key: v if isinstance(v, (str, int, float, bool)) else str(v) for key, v in settings.items()}
