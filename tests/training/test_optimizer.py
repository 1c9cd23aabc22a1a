"""AdamW against its definition, written out in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nvlm_jax.config import ConfigError, OptimizerConfig
from nvlm_jax.models.build import abstract_model
from nvlm_jax.training.optimizer import learning_rate, make_optimizer
from nvlm_jax.training.step import split_model

CONFIG = OptimizerConfig(
    learning_rate=3e-2,
    min_learning_rate=1e-3,
    warmup_steps=3,
    beta1=0.8,
    beta2=0.95,
    eps=1e-6,
    weight_decay=0.3,
    clip_norm=0.7,
    gate_learning_rate_scale=10.0,
)
STEPS = 12


def rate(step: int, config: OptimizerConfig = CONFIG, steps: int = STEPS) -> float:
    """Linear from 0 to the peak in `warmup_steps`, then half a cosine down to the minimum at the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    share = min((step - config.warmup_steps) / (steps - config.warmup_steps), 1.0)
    low, high = config.min_learning_rate, config.learning_rate
    return low + (high - low) * (1 + np.cos(np.pi * share)) / 2


def adamw(params, gradients, config):
    """Parameters after one step for each of `gradients`; all dicts of float64 arrays."""
    params = {k: v.astype(np.float64) for k, v in params.items()}
    first, second = ({k: np.zeros_like(v) for k, v in params.items()} for _ in range(2))
    for step, grads in enumerate(gradients):
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grads.values()))
        for name in params:
            g = grads[name].astype(np.float64) * min(1.0, config.clip_norm / norm)
            first[name] = config.beta1 * first[name] + (1 - config.beta1) * g
            second[name] = config.beta2 * second[name] + (1 - config.beta2) * g**2
            m = first[name] / (1 - config.beta1 ** (step + 1))
            v = second[name] / (1 - config.beta2 ** (step + 1))
            update = m / (np.sqrt(v) + config.eps)
            if config.decay_vectors or name == "kernel":
                update = update + config.weight_decay * params[name]
            scale = config.gate_learning_rate_scale if name == "attention_gate" else 1.0
            params[name] = params[name] - rate(step, config) * scale * update
    return params


@pytest.mark.parametrize("decay_vectors", [False, True])
def test_against_the_definition(decay_vectors):
    config = dataclasses.replace(CONFIG, decay_vectors=decay_vectors)
    random = np.random.default_rng(0)
    # Stacked layers: vectors have two dimensions and gates one, so that only names can tell them apart.
    shapes = {"kernel": (2, 3, 4), "scale": (2, 3), "bias": (2, 4), "attention_gate": (2,)}
    params = {k: random.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    sizes = (0.01, 3.0, 0.2, 1.0, 0.05)  # norms below and above the clip
    gradients = [{k: (size * random.normal(size=s)).astype(np.float32) for k, s in shapes.items()} for size in sizes]
    optimizer = make_optimizer(config, STEPS)
    found, state = {k: jnp.asarray(v) for k, v in params.items()}, optimizer.init(params)
    for grads in gradients:
        updates, state = optimizer.update(grads, state, found)
        found = optax.apply_updates(found, updates)
    expected = adamw(params, gradients, config)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


def test_schedule():
    schedule = learning_rate(CONFIG, STEPS)
    np.testing.assert_allclose([schedule(i) for i in range(STEPS + 3)], [rate(i) for i in range(STEPS + 3)], rtol=1e-5)
    flat = learning_rate(dataclasses.replace(CONFIG, warmup_steps=0), STEPS)
    np.testing.assert_allclose(flat(0), CONFIG.learning_rate, rtol=1e-6)


def test_what_decays(tiny_model_config):
    """With zero gradients nothing moves but what decays: matrices and tables."""
    config = dataclasses.replace(CONFIG, warmup_steps=0)
    abstract = nnx.state(abstract_model(tiny_model_config("h")))
    params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), abstract)
    optimizer = make_optimizer(config, STEPS)
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = jax.jit(lambda: optimizer.update(zeros, optimizer.init(params), params))()
    moved = {path[-1] for path, value in nnx.to_flat_state(updates) if np.any(value[...])}
    still = {path[-1] for path, value in nnx.to_flat_state(updates) if not np.any(value[...])}
    assert still == {"scale", "scale1", "scale2", "bias", "attention_gate", "mlp_gate"}
    assert moved == {"kernel", "embedding", "tags", "class_token", "position"}


def test_unknown_part(tiny_model_config):
    message = r"train.trainable: \['cross_attention'\] are no parts .* \['decoder', 'projector', 'vision'\]"
    with pytest.raises(ConfigError, match=message):
        split_model(abstract_model(tiny_model_config("d")), ("projector", "cross_attention"), "float32")
