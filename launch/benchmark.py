"""Measure a part of the project on this machine; docs/performance.md has the numbers and the commands.

    python -m launch.benchmark --part=convert --directory=runs/benchmark [--gigabytes=4] [--repeats=3]
    python -m launch.benchmark --part=serve --url=http://127.0.0.1:8000 [--clients=64] [--seconds=60]
    python -m launch.benchmark --part=decode --checkpoint=runs/quickstart/d/sft [--data=runs/data] [--repeats=3]

Measurements are ratios within one run where they can be, for machines differ and are shared.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from absl import app, flags

from launch import benchmark_convert, benchmark_decode

PART = flags.DEFINE_enum("part", None, ["convert", "decode", "serve"], "what to measure", required=True)
DIRECTORY = flags.DEFINE_string("directory", "runs/benchmark", "where files are made; they are left there")
GIGABYTES = flags.DEFINE_float("gigabytes", 4.0, "with --part=convert: size of the checkpoint", lower_bound=3.8)
CHECKPOINT = flags.DEFINE_string("checkpoint", "runs/quickstart/d/sft", "with --part=decode: a workdir of NVLM-D")
DATA = flags.DEFINE_string("data", "runs/data", "with --part=decode or serve: directory that holds qa-test")
REFERENCE = flags.DEFINE_bool("reference", True, "with --part=decode: transformers too; needs requirements-parity.txt")
URL = flags.DEFINE_string("url", "http://127.0.0.1:8000", "with --part=serve: of a running launch.serve")
CLIENTS = flags.DEFINE_integer("clients", 64, "with --part=serve: that ask at once", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 60.0, "with --part=serve: of asking", lower_bound=1.0)
REPEATS = flags.DEFINE_integer("repeats", 3, "times each step is taken", lower_bound=1)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option is a flag, --name=value")
    directory = Path(DIRECTORY.value).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    if PART.value == "convert":
        found = benchmark_convert.measure(directory, GIGABYTES.value, REPEATS.value)
        text = benchmark_convert.report(found)
    elif PART.value == "serve":
        from launch import benchmark_serve  # needs httpx, which requirements-test.txt brings

        found = benchmark_serve.measure(URL.value, Path(DATA.value), CLIENTS.value, SECONDS.value)
        text = benchmark_serve.report(found)
    else:
        found = benchmark_decode.measure(CHECKPOINT.value, Path(DATA.value), REPEATS.value, REFERENCE.value)
        text = benchmark_decode.report(found)
    (directory / f"{PART.value}.json").write_text(json.dumps(found, indent=2) + "\n")
    print(text)
    sys.stdout.flush()


if __name__ == "__main__":
    app.run(main)
