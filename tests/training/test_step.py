"""Proofs about the step: one loss whatever the split of the batch, and frozen parameters that cost nothing."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nvlm_jax.config import MeshConfig, OptimizerConfig
from nvlm_jax.parallel.mesh import make_mesh
from nvlm_jax.parallel.sharding import batch_shardings, global_batch, path_text, state_shardings
from nvlm_jax.training.checkpoints import to_plain
from nvlm_jax.training.loop import compile_step
from nvlm_jax.training.loss import token_nll
from nvlm_jax.training.step import init_state, make_train_step, split_model
from tests.tiny import TRAINABLE, make_batch, make_model, make_run_config

# No clipping, and all of the first moment is the gradient.
OPEN = OptimizerConfig(beta1=0.0, warmup_steps=0, clip_norm=1e9)
ROWS = 16


def loss_and_gradients(config, model, batch, mesh):
    """Loss, sums of the groups, and gradients (the first moment after one step) as float64 by path."""
    split = split_model(model, config.train.trainable, config.model.frozen_dtype)
    state = jax.tree.map(jnp.copy, init_state(split, config))  # the step uses up its state
    state, frozen = (jax.device_put(tree, state_shardings(tree, mesh)) for tree in (state, split.frozen))
    step = compile_step(make_train_step(split.graphdef, config, 2), state, frozen, mesh)
    state, metrics = step(state, frozen, global_batch(batch, batch_shardings(mesh)))
    moments = to_plain(state.opt_state)["1"]["mu"]
    gradients = {path_text(p): np.asarray(x, np.float64) for p, x in jax.tree_util.tree_flatten_with_path(moments)[0]}
    return {k: np.asarray(v, np.float64) for k, v in metrics.items()}, gradients


def relative(found: dict[Any, np.ndarray], expected: dict[Any, np.ndarray]) -> float:
    """Distance of two sets of arrays over the norm of the second."""
    assert set(found) == set(expected)
    distance = sum(np.sum((found[k] - v) ** 2) for k, v in expected.items())
    return float(np.sqrt(distance / sum(np.sum(v**2) for v in expected.values())))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_loss_and_gradients_do_not_depend_on_how_the_batch_is_split(arch, tiny_run_config, random_batch):
    config = tiny_run_config(arch, batch_rows=ROWS, trainable=(*TRAINABLE[arch], *(("vision",) if arch == "d" else ())))
    config = dataclasses.replace(config, optimizer=OPEN)
    model, batch = make_model(config.model), random_batch(config.model, ROWS, seed=3)
    trained = (batch.loss_weights > 0).sum(axis=1)
    assert trained.max() >= 15 and (trained == 0).sum() >= 3  # very uneven
    one = make_mesh(MeshConfig(), jax.devices()[:1])
    metrics, gradients = loss_and_gradients(config, model, batch, one)
    assert all(np.any(g) for g in gradients.values())

    in_parts = dataclasses.replace(config, train=dataclasses.replace(config.train, accumulation=4))
    cases = {"4 accumulation steps": (in_parts, one)}  # meshes: tests/parallel/test_presets.py
    for name, (other, mesh) in cases.items():
        found, found_gradients = loss_and_gradients(other, model, batch, mesh)
        for key in ("loss", "group_loss", "group_weight", "trained_tokens", "grad_norm"):
            np.testing.assert_allclose(found[key], metrics[key], rtol=1e-6, err_msg=f"{name}: {key}")
        # 1e-6 for the gradient as a whole; an array of small numbers that almost cancel keeps less in float32.
        assert relative(found_gradients, gradients) < 1e-6, name
        for parameter, value in gradients.items():
            assert relative({0: found_gradients[parameter]}, {0: value}) < 1e-5, f"{name}: {parameter}"
    # The same mean over rows' own means is another number: the test can see the difference.
    assert abs(mean_of_row_means(model, batch) / metrics["loss"] - 1) > 1e-3


def mean_of_row_means(model, batch) -> float:
    """What a loss normalised row by row would be."""

    @jax.jit
    def of(batch):
        return token_nll(model.logits_by_chunks(), model.hidden(batch), batch.targets, batch.loss_weights > 0, 32)

    nll = np.asarray(of(batch))
    rows = [np.average(n, weights=w) for n, w in zip(nll, batch.loss_weights, strict=True) if w.any()]
    return float(np.mean(rows))


@pytest.fixture(scope="module")
def frozen_run():
    """A step of X with the vision encoder and the decoder frozen in bfloat16, not compiled yet."""
    config = make_run_config("x", trainable=("projector", "cross_attention"))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, frozen_dtype="bfloat16"))
    split = split_model(make_model(config.model), config.train.trainable, "bfloat16")
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    state = init_state(split, config)
    step = compile_step(make_train_step(split.graphdef, config, 2), state, split.frozen, mesh)
    return step, state, split, [make_batch(config.model, 8, seed) for seed in range(3)]


def test_frozen_parameters_do_not_change(frozen_run):
    step, state, split, batches = frozen_run
    before = jax.tree.map(np.array, split.frozen)
    start = jax.tree.map(np.array, state.params)
    state = jax.tree.map(jnp.copy, state)
    for batch in batches:
        state, _ = step(state, split.frozen, batch)
    for (path, old), new in zip(
        nnx.to_flat_state(before), jax.tree.leaves(jax.tree.map(np.asarray, split.frozen)), strict=True
    ):
        assert old[...].tobytes() == new.tobytes(), path
    moved = jax.tree.map(lambda a, b: bool(np.any(a != np.asarray(b))), start, state.params)
    assert all(jax.tree.leaves(moved))


def test_frozen_parameters_have_no_state(frozen_run):
    _, state, split, _ = frozen_run
    assert {path[0] for path, _ in nnx.to_flat_state(split.frozen)} == {"vision", "decoder"}
    assert {str(x.dtype) for x in jax.tree.leaves(split.frozen)} == {"bfloat16"}
    names = [path_text(path) for path, _ in jax.tree_util.tree_flatten_with_path(state.opt_state)[0]]
    assert sum("/projector/" in name or "/cross_attention/" in name for name in names) == 2 * len(
        jax.tree.leaves(split.trainable)
    )
    assert not [name for name in names if "vision" in name or "decoder" in name]


def test_frozen_parameters_have_no_gradient_buffers(frozen_run):
    """Neither an output nor any intermediate array of the traced step is as large as a frozen stack of matrices."""
    step, state, split, batches = frozen_run
    traced = step.trace(state, split.frozen, batches[0])
    outputs = [(x.shape, x.dtype) for x in jax.tree.leaves(traced.out_info[0])]
    assert outputs == [(x.shape, x.dtype) for x in jax.tree.leaves(state)]  # the state and nothing else comes back
    made = shapes_made(traced.jaxpr.jaxpr)

    def stacks(params):
        """Shapes [layers, in, out] of stacked matrices."""
        return {x.shape for path, x in nnx.to_flat_state(params) if path[-1] == "kernel" and x.ndim == 3}

    trained, frozen = stacks(split.trainable), stacks(split.frozen)
    assert trained <= made  # gradients, moments and updates of what is trained do show
    assert not (frozen - trained) & made
    assert len(frozen - trained) >= 4
    # The compiled program takes the frozen parameters as they are and hands none of them back.
    compiled = traced.lower().compile()
    memory = compiled.memory_analysis()
    sizes = [sum(x.nbytes for x in jax.tree.leaves(tree)) for tree in (state, split.frozen, batches[0])]
    assert memory.argument_size_in_bytes <= sum(sizes)
    assert memory.output_size_in_bytes < sizes[0] + 10_000


def shapes_made(jaxpr) -> set[tuple[int, ...]]:
    """Shapes of all arrays that the equations of a jaxpr make, at any depth."""
    shapes = set()
    for equation in jaxpr.eqns:
        shapes |= {tuple(v.aval.shape) for v in equation.outvars if hasattr(v.aval, "shape")}
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "jaxpr"):
                inner = inner.jaxpr
            if hasattr(inner, "eqns"):
                shapes |= shapes_made(inner)
    return shapes
