"""A small run as one of several processes, forked from one that has imported everything: no start imports it anew."""

import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from nvlm_jax.config import RunConfig
from nvlm_jax.inputs.batch import Batch
from nvlm_jax.parallel import watch
from nvlm_jax.parallel.mesh import make_mesh
from nvlm_jax.parallel.processes import row_share, start_processes
from nvlm_jax.training.loop import train
from tests.commands import forks
from tests.fast_compile import FAST_COMPILE
from tests.tiny import make_batches, make_run_config

CONFIG = make_run_config("d", steps=8, checkpoint_every=3, trainable=("projector",))
GROUPS = ("number", "word")
DEVICES = 4  # of all processes together


def start(
    config: RunConfig, workdir: Path, variables: list[Mapping[str, str]], pause: int = 0
) -> list[multiprocessing.process.BaseProcess]:
    """Processes of one run that share `DEVICES` devices; each writes what it says to workdir/said-INDEX.

    Args:
        config: of the run.
        workdir: of the run.
        variables: environment of each process.
        pause: before this step each makes workdir/paused-INDEX and waits for workdir/go, or its end.
    """
    workdir.mkdir(exist_ok=True)
    started = []
    for index, own in enumerate(variables):
        arguments = (config, workdir, index, dict(own), DEVICES // len(variables), pause)
        started.append(forks.Process(target=_main, args=arguments))
        started[-1].start()
    return started


def _main(
    config: RunConfig, workdir: Path, index: int, variables: dict[str, str], devices: int, pause: int
) -> None:
    said = os.open(workdir / f"said-{index}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, sys.stderr.fileno())
    # Read when the first device is asked for, which is after the fork.
    flags = f"--xla_force_host_platform_device_count={devices} {FAST_COMPILE}"
    os.environ |= {"XLA_FLAGS": flags} | variables
    logging.basicConfig(level=logging.WARNING, force=True)
    logging.getLogger("nvlm_jax").setLevel(logging.INFO)
    start_processes()
    watch.DEAD_SECONDS, watch.LAST_SECONDS = 8.0, 3.0
    mesh = make_mesh(config.mesh)
    share = row_share(mesh, config.train.batch_rows)
    outcome = train(config, workdir, lambda start: _batches(config, start, *share, pause, workdir), GROUPS, mesh)
    sys.exit(0 if outcome.finished else watch.REQUEUE)


def _batches(config: RunConfig, start: int, index: int, count: int, pause: int, workdir: Path):
    """This process's rows of each batch."""
    rows = config.train.batch_rows // count
    for step, (batch, info) in enumerate(make_batches(config, start), start + 1):
        if step == pause:
            (workdir / f"paused-{index}").touch()
            while not (workdir / "go").exists():
                time.sleep(0.05)
        yield Batch(*(field[index * rows : (index + 1) * rows] for field in batch)), info
