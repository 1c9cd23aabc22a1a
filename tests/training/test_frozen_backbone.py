"""X trained around a frozen LLM is that LLM again when its gates are shut."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nvlm_jax.training.checkpoints import restore_model
from nvlm_jax.training.initial import initial_model
from tests.tiny import make_batch


def logits(model, batch) -> np.ndarray:
    graphdef, params = nnx.split(model)
    run = jax.jit(lambda params, batch: (m := nnx.merge(graphdef, params)).logits(m.hidden(batch)))
    return np.asarray(run(params, batch))


def test_shut_gates_leave_the_backbone_that_was_there_before_training(runs):
    trained, backbone = restore_model(runs.whole)[1], initial_model(runs.config)
    batch = make_batch(runs.config.model, rows=2, seed=0)
    backbone.cross_attention = None
    before = logits(backbone, batch)
    assert np.abs(logits(trained, batch) - before).max() > 1e-3
    for gate in ("attention_gate", "mlp_gate"):
        values = getattr(trained.cross_attention.layers, gate)
        values[...] = jnp.zeros_like(values[...])
    np.testing.assert_array_equal(logits(trained, batch), before)
