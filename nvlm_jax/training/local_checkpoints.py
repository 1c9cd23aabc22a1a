"""Checkpoints on the hosts themselves, between those of the workdir: frequent, lost with the machine, soon read back.

Two of Orbax's managers, chosen by `train.local.kind`:

    slices   Each part of the mesh's `data` axis holds the whole state. All but the first write theirs to their hosts'
             own disk or memory; after a fault one of them whose hosts have it sends it to the others.
    gke      Every host writes what its devices hold to a volume of GKE's multi-tier checkpointing, whose own service
             copies it to other hosts and to a bucket, and puts it back before the job starts again.

Local checkpoints are of one mesh and one number of processes. After a start with others, or without any that is whole,
the run goes on from its workdir. docs/checkpoints.md says what each kind needs.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import flags
from etils import epath
from jax.sharding import Mesh
from orbax.checkpoint.experimental.emergency import checkpoint_manager as emergency
from orbax.checkpoint.experimental.emergency import replicator_checkpoint_manager as multi_tier

from nvlm_jax.config import ConfigError, LocalCheckpointConfig, RunConfig
from nvlm_jax.parallel.processes import is_first, wait_for_all
from nvlm_jax.parallel.sharding import state_shardings
from nvlm_jax.training.checkpoints import abstract_state, from_plain, to_plain, with_shardings
from nvlm_jax.training.step import TrainState
from nvlm_jax.training.workdir import IDENTITY, write_atomically

KEPT = 1  # steps beside the one that is being written


class LocalCheckpoints:
    """The local checkpoints of one run; all processes call each method together."""

    def __init__(self, config: RunConfig, workdir: Path, mesh: Mesh):
        """
        Args:
            config: of the run, with a `train.local.kind`.
            workdir: of the run; it exists.
            mesh: of the run.

        Raises:
            ConfigError: kind slices on a mesh whose `data` is 1, or with several of its parts in one process.
        """
        # Orbax's managers ask for the processes' devices (a second time nothing happens) and read an absl flag.
        if jax.process_count() > 1:
            ocp.multihost.initialize_distributed_to_device_ids()
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        local = config.train.local
        state = abstract_state(config)[1]
        self.every = local.every
        self._target = with_shardings(state, state_shardings(state, mesh))
        self._plain = _without_step(self._target)
        make = {"slices": self._slices, "gke": self._gke}[local.kind]
        self._manager = make(local, workdir, mesh)

    @property
    def latest(self) -> int | None:
        """The newest step that can be restored; None = there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Save a step. Returns when `state` has been copied and may be donated."""
        self._manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(_without_step(state))))

    def restore(self, step: int) -> TrainState:
        """A step, on the mesh of the run."""
        restore_args = ocp.checkpoint_utils.construct_restore_args(self._plain)
        wanted = ocp.args.PyTreeRestore(item=self._plain, restore_args=restore_args)
        found = self._manager.restore(step, args=ocp.args.Composite(state=wanted)).state
        number = jax.device_put(jax.numpy.asarray(step, jax.numpy.int32), self._target.step.sharding)
        rest = {name: from_plain(getattr(self._target, name), value) for name, value in found.items()}
        return TrainState(number, **rest)

    def close(self) -> None:
        """Wait for what is being written, then free the threads."""
        self._manager.close()

    def _slices(self, local: LocalCheckpointConfig, workdir: Path, mesh: Mesh) -> emergency.CheckpointManager:
        if mesh.shape["data"] < 2:
            raise ConfigError(
                f"train.local.kind: 'slices' sends a lost state from one part of the mesh's `data` axis to another; "
                f"mesh.data is {mesh.shape['data']}, 2 or more would be right"
            )
        if jax.process_count() % mesh.shape["data"]:
            raise ConfigError(
                f"train.local.kind: 'slices' needs each process inside one of the {mesh.shape['data']} parts of "
                f"mesh.data; {jax.process_count()} processes do not divide into them"
            )
        shape = "x".join(map(str, mesh.devices.shape))
        place = Path(os.path.expandvars(local.directory), f"{_identity(workdir)}-{shape}-{jax.process_count()}")
        place.mkdir(parents=True, exist_ok=True)
        options = emergency.CheckpointManagerOptions(
            local=emergency.LocalCheckpointOptions(save_interval_steps=1, max_to_keep=KEPT),
            # Those of the workdir are of another form, which any mesh can read: `Checkpoints` saves them.
            persistent=emergency.PersistentCheckpointOptions(should_save_fn=lambda step, latest: False),
            replica_axis_index=mesh.axis_names.index("data"),
        )
        return emergency.CheckpointManager(place, workdir / "local", mesh, self._plain, options=options)

    def _gke(self, local: LocalCheckpointConfig, workdir: Path, mesh: Mesh) -> multi_tier.ReplicatorCheckpointManager:
        place = epath.Path(os.path.expandvars(local.directory))
        options = multi_tier.ReplicatorCheckpointManagerOptions(save_interval_steps=1)
        return multi_tier.ReplicatorCheckpointManager(place, options, global_mesh=mesh)


def _without_step(state: TrainState) -> dict[str, Any]:
    return {"params": to_plain(state.params), "opt_state": to_plain(state.opt_state)}


def _identity(workdir: Path) -> str:
    """A name that no other run has, given once."""
    path = workdir / IDENTITY
    if is_first() and not path.exists():
        write_atomically(path, uuid.uuid4().hex[:16])
    wait_for_all("identity of the run")
    return path.read_text()
