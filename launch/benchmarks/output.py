"""What every benchmark's command does around its measurement: flags, the JSON file, the printed text, errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags

from data_pipelines.blend import PlanError
from data_pipelines.records import DatasetError
from launch.command import run_command
from nvlm_jax.config import ConfigError

EXPECTED = (ConfigError, DatasetError, PlanError, ValueError)


def run(name: str, measure: Callable[[Path], Any], report: Callable[[Any], str]) -> None:
    """Parse the flags, measure, write `NAME.json` into --directory and print the report. Does not return.

    Args:
        name: of the JSON file.
        measure: is given the directory, which exists.
        report: what it returned -> text.
    """
    directory = flags.DEFINE_string("directory", "runs/benchmark", "where files are made; they are left there")

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments {argv[1:]}; every option is a flag, --name=value")
        path = Path(directory.value).absolute()
        path.mkdir(parents=True, exist_ok=True)
        try:
            result = measure(path)
        except EXPECTED as error:
            sys.exit(f"{type(error).__name__}: {error}")
        (path / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
        print(report(result), flush=True)

    run_command(main)
