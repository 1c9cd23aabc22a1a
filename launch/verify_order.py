"""Derive the order of a run once more, and hold it against the sample hashes that training logged.

    python -m launch.verify_order --workdir=runs/d-sft [--first=1] [--last=N]

A step's batch is a function of the seed and the step, so its hash can be computed without reading a sample, wherever
the run was stopped, on however many hosts and workers it ran. Exits with 1 at the first step that differs.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from absl import app, flags

from data_pipelines.blend import PlanError
from data_pipelines.loader import describe, make_plan, open_sources
from data_pipelines.records import DatasetError
from launch.command import run_command
from nvlm_jax import json_text
from nvlm_jax.config import ConfigError, RunConfig, from_mapping

WORKDIR = flags.DEFINE_string("workdir", None, "directory of the run", required=True)
FIRST = flags.DEFINE_integer("first", 1, "first step to look at", lower_bound=1)
LAST = flags.DEFINE_integer("last", None, "last step; default: the last one logged")


class OrderError(RuntimeError):
    """A run whose order is another one, or of which nothing can be said."""


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option is a flag, --name=value")
    try:
        print(verify(Path(WORKDIR.value), FIRST.value, LAST.value))
    except (ConfigError, DatasetError, OrderError, PlanError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


def verify(workdir: Path, first: int = 1, last: int | None = None) -> str:
    """What was verified, as one line.

    Args:
        workdir: of a run of `launch.train`.
        first: step, counted from 1 as metrics.jsonl counts them.
        last: step; None = the last one logged.

    Raises:
        OrderError: a hash differs, or there is none to compare.
        ConfigError, DatasetError, PlanError: the run's data is not there any more.
    """
    try:
        record = json_text.load_object(workdir / "config.json")
        if not isinstance(record.get("config"), dict):
            raise json_text.JsonError(f"{workdir / 'config.json'}: has no `config`")
        logged = {step: found for step, found in _hashes(workdir) if first <= step and (last is None or step <= last)}
    except (OSError, ValueError) as error:
        raise OrderError(f"{workdir}: no run of launch.train: {error}") from error
    if not logged:
        raise OrderError(f"{workdir}: metrics.jsonl has no sample hash of these steps")
    config = from_mapping(RunConfig, record["config"], stored=True)
    plan, ids = make_plan(config), [source.ids() for source in open_sources(config)]
    begin = time.perf_counter()
    for step, found in sorted(logged.items()):
        info = describe(plan, ids, step - 1, config.train.batch_rows)
        if info.sample_hash != found:
            raise OrderError(
                f"{workdir}: step {step} was trained on batch {found}, this code and data make it {info.sample_hash}; "
                f"the run's code was commit {record.get('commit')}. Its samples would be {info.sample_ids}"
            )
    each = 1000 * (time.perf_counter() - begin) / len(logged)
    return (
        f"{workdir}: {len(logged)} steps from {min(logged)} to {max(logged)} as planned: "
        f"their samples and order are the same ({each:.1f} ms a step)"
    )


def _hashes(workdir: Path) -> Iterator[tuple[int, str]]:
    for line in (workdir / "metrics.jsonl").read_bytes().split(b"\n"):
        with contextlib.suppress(ValueError):  # the last line may have been cut short by a kill
            record = json_text.parse(line)
            if isinstance(record, dict) and "sample_hash" in record:
                yield record["step"], record["sample_hash"]


if __name__ == "__main__":
    run_command(main)
