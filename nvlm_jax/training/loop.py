"""The loop around the step: start or go on, feed, log, save, stop cleanly."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nvlm_jax.config import RunConfig, check_training
from nvlm_jax.inputs.batch import Batch
from nvlm_jax.models.axes import laid_out
from nvlm_jax.parallel.mesh import check_run, make_mesh
from nvlm_jax.parallel.processes import is_first, wait_for_all
from nvlm_jax.parallel.sharding import batch_shardings, global_batch, mesh_layout, replicated, state_shardings
from nvlm_jax.parallel.watch import Watch
from nvlm_jax.training.checkpoints import Checkpoints, abstract_state
from nvlm_jax.training.initial import initial_model
from nvlm_jax.training.local_checkpoints import LocalCheckpoints
from nvlm_jax.training.lock import locked
from nvlm_jax.training.optimizer import learning_rate
from nvlm_jax.training.run_data import RunData
from nvlm_jax.training.step import TrainState, init_state, make_train_step, split_model
from nvlm_jax.training.telemetry import Silence, Telemetry
from nvlm_jax.training.workdir import open_workdir, write_atomically

log = logging.getLogger(__name__)


class BatchInfo(Protocol):
    """What the data says of a batch; all but `bad` is of the global batch."""

    sample_ids: Any  # of each row, the ids of its samples
    sample_hash: str
    token_fill: float  # share of the B x S places that hold a token
    tile_fill: float
    samples: int
    bad: Any  # samples left out, each with a `reason`


Batches = Callable[[int], Iterator[tuple[Batch, BatchInfo]]]


class Outcome(NamedTuple):
    """How a call of `train` ended."""

    step: int  # steps done
    finished: bool  # all of train.steps
    signal: int | None = None  # that stopped it


class NonFiniteLoss(RuntimeError):
    """A loss or gradient that is no number. The message names the step and its samples."""


class Running(NamedTuple):
    """A step that the device may still be computing."""

    step: int  # steps done after it
    metrics: dict[str, jax.Array]
    info: BatchInfo
    wait: float  # seconds that the loop waited for its batch


def train(
    config: RunConfig,
    workdir: str | Path,
    batches: Batches,
    groups: tuple[str, ...] = (),
    mesh: Mesh | None = None,
    data: RunData | None = None,
) -> Outcome:
    """Train from where `workdir` stands to `train.steps`; a finished run is left as it is.

    SIGINT and SIGTERM, to any process of the run, finish the step, save and return, everywhere after the same step. A
    run killed at any moment and started again computes the same losses bit for bit. Of several processes, which share
    `workdir`, the first one writes; when one dies or hangs the others end (`parallel/watch.py`).

    Args:
        config: of the run.
        workdir: created, or gone on with if its config is this one.
        batches: start step -> an iterator of this process's rows of each further batch (NumPy) and its `BatchInfo`.
        groups: names of the report groups 1, 2, ... of `Batch.loss_groups`.
        mesh: default: `config.mesh` over all devices.
        data: fingerprints of the datasets that `batches` reads; recorded, and compared with what the run began with.

    Raises:
        ConfigError: a number out of its range; the config does not fit the devices, the workdir or the initial weights;
            another process trains in the workdir.
        CheckpointError: no checkpoint of the workdir can be read.
        NonFiniteLoss: nothing is saved after the step before it.
        RuntimeError: the data ended before the last step.
    """
    check_training(config)
    mesh = make_mesh(config.mesh) if mesh is None else mesh
    check_run(config, mesh)
    workdir = Path(workdir).absolute()
    with contextlib.ExitStack() as held:
        if is_first():
            held.enter_context(locked(workdir))
            open_workdir(workdir, config, data)
        wait_for_all("workdir")
        return _train(config, workdir, batches, groups, mesh)


def _train(config: RunConfig, workdir: Path, batches: Batches, groups: tuple[str, ...], mesh: Mesh) -> Outcome:
    with (
        contextlib.closing(Checkpoints(workdir, config.train.keep_checkpoints)) as checkpoints,
        local_checkpoints(config, workdir, mesh) as local,
        Stop(mesh) as stop,
        Watch(config.train.hang_seconds) as watch,
    ):
        if config.train.steps in checkpoints.steps:
            log.info("%s: finished, all %d steps are done", workdir, config.train.steps)
            return Outcome(config.train.steps, True)
        if config.optimizer.warmup_steps > config.train.steps:
            log.warning(
                "optimizer.warmup_steps: %d, and train.steps is %d: the learning rate never reaches its highest",
                *(config.optimizer.warmup_steps, config.train.steps),
            )
        state, frozen, graphdef, broken = start(config, checkpoints, mesh, local)
        step = compile_step(make_train_step(graphdef, config, len(groups)), state, frozen, mesh)
        first = int(state.step)
        about = (workdir, first, config.train.steps, config.train.log_every, config.name)
        with Telemetry(*about) if is_first() else Silence() as telemetry:
            loop = Loop(config, checkpoints, telemetry, groups, len(broken), watch, local)
            return loop.run(step, state, frozen, batches(first), first, batch_shardings(mesh), stop)


def local_checkpoints(
    config: RunConfig, workdir: Path, mesh: Mesh
) -> contextlib.AbstractContextManager[LocalCheckpoints | None]:
    """Those on the hosts, where the run has them."""
    if not config.train.local.kind:
        return contextlib.nullcontext()
    return contextlib.closing(LocalCheckpoints(config, workdir, mesh))


def start(
    config: RunConfig, checkpoints: Checkpoints, mesh: Mesh, local: LocalCheckpoints | None = None
) -> tuple[TrainState, nnx.State, nnx.GraphDef, tuple[int, ...]]:
    """The newest readable state of the run, or that of step 0; the frozen parameters; broken newer steps."""
    newest = None if local is None else local.latest
    if newest is not None and newest > max(checkpoints.steps, default=0):
        log.info("going on from step %d, which the hosts have", newest)
        return local.restore(newest), checkpoints.restore_frozen(config, mesh), abstract_state(config)[0].graphdef, ()
    if checkpoints.steps:
        restored = checkpoints.restore(config, mesh)
        log.info("going on from step %d", int(restored.state.step))
        return restored.state, restored.frozen, abstract_state(config)[0].graphdef, restored.broken
    split = split_model(initial_model(config, mesh), config.train.trainable, config.model.frozen_dtype)
    checkpoints.save_frozen(split.frozen)
    abstract = jax.eval_shape(lambda: init_state(split, config))
    shardings = state_shardings(abstract, mesh)
    # The parameters go in as an argument: they stay where they are, only the optimizer's arrays are made.
    make = jax.jit(lambda trainable: init_state(split._replace(trainable=trainable), config), out_shardings=shardings)
    return make(split.trainable), split.frozen, split.graphdef, ()


def compile_step(step: Callable[..., Any], state: TrainState, frozen: nnx.State, mesh: Mesh) -> Callable[..., Any]:
    """The step for the devices of `mesh`; the state it is given is used up. The same one for the same arguments."""
    shardings, tree = jax.tree.flatten((state_shardings(state, mesh), state_shardings(frozen, mesh)))
    return _jitted(step, tuple(shardings), tree, mesh)


@functools.lru_cache(maxsize=2)
def _jitted(
    step: Callable[..., Any], shardings: tuple[Any, ...], tree: jax.tree_util.PyTreeDef, mesh: Mesh
) -> Callable[..., Any]:
    states, rest = jax.tree.unflatten(tree, shardings)

    def on_mesh(state: TrainState, frozen: nnx.State, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        with laid_out(mesh_layout(mesh)):
            return step(state, frozen, batch)

    return jax.jit(
        on_mesh,
        in_shardings=(states, rest, batch_shardings(mesh)),
        out_shardings=(states, replicated(mesh)),
        donate_argnums=0,
    )


class Loop:
    """The steps of one call of `train`. Metrics are read one step late, so that the device never waits for the host."""

    def __init__(
        self,
        config: RunConfig,
        checkpoints: Checkpoints,
        telemetry: Telemetry | Silence,
        groups: tuple[str, ...],
        broken: int,
        watch: Watch,
        local: LocalCheckpoints | None = None,
    ):
        self.config, self.checkpoints, self.telemetry, self.groups = config, checkpoints, telemetry, groups
        self.watch, self.local = watch, local
        self.rate = learning_rate(config.optimizer, config.train.steps)
        self.once = {"broken_checkpoints": broken} if broken else {}  # metrics of the next step alone
        self.last = time.monotonic()

    def run(
        self,
        step: Callable[..., Any],
        state: TrainState,
        frozen: nnx.State,
        batches: Iterator[tuple[Batch, BatchInfo]],
        first: int,
        shardings: Batch,
        stop: Stop,
    ) -> Outcome:
        """Steps `first` + 1 .. `train.steps`, or until stopped."""
        done, running = first, None
        self.last = time.monotonic()
        try:
            while done < self.config.train.steps and not stop.asked():
                self.watch.tell(done, "data")
                begin = time.monotonic()
                batch, info = self._next(batches, done, stop)
                if batch is None:
                    break
                wait = time.monotonic() - begin
                self.watch.tell(done + 1, "computing")
                state, metrics = step(state, frozen, global_batch(batch, shardings, self.config.train.batch_rows))
                running, before = Running(done + 1, metrics, info, wait), running
                done += 1
                self._log(before)
                if done % self.config.train.checkpoint_every == 0 or done == self.config.train.steps:
                    running = self._save(done, state, running)
                elif self.local and done % self.local.every == 0:
                    running = self._save(done, state, running, local=True)
            if done > first:
                self._save(done, state, running)
        finally:
            with contextlib.suppress(AttributeError):
                batches.close()
        self.checkpoints.wait()
        return Outcome(done, done == self.config.train.steps, stop.received)

    def _next(self, batches: Iterator[Any], done: int, stop: Stop) -> tuple[Batch | None, Any]:
        try:
            return next(batches)
        except StopIteration:
            raise RuntimeError(f"the data ended after step {done} of train.steps={self.config.train.steps}") from None
        except Exception:
            # Ctrl-C reaches the data's worker processes as well; they end before this process asks again.
            if stop.received is None:
                raise
            return None, None

    def _save(self, step: int, state: TrainState, running: Running | None, local: bool = False) -> None:
        """Log all steps up to this one, then save: no checkpoint holds a step whose loss was not seen to be finite."""
        self._log(running)
        self.watch.tell(step, "saving")
        self.telemetry.sync()
        if local:
            self.local.save(step, state)
        else:
            self.checkpoints.save(step, state, self.config)

    def _log(self, running: Running | None) -> None:
        if running is None:
            return
        found = jax.device_get(running.metrics)
        if not (np.isfinite(found["loss"]) and np.isfinite(found["grad_norm"])):
            self._stop_not_finite(running, found)
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        record = self._values(found, running.step) | self._data_values(running, seconds) | self.once
        self.once = {}
        self.telemetry.write(running.step, record)

    def _values(self, found: dict[str, np.ndarray], step: int) -> dict[str, float]:
        names = ("no_group", *self.groups)
        totals, weights = found.pop("group_loss"), found.pop("group_weight")
        values: dict[str, float] = {"loss": float(found.pop("loss"))}
        values |= {f"loss/{n}": float(t / w) for n, t, w in zip(names, totals, weights, strict=True) if w > 0}
        for name, value in found.items():
            layers = {f"{name}/{i}": float(x) for i, x in enumerate(value)} if np.ndim(value) else {name: float(value)}
            values |= layers
        return values | {"learning_rate": float(self.rate(step - 1))}

    def _data_values(self, running: Running, seconds: float) -> dict[str, Any]:
        info, data = running.info, self.config.data
        tokens = round(info.token_fill * self.config.train.batch_rows * data.tokens_per_row)
        values = {
            "token_fill": float(info.token_fill),
            "tile_fill": float(info.tile_fill),
            "useful_tokens": tokens,
            "samples": info.samples,
            "useful_tokens_per_second": tokens / seconds,
            "samples_per_second": info.samples / seconds,
            "seconds": seconds,
            "data_wait_share": min(running.wait / seconds, 1.0),
            "sample_hash": info.sample_hash,
        }
        return values | {f"bad/{reason}": n for reason, n in Counter(fault.reason for fault in info.bad).items()}

    def _stop_not_finite(self, running: Running, found: dict[str, np.ndarray]) -> None:
        step, ids = running.step, [list(row) for row in running.info.sample_ids]
        path = self.checkpoints.workdir / f"not_finite_{step}.json"
        record = {"step": step, "sample_ids": ids, "metrics": {k: np.asarray(v).tolist() for k, v in found.items()}}
        if is_first():
            write_atomically(path, json.dumps(record, indent=1) + "\n")
        parts = [k.removeprefix("grad_norm/") for k, v in found.items() if k.startswith("grad_norm/")
                 and not np.isfinite(v)]  # fmt: skip
        self.checkpoints.wait()
        last = max(self.checkpoints.steps, default=None)
        shown = ", ".join(sample for row in ids for sample in row)
        raise NonFiniteLoss(
            f"step {step}: loss {float(found['loss'])}, gradient norm {float(found['grad_norm'])}"
            + (f" (not finite in {', '.join(parts)})" if parts else "")
            + f"; samples {shown if len(shown) < 2000 else shown[:2000] + ' ...'}. All of it is in {path}. "
            + (f"The last checkpoint is of step {last}." if last is not None else "There is no checkpoint yet.")
        )


class Stop:
    """SIGINT and SIGTERM as a question that the loop asks between steps. A second SIGINT interrupts at once."""

    def __init__(self, mesh: Mesh | None = None) -> None:
        """
        Args:
            mesh: over which the processes of a run agree; None = this is the only one.
        """
        self.received: int | None = None
        self._mesh = mesh
        self._highest = mesh and jax.jit(jnp.max, out_shardings=replicated(mesh))
        self._vote: jax.Array | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether any process of the run was asked to stop; all of them get the same answer."""
        if jax.process_count() == 1 or self._mesh is None:
            return self.received is not None
        # The answer is that to the question before, which the devices have long computed: asking costs no wait. On CPU
        # programs with collectives must not overlap.
        before, self._vote = self._vote, self._highest(self._numbers(self.received or 0))
        answer = int(self._vote if jax.default_backend() == "cpu" else 0 if before is None else before)
        if answer:
            self.received = answer
        return bool(answer)

    def _numbers(self, number: int) -> jax.Array:
        """What each process says, on each of its devices."""
        everywhere = NamedSharding(self._mesh, PartitionSpec(self._mesh.axis_names))
        local = np.full(jax.local_device_count(), number, np.int32)
        return jax.make_array_from_process_local_data(everywhere, local, (self._mesh.size,))

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.received is None:
            self.received = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
