"""AdamW steps on the golden NVLM-D checkpoint, as PyTorch takes them (float32)."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from nvlm_jax.config import InputConfig, OptimizerConfig, RunConfig, TrainConfig
from nvlm_jax.convert import names
from nvlm_jax.training.loss import token_nll
from nvlm_jax.training.step import init_state, make_train_step, split_model
from tests import golden

TRAINED = ("projector", "decoder")
STEPS = 5


def run_config(**changes) -> RunConfig:
    optimizer = OptimizerConfig(
        learning_rate=1e-3,
        min_learning_rate=1e-3,
        warmup_steps=0,
        beta1=0.9,
        beta2=0.98,
        eps=1e-8,
        weight_decay=0.1,
        clip_norm=1.0,
    )
    return RunConfig(
        model=golden.config(),
        inputs=InputConfig(),
        optimizer=dataclasses.replace(optimizer, **changes),
        train=TrainConfig(steps=STEPS, trainable=TRAINED),
    )


def by_their_names(state) -> dict[str, np.ndarray]:
    """Our stacked trainable parameters as tensors of the checkpoint."""
    flat = {path: np.asarray(value[...]) for path, value in nnx.to_flat_state(state)}
    out = {}
    for tensor in names.tensors(golden.config(), "projector") + names.tensors(golden.config(), "llm"):
        layers = flat[tensor.ours][None] if tensor.layers is None else flat[tensor.ours]
        out |= {name: tensor.to_theirs(layer) for name, layer in zip(tensor.names, layers, strict=True)}
    return out


@pytest.fixture
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def trained():
    """Parameters before and after one step, and the losses and gradient norms of five, with decay on every tensor."""
    with jax.default_matmul_precision("highest"):
        return take_steps(run_config(decay_vectors=True), STEPS)


def take_steps(config, count):
    split = split_model(golden.model(), TRAINED, "float32")
    step = jax.jit(make_train_step(split.graphdef, config, group_count=0))
    batch = golden.batch("tiles", loss_mask=golden.train_step()["loss_mask"])
    state, metrics, params = init_state(split, config), [], [split.trainable]
    for _ in range(count + 1):  # the last one for the loss after `count` steps
        state, found = step(state, split.frozen, batch)
        metrics.append(found)
        params.append(state.params)
    losses = np.array([m["loss"] for m in metrics])
    return params, losses, np.array([m["grad_norm"] for m in metrics])[:count], metrics[0]


def test_gradients_match_pytorch(full_precision):
    split = split_model(golden.model(), TRAINED, "float32")
    batch = golden.batch("tiles", loss_mask=golden.train_step()["loss_mask"])

    def loss(params):
        model = split.merge(params)
        nll = token_nll(model.logits_by_chunks(), model.hidden(batch), batch.targets, batch.loss_weights > 0, chunk=16)
        return (nll * batch.loss_weights).sum() / batch.loss_weights.sum()

    got = by_their_names(jax.jit(jax.grad(loss))(split.trainable))
    want = {k.removeprefix("grad/"): v for k, v in golden.train_step().items() if k.startswith("grad/")}
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=0, atol=1e-4, err_msg=name)


def test_losses_of_five_steps_match_pytorch(trained):
    want = golden.train_step()
    _, losses, norms, first = trained
    np.testing.assert_allclose(losses[0], want["loss_before"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(losses[1], want["loss_after"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(losses, want["trajectory_loss"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(norms, want["trajectory_grad_norm"], rtol=1e-5)
    np.testing.assert_allclose(first["grad_norm"], want["grad_norm/total"], rtol=1e-5)
    np.testing.assert_allclose(first["grad_norm/projector"], want["grad_norm/projector"], rtol=1e-5)


def test_update_of_every_tensor_matches_pytorch(trained):
    params, *_ = trained
    before, after = by_their_names(params[0]), by_their_names(params[1])
    golden_step = golden.train_step()
    clip = 1.0 / golden_step["grad_norm/total"]
    for name in before:
        got, want = after[name] - before[name], golden_step[f"delta/{name}"]
        # Where the clipped gradient is below 1e-6, the first step of Adam divides noise by noise.
        steady = np.abs(golden_step[f"grad/{name}"] * clip) > 1e-6
        np.testing.assert_allclose(got[steady], want[steady], rtol=0, atol=2e-6, err_msg=name)
        np.testing.assert_allclose(got[~steady], want[~steady], rtol=0, atol=1e-3, err_msg=name)


def test_without_decay_of_vectors_matches_pytorch(full_precision):
    _, losses, *_ = take_steps(run_config(decay_vectors=False), 1)
    want = golden.train_step()
    np.testing.assert_allclose(losses[1], want["loss_after_no_decay_1d"], rtol=0, atol=2e-5)
    assert abs(want["loss_after"] - want["loss_after_no_decay_1d"]) > 4e-5  # so this test can tell the two apart
