"""Measure a part of the project on this machine; docs/performance.md has the numbers and the commands.

    python -m launch.benchmark --part=convert --directory=runs/benchmark [--gigabytes=4] [--repeats=3]
    python -m launch.benchmark --part=data [--repeats=20]
    python -m launch.benchmark --part=packing --arch=d --rows=10000000 [--index=FILE.parquet]

Measurements are ratios within one run where they can be, for machines differ and are shared.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

from data_pipelines.blend import PlanError
from data_pipelines.records import DatasetError
from launch import benchmark_packing
from nvlm_jax.config import ARCHS

PART = flags.DEFINE_enum("part", None, ["convert", "data", "packing"], "what to measure", required=True)
DIRECTORY = flags.DEFINE_string("directory", "runs/benchmark", "where files are made; they are left there")
GIGABYTES = flags.DEFINE_float("gigabytes", 4.0, "with --part=convert: size of the checkpoint", lower_bound=3.8)
ARCH = flags.DEFINE_enum("arch", "d", list(ARCHS), "with --part=packing: whose lengths and budgets")
ROWS = flags.DEFINE_integer("rows", 10_000_000, "with --part=packing: samples", lower_bound=1)
INDEX = flags.DEFINE_string("index", "", "with --part=packing: a dataset's index.parquet; default: a mix made here")
REPEATS = flags.DEFINE_integer("repeats", 3, "times each step is taken", lower_bound=1)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option is a flag, --name=value")
    directory = Path(DIRECTORY.value).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    found, text = {"convert": _convert, "data": _data, "packing": _packing}[PART.value](directory)
    (directory / f"{PART.value}.json").write_text(json.dumps(found, indent=2) + "\n")
    print(text)
    sys.stdout.flush()


def _convert(directory: Path) -> tuple[Any, str]:
    from launch import benchmark_convert  # here, for it imports JAX, whose memory is none of packing's

    found = benchmark_convert.measure(directory, GIGABYTES.value, REPEATS.value)
    return found, benchmark_convert.report(found)


def _data(directory: Path) -> tuple[Any, str]:
    from launch import benchmark_data

    found = benchmark_data.measure(REPEATS.value)
    return found, benchmark_data.report(found)


def _packing(directory: Path) -> tuple[Any, str]:
    try:
        found = benchmark_packing.measure(directory, ARCH.value, ROWS.value, INDEX.value)
    except (DatasetError, PlanError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    return found, benchmark_packing.report(found)


if __name__ == "__main__":
    app.run(main)
