"""One training step, the same for every architecture and stage: a stage is which parts train, from which weights, on
which data.

Parameters are split at the border of the step. Frozen ones are arguments that get no gradient, no optimizer state and
no float32 copy; trainable ones are float32 master weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from nvlm_jax.config import ConfigError, RunConfig
from nvlm_jax.inputs.batch import Batch
from nvlm_jax.models.build import Model
from nvlm_jax.training.loss import group_sums, token_nll
from nvlm_jax.training.optimizer import GATES, make_optimizer


class TrainState(NamedTuple):
    """What a step changes."""

    step: jax.Array  # int32 [], steps done
    params: nnx.State  # trainable parameters, float32
    opt_state: optax.OptState


class SplitModel(NamedTuple):
    """A model taken apart at the border of the step."""

    graphdef: nnx.GraphDef
    trainable: nnx.State
    frozen: nnx.State

    def merge(self, trainable: nnx.State | None = None) -> Model:
        """The model again, with other trainable parameters if given."""
        return nnx.merge(self.graphdef, self.trainable if trainable is None else trainable, self.frozen)


def split_model(model: Model, trainable: tuple[str, ...], frozen_dtype: str) -> SplitModel:
    """Take a model apart by top-level parts; frozen parts are cast to `frozen_dtype`.

    Raises:
        ConfigError: a name in `trainable` that is no part of this model.
    """
    parts = sorted({str(path[0]) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))})
    if unknown := sorted(set(trainable) - set(parts)):
        raise ConfigError(f"train.trainable: {unknown} are no parts of this model, which has {parts}")
    graphdef, chosen, frozen = nnx.split(model, lambda path, _: path[0] in trainable, ...)
    frozen = jax.tree.map(lambda x: x.astype(frozen_dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, frozen)
    return SplitModel(graphdef, chosen, frozen)


def init_state(split: SplitModel, config: RunConfig) -> TrainState:
    """Step 0 with a fresh optimizer."""
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    return TrainState(jnp.zeros((), jnp.int32), split.trainable, optimizer.init(split.trainable))


@functools.lru_cache(maxsize=2)
def make_train_step(
    graphdef: nnx.GraphDef, config: RunConfig, group_count: int
) -> Callable[[TrainState, nnx.State, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """The step as a pure function `(state, frozen, batch) -> (state, metrics)`, to be jitted by the caller.

    The loss is the mean, by `loss_weights`, over the trained tokens of the *global* batch: it does not depend on how
    rows are spread over devices or accumulation steps. Metrics are scalars, but `group_loss` and `group_weight`
    [group_count + 1]. The same function for the same arguments, so that it is traced and compiled once in a process.
    """
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    accumulation, chunk = config.train.accumulation, config.model.loss_chunk

    def loss(params: nnx.State, frozen: nnx.State, batch: Batch, total: jax.Array) -> tuple[jax.Array, Any]:
        model = nnx.merge(graphdef, params, frozen)
        wanted = batch.loss_weights > 0
        nll = token_nll(model.logits_by_chunks(), model.hidden(batch), batch.targets, wanted, chunk)
        sums = group_sums(nll, batch.loss_weights, batch.loss_groups, group_count)
        return (nll * batch.loss_weights).sum() / total, sums

    def step(state: TrainState, frozen: nnx.State, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        total = jnp.maximum(batch.loss_weights.sum(), 1e-6)
        grad = jax.value_and_grad(loss, has_aux=True)

        def accumulate(carry: Any, part: Batch) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, carry, grad(state.params, frozen, part, total)), None

        if accumulation == 1:
            (value, (nll, weight)), grads = grad(state.params, frozen, batch, total)
        else:
            zeros = jnp.zeros(group_count + 1)
            start = ((jnp.zeros(()), (zeros, zeros)), jax.tree.map(jnp.zeros_like, state.params))
            ((value, (nll, weight)), grads), _ = jax.lax.scan(accumulate, start, split_rows(batch, accumulation))
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        trained = (batch.loss_weights > 0).sum(dtype=jnp.float32)
        metrics = {"loss": value, "trained_tokens": trained, "group_loss": nll, "group_weight": weight}
        metrics |= {"grad_norm": optax.tree.norm(grads)} | part_norms(grads) | gate_values(params)
        return TrainState(state.step + 1, params, opt_state), metrics

    return step


def split_rows(batch: Batch, count: int) -> Batch:
    """[B, ...] -> [count, B / count, ...]; every accumulation step takes rows of every device."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1), batch)


def part_norms(grads: nnx.State) -> dict[str, jax.Array]:
    """Gradient norm of each top-level part, before clipping."""
    return {f"grad_norm/{part}": optax.tree.norm(grads[part]) for part in grads}


def gate_values(params: nnx.State) -> dict[str, jax.Array]:
    """tanh of every trainable gate, [G] for each of the two kinds."""
    return {
        f"tanh_gate/{path[-1]}": jnp.tanh(value[...]) for path, value in nnx.to_flat_state(params) if path[-1] in GATES
    }
