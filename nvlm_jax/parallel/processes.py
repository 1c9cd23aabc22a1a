"""Several processes, one run: how they find each other, which rows each one reads.

The launcher says who is who through the environment; JAX's own `jax.distributed` does the rest.

    SLURM      srun's variables: SLURM_NTASKS, SLURM_PROCID, SLURM_STEP_NODELIST ...
    TPU slice  TPU_WORKER_HOSTNAMES and TPU_WORKER_ID, which GKE and TPU machines set
    plain      JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES, JAX_PROCESS_ID

With `train.local.kind=gke` GKE's multi-tier checkpointing numbers the processes instead: the one whose host has a part
of the last checkpoint is to be the one that needs it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import jax
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nvlm_jax.config import ConfigError, LocalCheckpointConfig
from nvlm_jax.parallel.mesh import ROWS

PLAIN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
T = TypeVar("T")
log = logging.getLogger(__name__)


class Cluster(NamedTuple):
    """What the environment says."""

    kind: str  # alone | plain | slurm | tpu
    count: int = 1  # of processes; 0 = JAX finds out
    index: int = 0


def find_cluster(environment: Mapping[str, str]) -> Cluster:
    """How many processes this run has and which of them this is.

    Raises:
        ConfigError: some variables of a kind are set and others are not, or they are no numbers that fit.
    """
    if present := [name for name in PLAIN if environment.get(name)]:
        if missing := [name for name in PLAIN if name not in present]:
            raise ConfigError(f"{', '.join(present)} set without {', '.join(missing)}: set all three or none")
        return _numbers("plain", environment, *PLAIN[1:])
    if int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environment:
        if "SLURM_STEP_NODELIST" not in environment:
            raise ConfigError("SLURM_NTASKS > 1 without SLURM_STEP_NODELIST: start the processes with srun")
        return _numbers("slurm", environment, "SLURM_NTASKS", "SLURM_PROCID")
    hosts = [name for name in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if name]
    if len(hosts) > 1 or environment.get("MEGASCALE_NUM_SLICES", "1") != "1":
        return Cluster("tpu", 0, int(environment.get("TPU_WORKER_ID", "0")))
    return Cluster("alone")


def start_processes(
    environment: Mapping[str, str] = os.environ, local: LocalCheckpointConfig | None = None
) -> Cluster:
    """Join the run's other processes, if there are any; call it before anything touches a device.

    Args:
        environment: of this process.
        local: `train.local` of the run.

    Raises:
        ConfigError: as `find_cluster`.
    """
    cluster = find_cluster(environment)
    if local is not None and local.kind == "gke":
        from orbax.checkpoint.experimental.emergency.multi_tier_checkpointing import initialization

        # Waits for the service on this host, which hands out the numbers and brings back what the host has lost.
        place = epath.Path(os.path.expandvars(local.directory))
        initialization.initialize_multi_tier_checkpointing(place, run_name=environment.get("JOBSET_NAME", "nvlm"))
    elif cluster.kind == "plain" and cluster.count > 1:
        jax.distributed.initialize(environment[PLAIN[0]], cluster.count, cluster.index)
    elif cluster.kind == "slurm":
        jax.distributed.initialize(cluster_detection_method="slurm")
    elif cluster.kind == "tpu":
        jax.distributed.initialize()
    if cluster.kind != "alone":
        log.info(
            "process %d of %d (%s): %d of %d devices",
            *(jax.process_index(), jax.process_count(), cluster.kind, jax.local_device_count(), jax.device_count()),
        )
    return cluster


def row_share(mesh: Mesh, rows: int) -> tuple[int, int]:
    """Which part of each batch's rows this process reads: (index, count) as `data_pipelines.loader.batches` takes them.

    Processes that hold the same rows, since `tensor` or `context` reaches from one to the other, read the same part.

    Raises:
        ConfigError: the devices of this process hold rows that are no contiguous part of the batch.
    """
    places = NamedSharding(mesh, PartitionSpec(ROWS)).addressable_devices_indices_map((rows,))
    held = sorted({(part.start or 0, rows if part.stop is None else part.stop) for (part,) in places.values()})
    first, last = held[0][0], held[-1][1]
    count = sum(stop - start for start, stop in held)
    if last - first != count or first % count or rows % count:
        raise ConfigError(
            f"mesh: the devices of process {jax.process_index()} hold rows {held} of a batch of {rows}, which are no "
            "contiguous part of it; let data * fsdp be a multiple of the number of processes, or divide it"
        )
    return first // count, rows // count


def is_first() -> bool:
    """Whether this process writes what is written once: config.json, metrics, messages."""
    return jax.process_index() == 0


def wait_for_all(where: str) -> None:
    """Return when every process of the run is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def first_before_others(make: Callable[[], T], where: str) -> T:
    """`make()` in every process, in the first one before the others: it may leave files that they then find."""
    if jax.process_count() == 1:
        return make()
    if not is_first():
        wait_for_all(where)
        return make()
    try:
        return make()
    finally:  # on an error too: the others meet it themselves
        wait_for_all(where)


def _numbers(kind: str, environment: Mapping[str, str], count_name: str, index_name: str) -> Cluster:
    try:
        count, index = int(environment[count_name]), int(environment[index_name])
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{count_name} and {index_name} must both be whole numbers: {error}") from error
    if not 0 <= index < count:
        raise ConfigError(f"{index_name}={index} is none of the {count} processes of {count_name}; they count from 0")
    return Cluster(kind, count, index)
