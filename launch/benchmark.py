"""Measure a part of the project on this machine; docs/performance.md has the numbers and the commands.

    python -m launch.benchmark --config=configs/nvlm.py:arch=d,size=tiny,stage=sft [--steps=10]     a training step
    python -m launch.benchmark --config=configs/nvlm.py:arch=d,size=tiny,stage=sft --sweep=tiles   D, X and H, 1-6 tiles
    python -m launch.benchmark --part=convert --directory=runs/benchmark [--gigabytes=4] [--repeats=3]

Measurements are ratios within one run where they can be, for machines differ and are shared.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from launch import benchmark_convert

CONFIG = config_flags.DEFINE_config_file("config", None, "the run whose training step is measured", lock_config=True)
STEPS = flags.DEFINE_integer("steps", 10, "with --config: steps to time", lower_bound=1)
SWEEP = flags.DEFINE_enum("sweep", None, ["tiles"], "with --config: cost against tiles, for D, X and H")
TEXT = flags.DEFINE_integer("sample_text", 128, "with --config: text tokens of a synthetic sample", lower_bound=2)
TILES = flags.DEFINE_integer("sample_tiles", 7, "with --config: tiles of a synthetic sample", lower_bound=0)
PART = flags.DEFINE_enum("part", None, ["convert"], "what to measure instead of a training step")
DIRECTORY = flags.DEFINE_string("directory", "runs/benchmark", "where files are made; they are left there")
GIGABYTES = flags.DEFINE_float("gigabytes", 4.0, "with --part=convert: size of the checkpoint", lower_bound=3.8)
REPEATS = flags.DEFINE_integer("repeats", 3, "times each step is taken", lower_bound=1)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option is a flag, --name=value")
    if (PART.value is None) == (CONFIG.value is None):
        raise app.UsageError("give either --config, to measure a training step, or --part")
    directory = Path(DIRECTORY.value).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    if PART.value is None:
        measure_training(directory)
        return
    found = benchmark_convert.measure(directory, GIGABYTES.value, REPEATS.value)
    (directory / f"{PART.value}.json").write_text(json.dumps(found, indent=2) + "\n")
    print(benchmark_convert.report(found))
    sys.stdout.flush()


def measure_training(directory: Path) -> None:
    """The training step of --config, or with --sweep what it costs against the number of tiles."""
    from launch import benchmark_train  # imports JAX, which a measurement of conversion must not hold
    from nvlm_jax.config import ConfigError, RunConfig, from_mapping

    try:
        config = from_mapping(RunConfig, CONFIG.value.to_dict())
        if SWEEP.value:
            points = benchmark_train.sweep_tiles(config, STEPS.value, TEXT.value, config.inputs.max_tiles)
            (directory / "tiles.json").write_text(json.dumps(points, indent=2) + "\n")
            benchmark_train.draw_sweep(points, directory / "tiles.png")
            print(directory / "tiles.png")
            return
        found = benchmark_train.measure(config, STEPS.value, TEXT.value, TILES.value)
    except (ConfigError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    (directory / "train.json").write_text(json.dumps(found, indent=2) + "\n")
    print(benchmark_train.report(found))


if __name__ == "__main__":
    app.run(main)
