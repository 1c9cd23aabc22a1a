"""Train, or go on training.

    python -m launch.train --config=configs/nvlm.py:arch=d,size=tiny,stage=sft --workdir=runs/d-sft

Any value can be changed: --config.train.steps=2000. The same command goes on after a stop or a kill, and does nothing
once the run is finished. Ctrl-C or SIGTERM finishes the step, saves, and exits with 130 or 75. Code 75 says: start the
same command again (also when another process of the run has died); SLURM and GKE jobs of `launch.submit` do.

The same command runs on one machine and on a pod: started by srun, by GKE, or with JAX_COORDINATOR_ADDRESS,
JAX_NUM_PROCESSES and JAX_PROCESS_ID set, the processes find each other. They share --workdir and the data.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from functools import partial
from pathlib import Path

import jax
from absl import app, flags

from data_pipelines.loader import batches, drawn, fingerprints, make_plan
from launch.blends import with_blend
from launch.command import run_command
from launch.config_flag import define_config, run_config
from nvlm_jax.parallel.mesh import make_mesh
from nvlm_jax.parallel.processes import first_before_others, is_first, row_share, start_processes
from nvlm_jax.parallel.watch import REQUEUE
from nvlm_jax.training.loop import train
from nvlm_jax.training.run_data import RunData

CONFIG = define_config("configs/nvlm.py:arch=d,size=tiny,stage=sft")
WORKDIR = flags.DEFINE_string("workdir", None, "directory of the run", required=True)
ACCEPT = flags.DEFINE_bool("accept_data", False, "go on though a dataset has changed since the run began; recorded")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option is a flag, --name=value")
    show_logs()
    use_compilation_cache(Path(WORKDIR.value).absolute().parent / ".jax_cache")
    config = run_config(with_blend(CONFIG.value))
    start_processes(local=config.train.local)
    mesh = make_mesh(config.mesh)
    plan = first_before_others(lambda: make_plan(config), "plan")
    for each in drawn(config, plan):
        logging.getLogger("data_pipelines").info(
            "dataset %s: %d samples, %d drawn: %.2f epochs, %d repeats",
            *(each.name, each.size, each.drawn, each.epochs, each.repeats),
        )
    index, count = row_share(mesh, config.train.batch_rows)
    data = partial(batches, config, plan, process_index=index, process_count=count)
    known = RunData(fingerprints(config.data.blend), ACCEPT.value)
    outcome = train(config, WORKDIR.value, data, plan.groups, mesh, known)
    if outcome.finished:
        say(f"{WORKDIR.value}: finished, {outcome.step} steps")
    else:
        say(f"stopped after step {outcome.step}, all of it saved; to go on:\n  {command()}")
        sys.exit(REQUEUE if outcome.signal == signal.SIGTERM else 128 + outcome.signal)


def say(text: str) -> None:
    """Print it once, whatever the number of processes."""
    if is_first():
        print(text, flush=True)


def show_logs() -> None:
    """This project's messages on stderr; of the libraries', warnings only."""
    logging.basicConfig(format="%(levelname).1s %(name)s: %(message)s", level=logging.WARNING, force=True)
    for package in ("nvlm_jax", "data_pipelines"):
        logging.getLogger(package).setLevel(logging.INFO)


def use_compilation_cache(directory: Path) -> None:
    """Keep compiled programs, so that a second start is quick. JAX_COMPILATION_CACHE_DIR chooses another place."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def command() -> str:
    """The command line of this process, to be pasted into a shell."""
    return shlex.join(["python", "-m", "launch.train", *sys.argv[1:]])


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    run_command(main)
