"""Measure a part of the project on this machine; docs/performance.md has the numbers and the commands.

    python -m launch.benchmark --config=configs/nvlm.py:arch=d,size=tiny,stage=sft [--steps=10 --modules] a step
    python -m launch.benchmark --config=configs/nvlm.py:arch=d,size=tiny,stage=sft --sweep=tiles   D, X and H, 1-6 tiles
    python -m launch.benchmark --config=configs/nvlm.py:arch=d,size=tiny,stage=sft --compare=torch \
                               [--checkpoint=runs/quickstart/d/sft] [--data=runs/data]       beside PyTorch, on 2 cores
    python -m launch.benchmark --part=convert --directory=runs/benchmark [--gigabytes=4] [--repeats=3]
    python -m launch.benchmark --part=data [--repeats=20]
    python -m launch.benchmark --part=packing --arch=d --rows=10000000 [--index=FILE.parquet]
    python -m launch.benchmark --part=decode --checkpoint=runs/quickstart/d/sft [--data=runs/data] [--repeats=3]
    python -m launch.benchmark --part=decode --config=configs/nvlm.py:arch=d,size=1b,stage=sft [--slots=64,16,1]
    python -m launch.benchmark --part=serve --url=http://127.0.0.1:8000 [--clients=64] [--seconds=60]
    python -m launch.benchmark --part=attention [--sweep=blocks]         ways to compute it; blocks of the kernels

Measurements are ratios within one run where they can be, for machines differ and are shared.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags

from launch.config_flag import define_config
from nvlm_jax.training import allocator

CONFIG = define_config("the run whose training step is measured")
STEPS = flags.DEFINE_integer("steps", 10, "with --config: steps to time", lower_bound=1)
SWEEP = flags.DEFINE_enum(
    "sweep", None, ["tiles", "blocks"], "with --config: cost against tiles; with --part=attention: against blocks"
)
MODULES = flags.DEFINE_bool("modules", False, "with --config: where the device's time goes, by module")
COMPARE = flags.DEFINE_enum("compare", None, ["torch"], "with --config: beside PyTorch; needs requirements-parity.txt")
THREADS = flags.DEFINE_integer("threads", 2, "with --compare: cores that both may use", lower_bound=1)
TEXT = flags.DEFINE_integer("sample_text", 128, "with --config: text tokens of a synthetic sample", lower_bound=2)
TILES = flags.DEFINE_integer("sample_tiles", 7, "with --config: tiles of a synthetic sample", lower_bound=0)
PART_NAMES = ["convert", "data", "packing", "decode", "serve", "attention"]
PART = flags.DEFINE_enum("part", None, PART_NAMES, "what to measure instead of a training step")
DIRECTORY = flags.DEFINE_string("directory", "runs/benchmark", "where files are made; they are left there")
GIGABYTES = flags.DEFINE_float("gigabytes", 4.0, "with --part=convert: size of the checkpoint", lower_bound=3.8)
ARCH = flags.DEFINE_enum("arch", "d", ["d", "x", "h"], "with --part=packing: whose lengths and budgets")
ROWS = flags.DEFINE_integer("rows", 10_000_000, "with --part=packing: samples", lower_bound=1)
INDEX = flags.DEFINE_string("index", "", "with --part=packing: a dataset's index.parquet; default: a mix made here")
CHECKPOINT = flags.DEFINE_string("checkpoint", "runs/quickstart/d/sft", "--compare, --part=decode: a workdir of NVLM-D")
DATA = flags.DEFINE_string("data", "runs/data", "--compare, --part=decode or serve: directory that holds qa-test")
SLOTS = flags.DEFINE_list("slots", ["64", "16", "1"], "with --part=decode and --config: requests answered together")
PROMPT = flags.DEFINE_integer("prompt", 1024, "with --part=decode and --config: tokens of a prompt", lower_bound=1)
NEW = flags.DEFINE_integer("new", 128, "with --part=decode and --config: tokens of an answer", lower_bound=64)
REFERENCE = flags.DEFINE_bool("reference", True, "with --part=decode: transformers too; needs requirements-parity.txt")
URL = flags.DEFINE_string("url", "http://127.0.0.1:8000", "with --part=serve: of a running launch.serve")
CLIENTS = flags.DEFINE_integer("clients", 64, "with --part=serve: that ask at once", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 60.0, "with --part=serve: of asking; with --part=decode and --config: after "
                             "which no further number of slots is begun", lower_bound=1.0)  # fmt: skip
REPEATS = flags.DEFINE_integer("repeats", 3, "times each step is taken", lower_bound=1)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option is a flag, --name=value")
    if (PART.value is None) == (CONFIG.value is None) and PART.value != "decode":
        raise app.UsageError("give either --config, to measure a training step, or --part")
    if COMPARE.value and CONFIG.value is None:
        raise app.UsageError("--compare=torch: of the run that --config names")
    directory = Path(DIRECTORY.value).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    if COMPARE.value:
        compare_with_torch(directory)
        return
    if PART.value is None:
        measure_training(directory)
        return
    found, text = PARTS[PART.value](directory)
    (directory / f"{PART.value}.json").write_text(json.dumps(found, indent=2) + "\n")
    print(text)
    sys.stdout.flush()


def measure_training(directory: Path) -> None:
    """The training step of --config, or with --sweep what it costs against the number of tiles."""
    from launch import benchmark_train
    from nvlm_jax.config import ConfigError, RunConfig, from_mapping

    if MODULES.value:  # operations that a GPU starts as one recorded graph have no names of their own
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_command_buffer="
    try:
        config = from_mapping(RunConfig, CONFIG.value.to_dict())
        if SWEEP.value == "tiles":
            points = benchmark_train.sweep_tiles(config, STEPS.value, TEXT.value, config.inputs.max_tiles)
            (directory / "tiles.json").write_text(json.dumps(points, indent=2) + "\n")
            benchmark_train.draw_sweep(points, directory / "tiles.png")
            print(directory / "tiles.png")
            return
        found = benchmark_train.measure(config, STEPS.value, TEXT.value, TILES.value, MODULES.value)
    except (ConfigError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    (directory / "train.json").write_text(json.dumps(found, indent=2) + "\n")
    print(benchmark_train.report(found))


def compare_with_torch(directory: Path) -> None:
    """The run of --config beside PyTorch; the last line printed is the ratios as JSON."""
    # Before JAX and PyTorch are imported: they take their numbers of threads, and their memory, from the process.
    allocator.keep_memory()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: THREADS.value])
    if missing := [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]:
        sys.exit(f"--compare=torch: no {' and no '.join(missing)} here; pip install -r requirements-parity.txt")
    from data_pipelines.blend import PlanError
    from data_pipelines.records import DatasetError
    from launch import benchmark_torch
    from nvlm_jax.config import ConfigError, RunConfig, from_mapping
    from nvlm_jax.convert.shards import CheckpointError

    try:
        config = from_mapping(RunConfig, CONFIG.value.to_dict())
        found = benchmark_torch.measure(config, CHECKPOINT.value, Path(DATA.value), STEPS.value, REPEATS.value)
    except (CheckpointError, ConfigError, DatasetError, PlanError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    (directory / "torch.json").write_text(json.dumps(found, indent=2) + "\n")
    print(benchmark_torch.report(found))
    print(json.dumps(benchmark_torch.summary(found)), flush=True)


# Each part imports its own module: JAX, whose memory is none of packing's, or packages that only tests need.
def _convert(directory: Path) -> tuple[Any, str]:
    from launch import benchmark_convert

    found = benchmark_convert.measure(directory, GIGABYTES.value, REPEATS.value)
    return found, benchmark_convert.report(found)


def _data(directory: Path) -> tuple[Any, str]:
    from launch import benchmark_data

    found = benchmark_data.measure(REPEATS.value)
    return found, benchmark_data.report(found)


def _packing(directory: Path) -> tuple[Any, str]:
    from data_pipelines.blend import PlanError
    from data_pipelines.records import DatasetError
    from launch import benchmark_packing

    try:
        found = benchmark_packing.measure(directory, ARCH.value, ROWS.value, INDEX.value)
    except (DatasetError, PlanError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    return found, benchmark_packing.report(found)


def _decode(directory: Path) -> tuple[Any, str]:
    from launch import benchmark_decode, benchmark_slots
    from nvlm_jax.config import RunConfig, from_mapping

    if CONFIG.value is not None:
        config = from_mapping(RunConfig, CONFIG.value.to_dict())
        slots = sorted(map(int, SLOTS.value), reverse=True)
        found = benchmark_slots.measure(config, slots, PROMPT.value, NEW.value, SECONDS.value)
        return found, benchmark_slots.report(found)

    found = benchmark_decode.measure(CHECKPOINT.value, Path(DATA.value), REPEATS.value, REFERENCE.value)
    return found, benchmark_decode.report(found)


def _serve(directory: Path) -> tuple[Any, str]:
    from launch import benchmark_serve

    found = benchmark_serve.measure(URL.value, Path(DATA.value), CLIENTS.value, SECONDS.value)
    return found, benchmark_serve.report(found)


def _attention(directory: Path) -> tuple[Any, str]:
    from launch import benchmark_attention

    if SWEEP.value == "blocks":
        found = benchmark_attention.sweep_blocks()
        return found, benchmark_attention.report_blocks(found)
    found = benchmark_attention.measure()
    return found, benchmark_attention.report(found)


PARTS: dict[str, Callable[[Path], tuple[Any, str]]] = {
    "convert": _convert,
    "data": _data,
    "packing": _packing,
    "decode": _decode,
    "serve": _serve,
    "attention": _attention,
}


if __name__ == "__main__":
    app.run(main)
