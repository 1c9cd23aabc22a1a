"""One model on several devices: the same answers."""

import jax
import pytest
from flax import nnx

from nvlm_jax.config import ConfigError
from nvlm_jax.generation.engine import Engine
from nvlm_jax.generation.request import Request
from nvlm_jax.parallel.mesh import inference_mesh
from nvlm_jax.parallel.sharding import state_shardings
from tests.generation.test_engine import END, VOCAB, make_model, make_prompt
from tests.tiny import make_model_config


def test_a_model_answers_alike_on_one_device_and_on_four():
    model = make_model("h")
    graphdef, params = nnx.split(model)
    prompts = [make_prompt("h", images, 8, seed) for seed, images in enumerate(([2], [], [1]))]
    answers = []
    for count in (1, 4):
        mesh = inference_mesh(model.config, jax.devices()[:count])
        placed = params if mesh is None else jax.device_put(params, state_shardings(params, mesh))
        engine = Engine(nnx.merge(graphdef, placed), VOCAB, [END], slots=1, cache_tokens=1600)  # the fewest programs
        answers.append([answer.tokens for answer in engine.generate(Request(p, 10) for p in prompts)])
        assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(engine._store)} == {count}
    assert answers[0] == answers[1] and all(map(len, answers[0]))


def test_which_mesh():
    config = make_model_config("h")
    assert inference_mesh(config, jax.devices()[:1]) is None
    shapes = {count: dict(inference_mesh(config, jax.devices()[:count]).shape) for count in (2, 4, 8)}
    found = {count: (shape["tensor"], shape["fsdp"]) for count, shape in shapes.items()}
    assert found == {2: (2, 1), 4: (2, 2), 8: (2, 4)}
    with pytest.raises(ConfigError, match="3 devices: no tensor"):
        inference_mesh(config, jax.devices()[:3])
