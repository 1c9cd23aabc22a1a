"""Checkpoints through Orbax: what is saved, how a run goes on from it, how a model is restored for evaluation.

A step holds three items: `params` (trained, float32), `opt_state`, and `meta` (JSON: step, which is also the position
in the data; resolved config with the input format; versions; checksums). Parameters that are not trained are saved
once, beside the steps. Arrays are stored whole, whatever the mesh, so any mesh can restore them.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Mesh, SingleDeviceSharding

from nvlm_jax.config import ConfigError, RunConfig
from nvlm_jax.convert.shards import CheckpointError
from nvlm_jax.convert.stream import open_arrays
from nvlm_jax.models.build import Model, build_model
from nvlm_jax.parallel.processes import is_first, wait_for_all
from nvlm_jax.parallel.sharding import path_text, state_shardings
from nvlm_jax.training.step import SplitModel, TrainState, init_state, split_model
from nvlm_jax.training.steps import (
    CHECKPOINTS,
    FROZEN,
    cause_of,
    check_meta,
    find_step,
    first_line,
    read_meta,
    saved_steps,
    signed,
)
from nvlm_jax.training.sums import ON_DISK, check_arrays, saved_sums
from nvlm_jax.training.workdir import run_record

BROKEN = "broken"
# Errors that say nothing about the files.
NOT_CORRUPTION = (ConfigError, MemoryError, jax.errors.JaxRuntimeError)
log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """A run as it was after some step."""

    state: TrainState
    frozen: nnx.State
    broken: tuple[int, ...]  # newer steps that could not be read and were moved aside


class Checkpoints:
    """The checkpoints of one run: saved in the background, the last `keep` kept."""

    def __init__(self, workdir: Path, keep: int):
        self.workdir = workdir
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self.manager = ocp.CheckpointManager(workdir / CHECKPOINTS, options=options)
        self.frozen_sums: dict[str, int] = {}

    @property
    def steps(self) -> list[int]:
        """Steps that have a finished checkpoint, oldest first."""
        return sorted(self.manager.all_steps())

    def save_frozen(self, frozen: nnx.State) -> None:
        """Save the parameters that are not trained; waits until they are on disk."""
        for unfinished in self.workdir.glob(f"{FROZEN}.orbax-checkpoint-tmp*") if is_first() else ():
            shutil.rmtree(unfinished)  # a killed run's
        self.frozen_sums = checksums(frozen)
        if self.frozen_sums:
            with self._saving("the parameters that are not trained"), ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(self.workdir / FROZEN, to_plain(frozen), force=True)

    def save(self, step: int, state: TrainState, config: RunConfig) -> None:
        """Save a step, if it is not there. Returns when `state` has been copied and may be donated."""
        if step in self.manager.all_steps():
            return
        sums = {"params": checksums(state.params), "opt_state": checksums(state.opt_state), "frozen": self.frozen_sums}
        items = {
            "params": ocp.args.StandardSave(to_plain(state.params)),
            "opt_state": ocp.args.StandardSave(to_plain(state.opt_state)),
            "meta": ocp.args.JsonSave(signed({"step": step, "checksums": sums} | run_record(config))),
        }
        with self._saving(f"step {step}"):
            self.manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, config: RunConfig, mesh: Mesh) -> Restored:
        """The newest step that can be read, straight onto `mesh`; newer ones that cannot are moved to broken/.

        Raises:
            CheckpointError: no step can be read, or the frozen parameters cannot.
        """
        state = abstract_state(config)[1]
        failed: dict[int, Exception] = {}
        for step in reversed(self.steps):
            try:
                restored, meta = self._restore_step(step, with_shardings(state, state_shardings(state, mesh)))
            except NOT_CORRUPTION:
                raise
            except Exception as error:
                failed[step] = error
                log.error("checkpoint %s cannot be read: %s", self.workdir / CHECKPOINTS / str(step), first_line(error))
                continue
            self._move_aside(failed, step)
            frozen = self.restore_frozen(config, mesh, meta["checksums"]["frozen"])
            return Restored(restored, frozen, tuple(sorted(failed)))
        reasons = "".join(f"\n  step {step}: {first_line(error)}" for step, error in failed.items())
        raise CheckpointError(
            f"{self.workdir / CHECKPOINTS}: none of the checkpoints can be read:{reasons}\n"
            "Restore them from a copy, or start over in another --workdir."
        )

    def restore_frozen(self, config: RunConfig, mesh: Mesh, sums: dict[str, int] | None = None) -> nnx.State:
        """The parameters that are not trained, onto `mesh`; checked where a step says what they must sum up to."""
        frozen = abstract_state(config)[0].frozen
        found = restore_frozen(self.workdir, with_shardings(frozen, state_shardings(frozen, mesh)), sums)
        self.frozen_sums = checksums(found) if sums is None else sums
        return found

    def wait(self) -> None:
        """Return when what is being saved is on disk. Raises CheckpointError where that fails."""
        with self._saving("the last step"):
            self.manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then free the threads. Raises CheckpointError where what was being saved could not be."""
        with self._saving("the last step"):
            self.manager.close()

    @contextlib.contextmanager
    def _saving(self, what: str) -> Iterator[None]:
        """A full disk and the like as one line: Orbax and TensorStore tell of them in pages."""
        try:
            yield
        except NOT_CORRUPTION:
            raise
        except Exception as error:
            steps = saved_steps(self.workdir)
            kept = f"the last whole checkpoint is of step {steps[-1]}" if steps else "there is no checkpoint yet"
            raise CheckpointError(
                f"{self.workdir}: {what} could not be saved: {cause_of(error)}; {kept}. "
                "Make room and start the same command again"
            ) from error

    def _restore_step(self, step: int, target: TrainState) -> tuple[TrainState, dict[str, Any]]:
        items = {
            "params": ocp.args.StandardRestore(to_plain(target.params)),
            "opt_state": ocp.args.StandardRestore(to_plain(target.opt_state)),
            "meta": ocp.args.JsonRestore(),
        }
        found = self.manager.restore(step, args=ocp.args.Composite(**items))
        check_meta(found.meta, step)
        params, opt_state = from_plain(target.params, found.params), from_plain(target.opt_state, found.opt_state)
        for name, tree in (("params", params), ("opt_state", opt_state)):
            check_sums(tree, found.meta["checksums"][name], f"step {step}, {name}")
        number = jax.device_put(jnp.asarray(found.meta["step"], jnp.int32), target.step.sharding)
        return TrainState(number, params, opt_state), found.meta

    def _move_aside(self, failed: Iterable[int], good: int) -> None:
        for step in failed if is_first() else ():
            aside = self.workdir / BROKEN / str(step)
            for n in range(1, 1000):
                if not aside.exists():
                    break
                aside = self.workdir / BROKEN / f"{step}-{n}"
            aside.parent.mkdir(exist_ok=True)
            (self.workdir / CHECKPOINTS / str(step)).rename(aside)
            log.error("going on from step %d; the broken checkpoint of step %d is now %s", good, step, aside)
        if failed:
            wait_for_all("broken checkpoints are aside")
            self.manager.reload()


def restore_model(path: str | Path, step: int | None = None, mesh: Mesh | None = None) -> tuple[RunConfig, Model]:
    """The run's config and the model with its trained and frozen parameters.

    Args:
        path: a workdir, or one step's directory in it.
        step: which step; the newest if None.
        mesh: where to put the parameters; None = the first device.

    Raises:
        CheckpointError: there is no such checkpoint (those that exist are listed), or it cannot be read.
        ConfigError: its config is of another version of the code.
    """
    workdir, step = find_step(path, step)
    where = workdir / CHECKPOINTS / str(step)
    config, meta = read_meta(where)
    if ON_DISK in meta:
        _check_as_it_lies(workdir, where, saved_sums(meta))
    split, _ = abstract_state(config)
    with ocp.StandardCheckpointer() as checkpointer:
        target = place(split.trainable, mesh)
        try:
            params = from_plain(target, checkpointer.restore(where / "params", to_plain(target)))
            check_sums(params, meta["checksums"]["params"], f"step {step}, params")
        except NOT_CORRUPTION:
            raise
        except Exception as error:
            raise CheckpointError(f"{where}: cannot be read: {first_line(error)}; {_others(workdir, step)}") from error
    frozen = restore_frozen(workdir, place(split.frozen, mesh), meta["checksums"]["frozen"])
    return config, nnx.merge(split.graphdef, params, frozen)


def _check_as_it_lies(workdir: Path, where: Path, expected: dict[tuple[str, ...], int]) -> None:
    """An imported checkpoint: its arrays are cast on the way, so what was restored says nothing of what was saved."""
    for item in (where / "params", workdir / FROZEN):
        if item.is_dir():
            check_arrays(open_arrays(item), expected, item)


def restore_frozen(workdir: Path, target: nnx.State, sums: dict[str, int] | None) -> nnx.State:
    """The parameters that a run does not train; `target` has their shapes, dtypes and shardings."""
    if not jax.tree.leaves(target):
        return target
    path = workdir / FROZEN
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            frozen = from_plain(target, checkpointer.restore(path, to_plain(target)))
        check_sums(frozen, sums, FROZEN)
    except NOT_CORRUPTION:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path}: the parameters that this run does not train cannot be read: {first_line(error)}; "
            "restore that folder from a copy, or start over in another --workdir"
        ) from error
    return frozen


def abstract_state(config: RunConfig) -> tuple[SplitModel, TrainState]:
    """The split model and the state of a run, with shapes in place of arrays."""
    graphdefs = []

    def make() -> tuple[nnx.State, nnx.State, TrainState]:
        split = split_model(build_model(config.model), config.train.trainable, config.model.frozen_dtype)
        graphdefs.append(split.graphdef)
        return split.trainable, split.frozen, init_state(split, config)

    trainable, frozen, state = jax.eval_shape(make)
    return SplitModel(graphdefs[0], trainable, frozen), state


def with_shardings(tree: Any, shardings: Any) -> Any:
    """Abstract arrays that say where they lie."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def place(tree: Any, mesh: Mesh | None) -> Any:
    """`with_shardings` for a mesh, or for the first device."""
    if mesh is not None:
        return with_shardings(tree, state_shardings(tree, mesh))
    first = SingleDeviceSharding(jax.local_devices()[0])
    return with_shardings(tree, jax.tree.map(lambda _: first, tree))


def to_plain(tree: Any) -> dict[str, Any]:
    """Any tree as nested dicts of its leaves: what lies on disk does not depend on the classes of this version."""
    plain: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        *folders, name = path_text(path).split("/")
        inner = plain
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = leaf
    return plain


def from_plain(like: Any, plain: dict[str, Any]) -> Any:
    """The inverse of `to_plain`, in the structure of `like`."""

    def look_up(path: tuple[Any, ...], _: Any) -> Any:
        inner = plain
        for name in path_text(path).split("/"):
            inner = inner[name]
        return inner

    return jax.tree_util.tree_map_with_path(look_up, like)


def checksums(tree: Any) -> dict[str, int]:
    """A number for each array that changes with any of its bits, computed where the array lies, on any mesh."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    sums = jax.device_get(_sums([leaf for _, leaf in leaves]))
    return {path_text(path): int(value) for (path, _), value in zip(leaves, sums, strict=True)}


def check_sums(tree: Any, expected: dict[str, int] | None, what: str) -> None:
    """Raise CheckpointError unless `tree` has these checksums; None = it was imported, without any."""
    if expected is None:
        return
    found = checksums(tree)
    if wrong := [name for name in {**expected, **found} if found.get(name) != expected.get(name)]:
        raise CheckpointError(f"{what}: {len(wrong)} arrays differ from what was saved, the first is {wrong[0]}")


@jax.jit
def _sums(arrays: list[jax.Array]) -> list[jax.Array]:
    def one(x: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).astype(jnp.uint32)
        # An odd weight for each place, so that exchanged values show too. Whole numbers wrap and may be added in any
        # order: the sum is the same on every mesh.
        weight = jnp.ones((), jnp.uint32)
        for axis in range(x.ndim):
            weight = weight * 31 + 2 * jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        return (bits * weight).sum(dtype=jnp.uint32)

    return [one(x) for x in arrays]


def _others(workdir: Path, step: int) -> str:
    others = [str(s) for s in saved_steps(workdir) if s != step]
    return f"other steps: {', '.join(others)}" if others else "there is no other step"
