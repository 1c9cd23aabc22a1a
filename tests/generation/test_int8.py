"""Weights in 8 bits: a quarter of the memory, nearly the same logits."""

import jax
import numpy as np
from flax import nnx

from nvlm_jax.generation.engine import Engine
from nvlm_jax.generation.int8 import with_int8_weights
from nvlm_jax.generation.request import Request
from nvlm_jax.models.build import parameter_counts
from nvlm_jax.models.layers import Int8
from tests.generation.test_engine import END, VOCAB, make_model, make_prompt


def test_each_matrix_is_within_half_a_step_of_itself():
    model = make_model("h")
    small = with_int8_weights(model)
    before, after = (dict(nnx.to_flat_state(nnx.state(m))) for m in (model, small))
    turned = {path: leaf.get_value() for path, leaf in after.items() if isinstance(leaf.get_value(), Int8)}
    assert {path[0] for path in turned} == {"vision", "decoder", "cross_attention"}
    for path, (values, scale) in turned.items():
        exact = np.asarray(before[path].get_value())
        assert values.dtype == np.int8 and values.shape == exact.shape
        assert scale.shape == (exact.shape[0], 1, exact.shape[2])
        error = np.abs(np.asarray(values, np.float32) * np.asarray(scale) - exact)
        assert (error <= np.asarray(scale) * 0.501).all()
    assert parameter_counts(small) == parameter_counts(model)


def test_answers_come_and_are_nearly_those_of_the_whole_weights():
    prompts = [make_prompt("h", [3], 8, seed) for seed in range(3)]
    model = make_model("h")
    whole, small = (Engine(m, VOCAB, [END], slots=4, cache_tokens=1600) for m in (model, with_int8_weights(model)))
    requests = [Request(prompt, 4, logprobs=20) for prompt in prompts]
    for a, b in zip(whole.generate(requests), small.generate(requests), strict=True):
        first, other = dict(a.logprobs[0].top), dict(b.logprobs[0].top)
        both = first.keys() & other.keys()
        errors = [abs(first[token] - other[token]) for token in both]
        assert len(both) > 10 and 0 < max(errors) < 1.0
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(engine._params)) for engine in (whole, small)]
    assert sizes[1] < sizes[0]
