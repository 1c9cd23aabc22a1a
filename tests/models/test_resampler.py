"""The ablation's resampler: what its latents may depend on, and a model that has one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nvlm_jax.config import ConfigError
from nvlm_jax.convert.names import tensors
from nvlm_jax.models.build import abstract_model
from nvlm_jax.models.flops import padded_work, useful_flops
from nvlm_jax.models.resampler import Resampler
from nvlm_jax.parallel.sharding import logical_axes, path_text
from tests.tiny import make_batch, make_model_config

LATENTS = 3


def with_resampler(arch="x"):
    config = make_model_config(arch)
    return dataclasses.replace(
        config, cross_attention=dataclasses.replace(config.cross_attention, resampler_latents=LATENTS)
    )


def test_latents_read_their_own_tile_and_know_no_order():
    decoder = make_model_config("x").decoder
    resampler = jax.jit(Resampler(LATENTS, 1, decoder, nnx.Rngs(0), "float32"))
    tokens = np.random.default_rng(0).normal(size=(2, 2, 5, decoder.width)).astype(np.float32)
    out = np.asarray(resampler(jnp.asarray(tokens)))
    assert out.shape == (2, 2, LATENTS, decoder.width)
    other = tokens.copy()
    other[0, 1] *= -1.0
    changed = np.abs(np.asarray(resampler(jnp.asarray(other))) - out).max(axis=(2, 3))
    assert changed[0, 1] > 1e-3 and changed[0, 0] == changed[1, 0] == changed[1, 1] == 0
    # Attention over a set: in whatever order the patches come, the latents are the same.
    np.testing.assert_allclose(np.asarray(resampler(jnp.asarray(tokens[:, :, ::-1]))), out, atol=1e-5)


@pytest.mark.parametrize("arch", ["x", "h"])
def test_a_model_reads_latents_in_place_of_image_tokens(arch):
    config = with_resampler(arch)
    graphdef, state = nnx.split(abstract_model(config))
    batch = make_batch(config, 2, 0)

    def memory(state, image_tokens, index):
        model = nnx.merge(graphdef, state)
        memory = model.memory(batch, image_tokens, index)
        return memory.media, *model.cross_attention.keys_values(memory.media.reshape(8, 1, *memory.media.shape[2:]))

    image_tokens = jnp.ones((2, 4, config.tokens_per_tile, config.decoder.width))
    media, keys, values = jax.eval_shape(memory, state, image_tokens, jnp.zeros((2, 32), jnp.int32))
    assert media.shape == (2, 4, LATENTS + (arch == "h"), config.decoder.width)
    assert keys.shape[0] == values.shape[0] == 8 and keys.shape[4] == values.shape[3] == media.shape[2]


def test_every_parameter_has_its_place_on_a_mesh():
    state = nnx.to_flat_state(nnx.state(abstract_model(with_resampler())))
    for path, leaf in state:
        if "resampler" in path:
            assert len(logical_axes(path_text(path))) == len(leaf.shape), path


def test_it_costs_what_it_saves_and_is_in_no_released_layout():
    plain, with_it = make_model_config("x"), with_resampler()
    cost = [useful_flops(c, (), padded_work(c, 1, 32, 4))["cross_attention"] for c in (plain, with_it)]
    assert cost[1] > cost[0]
    with pytest.raises(ConfigError, match="resampler_latents: an ablation"):
        tensors(with_it, "cross_attention")
