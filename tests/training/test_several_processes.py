"""1, 2 and 4 real processes compute the same; they stop together, and a dead one ends the others, which name it."""

import dataclasses
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from nvlm_jax.config import LocalCheckpointConfig, MeshConfig
from nvlm_jax.parallel.mesh import make_mesh
from nvlm_jax.parallel.watch import REQUEUE
from nvlm_jax.training.loop import train
from nvlm_jax.training.telemetry import read_metrics
from tests.tiny import make_batches
from tests.training.several import CONFIG, DEVICES, GROUPS, start

SECONDS = 400  # that a start may take on a busy machine


def plain(count: int) -> list[dict[str, str]]:
    address = f"127.0.0.1:{free_port()}"
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    return [dict(zip(names, (address, str(count), str(index)), strict=True)) for index in range(count)]


def slurm(count: int) -> list[dict[str, str]]:
    """What srun sets; JAX makes the port from the job's number."""
    job = {
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_NTASKS": str(count),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_STEP_NUM_NODES": "1",
        "JAX_LOCAL_DEVICE_IDS": "",
    }
    return [job | {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)} for index in range(count)]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_until(true: Callable[[], bool], processes) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end and all(p.exitcode is None for p in processes), [p.exitcode for p in processes]
        time.sleep(0.05)


def paused(workdir: Path, processes) -> None:
    marks = [workdir / f"paused-{index}" for index in range(len(processes))]
    wait_until(lambda: all(mark.exists() for mark in marks), processes)
    for mark in marks:
        mark.unlink()


def ended(workdir: Path, processes) -> list[tuple[int, str]]:
    for process in processes:
        process.join(SECONDS)
    return [(process.exitcode, (workdir / f"said-{index}").read_text()) for index, process in enumerate(processes)]


def steps(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


def finish(workdir: Path) -> None:
    """What is left of the run, in this process."""
    mesh = make_mesh(MeshConfig(fsdp=DEVICES), jax.devices()[:DEVICES])
    assert train(CONFIG, workdir, lambda start: make_batches(CONFIG, start), GROUPS, mesh).finished


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Metrics of the run, undisturbed, in one process."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    finish(workdir)
    return read_metrics(workdir)


def check_same(expected, workdir: Path) -> None:
    found = read_metrics(workdir)
    assert [r["step"] for r in found] == list(range(1, CONFIG.train.steps + 1))
    assert [r["sample_hash"] for r in found] == [r["sample_hash"] for r in expected]
    np.testing.assert_allclose([r["loss"] for r in found], [r["loss"] for r in expected], rtol=1e-5)


@pytest.mark.slow
def test_two_then_four_processes_then_one_compute_the_same(tmp_path, alone):
    workdir = tmp_path / "several"
    processes = start(CONFIG, workdir, slurm(2), pause=3)
    paused(workdir, processes)
    processes[1].terminate()  # one of them only
    (workdir / "go").touch()
    assert [code for code, _ in ended(workdir, processes)] == [REQUEUE, REQUEUE]
    assert 2 <= max(steps(workdir)) <= 4

    (workdir / "go").unlink()
    processes = start(CONFIG, workdir, plain(4), pause=7)
    paused(workdir, processes)
    wait_until(lambda: max(steps(workdir)) == 6, processes)  # it is saved beside what follows
    processes[3].kill()
    begin = time.monotonic()
    *others, (code, _) = ended(workdir, processes)
    assert time.monotonic() - begin < 30 and code == -signal.SIGKILL
    named = f"process 3 (host {socket.gethostname()}, pid {processes[3].pid};"
    for code, said in others:
        assert code == REQUEUE, said
    assert any(named in said and "gave no sign of life" in said for _, said in others), others
    assert max(steps(workdir)) == 6

    finish(workdir)
    check_same(alone, workdir)


@pytest.mark.slow
def test_a_run_goes_on_from_what_its_hosts_have(tmp_path, alone):
    """Nothing was saved in the workdir; the second part of `data` has step 4 on its host and sends it to the first."""
    workdir = tmp_path / "several"
    local = LocalCheckpointConfig("slices", f"{tmp_path}/host-$JAX_PROCESS_ID", every=2)
    train_config = dataclasses.replace(CONFIG.train, checkpoint_every=100, local=local)
    config = dataclasses.replace(CONFIG, train=train_config, mesh=MeshConfig(data=2))
    processes = start(config, workdir, plain(2), pause=6)
    paused(workdir, processes)
    wait_until(lambda: any(tmp_path.glob("host-1/*/4")), processes)
    processes[1].kill()
    assert ended(workdir, processes)[0][0] == REQUEUE and not steps(workdir)
    assert not any(tmp_path.glob("host-0/*/4"))

    done = ended(workdir, start(config, workdir, plain(2)))
    assert [code for code, _ in done] == [0, 0], done
    assert all("going on from step 4, which the hosts have" in said for _, said in done)
    check_same(alone, workdir)
