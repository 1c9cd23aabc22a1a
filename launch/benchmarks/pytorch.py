"""A run's training step and its generation beside PyTorch and `transformers`, on the same cores.

    python -m launch.benchmarks.pytorch --config=configs/nvlm.py:arch=d,size=tiny,stage=sft \
                                        [--checkpoint=runs/quickstart/d/sft] [--data=runs/data]

The last line printed is the ratios as JSON; `beside_pytorch.py` says what each one is.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

from absl import flags

from launch.benchmarks.output import run
from launch.config_flag import define_config
from nvlm_jax.config import RunConfig, from_mapping
from nvlm_jax.training import allocator


def report(result: dict[str, Any]) -> str:
    """The table, then the ratios as one line of JSON."""
    from launch.benchmarks import beside_pytorch

    return f"{beside_pytorch.report(result)}\n{json.dumps(beside_pytorch.summary(result))}"


if __name__ == "__main__":
    CONFIG = define_config("the run that is set beside PyTorch")
    STEPS = flags.DEFINE_integer("steps", 10, "to time", lower_bound=1)
    REPEATS = flags.DEFINE_integer("repeats", 3, "times the generation is taken", lower_bound=1)
    THREADS = flags.DEFINE_integer("threads", 2, "cores that both may use", lower_bound=1)
    CHECKPOINT = flags.DEFINE_string("checkpoint", "runs/quickstart/d/sft", "a workdir of NVLM-D, for generation")
    DATA = flags.DEFINE_string("data", "runs/data", "directory that holds qa-test")
    flags.mark_flag_as_required("config")

    def measure(directory: Path) -> dict[str, Any]:
        # Before JAX and PyTorch are imported: they take their numbers of threads, and their memory, from the process.
        allocator.keep_memory()
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: THREADS.value])
        if missing := [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]:
            sys.exit(f"no {' and no '.join(missing)} here; pip install -r requirements-parity.txt")
        from launch.benchmarks import beside_pytorch

        config = from_mapping(RunConfig, CONFIG.value.to_dict())
        return beside_pytorch.measure(config, CHECKPOINT.value, Path(DATA.value), STEPS.value, REPEATS.value)

    run("pytorch", measure, report)
