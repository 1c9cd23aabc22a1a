"""Who is who, from the environment; which rows a process reads; who is dead and who hangs."""

import json
import threading

import pytest

from nvlm_jax.config import ConfigError, MeshConfig
from nvlm_jax.parallel.mesh import make_mesh
from nvlm_jax.parallel.processes import Cluster, find_cluster, row_share
from nvlm_jax.parallel.watch import FOLDER, Watch

PLAIN = {"JAX_COORDINATOR_ADDRESS": "host:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
SLURM = {"SLURM_NTASKS": "16", "SLURM_PROCID": "5", "SLURM_STEP_NODELIST": "node[001-002]"}


@pytest.mark.parametrize(
    ("environment", "cluster"),
    [
        ({}, Cluster("alone")),
        (PLAIN, Cluster("plain", 4, 3)),
        (SLURM, Cluster("slurm", 16, 5)),
        (SLURM | PLAIN, Cluster("plain", 4, 3)),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, Cluster("alone")),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "2"}, Cluster("tpu", 0, 2)),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, Cluster("alone")),
    ],
)
def test_the_environment_says_who_is_who(environment, cluster):
    assert find_cluster(environment) == cluster


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAX_NUM_PROCESSES": "4"}, "JAX_NUM_PROCESSES set without JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID"),
        (PLAIN | {"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID=4 is none of the 4 processes of JAX_NUM_PROCESSES"),
        (PLAIN | {"JAX_NUM_PROCESSES": "many"}, "must both be whole numbers"),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, "start the processes with srun"),
    ],
)
def test_an_environment_that_does_not_fit(environment, message):
    with pytest.raises(ConfigError, match=message):
        find_cluster(environment)


def test_one_process_reads_all_rows():
    assert row_share(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), 8) == (0, 1)


class Store(dict):
    """The coordinator's key-value store, of one process."""

    def key_value_set(self, key, value, allow_overwrite):
        assert allow_overwrite
        self[key] = value

    def key_value_dir_get(self, folder):
        return list(self.items())


def verdict(signs, monkeypatch, hang=0.4, dead=0.4):
    """What process 0 of two ends with when process 1 says `signs`, one a poll, the last one for ever if it repeats."""
    monkeypatch.setattr("nvlm_jax.parallel.watch.POLL_SECONDS", 0.02)
    store, said, over = Store(), [], threading.Event()

    def end(message):
        said.append(message)
        over.set()

    with Watch(hang, dead, end, store, (0, 2)) as watch:
        watch.tell(7, "computing")
        for beat, (step, doing) in enumerate(signs):
            store[f"{FOLDER}/1"] = json.dumps([beat, step, doing, "node9", 42])
            if over.wait(0.02):
                break
        over.wait(0.02 if signs else 2.0)
        if not said:
            over.wait(1.0)
    return said[0] if said else None


def test_a_dead_process_is_named(monkeypatch):
    said = verdict([(7, "computing")], monkeypatch, hang=9)
    assert said.startswith("process 1 (host node9, pid 42; step 7, computing) gave no sign of life for 0 s")


def test_a_process_that_hangs_is_named(monkeypatch):
    said = verdict([(6, "data")] * 60, monkeypatch)
    assert said == "process 1 (host node9, pid 42; step 6, data) hangs: no process went on for 0 s"


def test_a_process_that_goes_on_or_is_done_is_left_alone(monkeypatch):
    assert verdict([(step, "computing") for step in range(30)] + [(30, "done")], monkeypatch, hang=2.5) is None
