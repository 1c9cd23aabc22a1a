"""Two real processes compute what one does; they stop together, and a dead one ends the other, which names it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from nvlm_jax.config import MeshConfig
from nvlm_jax.parallel.mesh import make_mesh
from nvlm_jax.parallel.watch import REQUEUE
from nvlm_jax.training.loop import train
from nvlm_jax.training.telemetry import read_metrics
from tests.fast_compile import FAST_COMPILE
from tests.tiny import make_batches
from tests.training.several import CONFIG

SECONDS = 400  # that a start may take on a busy machine


def plain(index: int, count: int, port: int) -> dict[str, str]:
    return {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(index),
    }


def slurm(index: int, count: int, port: int) -> dict[str, str]:
    """What srun sets; JAX makes the port from the job's number."""
    return {
        "SLURM_JOB_ID": str(port),
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_STEP_NUM_NODES": "1",
        "JAX_LOCAL_DEVICE_IDS": "",
    }


def start(variables, workdir: Path, count: int = 2, pause: int = 0) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count=2 {FAST_COMPILE}"
    command = [sys.executable, "-m", "tests.training.several", str(workdir), str(pause)]
    root = Path(__file__).parents[2]
    return [
        subprocess.Popen(
            command,
            env=os.environ | {"XLA_FLAGS": flags} | variables(index, count, port),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=root,
        )
        for index in range(count)
    ]


def wait_until(true: Callable[[], bool], processes) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end and all(p.poll() is None for p in processes), [p.poll() for p in processes]
        time.sleep(0.05)


def paused(workdir: Path, processes) -> None:
    marks = [workdir / f"paused-{index}" for index in range(len(processes))]
    wait_until(lambda: all(mark.exists() for mark in marks), processes)
    for mark in marks:
        mark.unlink()


def ended(processes) -> list[tuple[int, str]]:
    said = [process.communicate(timeout=SECONDS)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def steps(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


@pytest.mark.slow
def test_two_processes_stop_together_survive_a_death_and_go_on_alone(tmp_path):
    workdir, alone = tmp_path / "several", tmp_path / "alone"
    mesh = make_mesh(MeshConfig(fsdp=4), jax.devices()[:4])
    assert train(CONFIG, alone, lambda start: make_batches(CONFIG, start), ("number", "word"), mesh).finished

    processes = start(slurm, workdir, pause=3)
    paused(workdir, processes)
    processes[1].send_signal(signal.SIGTERM)  # one of them only
    (workdir / "go").touch()
    assert [code for code, _ in ended(processes)] == [REQUEUE, REQUEUE]
    assert 2 <= max(steps(workdir)) <= 4

    (workdir / "go").unlink()
    processes = start(plain, workdir, pause=7)
    paused(workdir, processes)
    wait_until(lambda: max(steps(workdir)) == 6, processes)  # it is saved beside what follows
    processes[1].kill()
    begin = time.monotonic()
    (code, said), _ = ended(processes)
    assert time.monotonic() - begin < 30
    assert code == REQUEUE, said
    assert f"process 1 (host {socket.gethostname()}, pid {processes[1].pid};" in said
    assert "gave no sign of life" in said and max(steps(workdir)) == 6

    assert train(CONFIG, workdir, lambda start: make_batches(CONFIG, start), ("number", "word"), mesh).finished
    expected, found = read_metrics(alone), read_metrics(workdir)
    assert [r["step"] for r in found] == list(range(1, CONFIG.train.steps + 1))
    assert [r["sample_hash"] for r in found] == [r["sample_hash"] for r in expected]
    np.testing.assert_allclose([r["loss"] for r in found], [r["loss"] for r in expected], rtol=1e-5)
