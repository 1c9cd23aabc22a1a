"""Loss and gradients of D, X and H on every mesh preset equal those of one device."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nvlm_jax.config import MeshConfig
from nvlm_jax.models.axes import laid_out
from nvlm_jax.models.vision import gather_tiles, spread_tiles
from nvlm_jax.parallel.mesh import PRESETS, make_mesh
from nvlm_jax.parallel.sharding import mesh_layout
from nvlm_jax.training.loss import token_nll
from tests.tiny import TRAINABLE, make_batch, make_model, make_run_config
from tests.training.test_step import OPEN, loss_and_gradients, relative

MESHES = {name: (preset, 8) for name, preset in PRESETS.items()}
# One row of three tiles for four devices: the tiles are padded.
PADDED = {"padded tiles": (PRESETS["fsdp2-tp2-context2"], 2)}
CASES = [(arch, *MESHES[name]) for arch in "dxh" for name in MESHES] + [("h", *PADDED["padded tiles"])]


@functools.cache
def on_one_device(arch, rows):
    trainable = (*TRAINABLE[arch], *(("vision",) if arch == "d" else ()))
    config = dataclasses.replace(make_run_config(arch, batch_rows=rows, trainable=trainable), optimizer=OPEN)
    model, batch = make_model(config.model), make_batch(config.model, rows, seed=5, tiles=3)
    for segments, tiled in zip(batch.segment_ids, batch.tile_segment_ids, strict=True):
        with_image = np.isin(np.unique(segments[segments > 0]), tiled)
        if with_image.any() and not with_image.all():
            break
    else:
        raise AssertionError("no row holds text-only samples and samples with images")
    one = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    return config, model, batch, loss_and_gradients(config, model, batch, one)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "preset", "rows"), CASES)
def test_every_preset_gives_the_numbers_of_one_device(arch, preset, rows):
    config, model, batch, (metrics, gradients) = on_one_device(arch, rows)
    found, found_gradients = loss_and_gradients(config, model, batch, make_mesh(preset))
    for key in ("loss", "group_loss", "group_weight", "trained_tokens", "grad_norm"):
        np.testing.assert_allclose(found[key], metrics[key], rtol=1e-5, err_msg=key)
    for parameter, value in gradients.items():
        assert relative({0: found_gradients[parameter]}, {0: value}) < 1e-5, parameter


def test_tiles_spread_evenly_and_come_back():
    """Two groups of rows with 3 x 3 tiles each, on four devices a group: 12 places, three a device."""
    mesh = make_mesh(PRESETS["fsdp2-tp2-context2"])
    tiles = np.arange(6 * 3 * 4, dtype=np.float32).reshape(6, 3, 2, 2)

    @jax.jit
    def spread(tiles):
        with laid_out(mesh_layout(mesh)):
            flat = spread_tiles(tiles)
            return flat, gather_tiles(flat, 6, 3)

    flat, back = spread(tiles)
    assert {shard.data.shape[0] for shard in flat.addressable_shards} == {3}
    assert flat.shape[0] == 24
    np.testing.assert_array_equal(back, tiles)


@pytest.mark.parametrize("preset", ["fsdp8", "fsdp4-tp2"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_loss_reads_the_vocabulary_as_the_head_does(tied, preset):
    config = make_run_config("d").model
    config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, tied_embeddings=tied))
    graphdef, state = nnx.split(make_model(config).decoder)
    hidden = jax.random.normal(jax.random.key(1), (8, 12, config.decoder.width))
    targets = jax.random.randint(jax.random.key(2), (8, 12), 0, config.decoder.vocab_size)
    wanted = jnp.arange(12) % 3 < jnp.arange(8)[:, None] % 3

    def by_chunks(state):
        return token_nll(nnx.merge(graphdef, state).logits_by_chunks(), hidden, targets, wanted, 4).sum()

    def plain(state):
        scores = jax.nn.log_softmax(nnx.merge(graphdef, state).logits(hidden))
        return -jnp.where(wanted, jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0], 0).sum()

    with laid_out(mesh_layout(make_mesh(PRESETS[preset]))):
        value, gradients = jax.jit(jax.value_and_grad(by_chunks))(state)
    want, want_gradients = jax.value_and_grad(plain)(state)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradients, want_gradients)
