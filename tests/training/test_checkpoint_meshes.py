"""A checkpoint of one mesh is restored on another, each device reading its own part: 8 devices -> 1 -> 4."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from nvlm_jax.config import MeshConfig
from nvlm_jax.parallel.mesh import PRESETS, make_mesh
from nvlm_jax.parallel.sharding import state_shardings
from nvlm_jax.training.checkpoints import Checkpoints, abstract_state
from nvlm_jax.training.step import TrainState


def test_from_eight_devices_to_one_to_four(tmp_path, tiny_run_config):
    config = tiny_run_config("d", trainable=("projector",))
    split, abstract = abstract_state(config)
    random = np.random.default_rng(0)

    def draw(leaf):
        return jnp.asarray(random.normal(size=leaf.shape).astype(np.float32), leaf.dtype)

    state = TrainState(jnp.int32(5), *jax.tree.map(draw, (abstract.params, abstract.opt_state)))
    frozen = jax.tree.map(draw, split.frozen)
    expected = [np.asarray(leaf) for leaf in jax.tree.leaves((state, frozen))]
    meshes = (
        make_mesh(PRESETS["fsdp2-tp2-context2"]),
        make_mesh(MeshConfig(fsdp=1), jax.devices()[:1]),
        make_mesh(MeshConfig(fsdp=2, tensor=2), jax.devices()[4:]),
    )
    for number, (mesh, following) in enumerate(itertools.pairwise(meshes)):
        checkpoints = Checkpoints(tmp_path / str(number), keep=1)
        placed, rest = (jax.device_put(tree, state_shardings(tree, mesh)) for tree in (state, frozen))
        checkpoints.save_frozen(rest)
        checkpoints.save(5, placed, config)
        checkpoints.wait()
        state, frozen, broken = checkpoints.restore(config, following)
        checkpoints.close()
        assert not broken
        for leaf, value in zip(jax.tree.leaves((state, frozen)), expected, strict=True):
            assert leaf.sharding.device_set == set(following.devices.flat)
            np.testing.assert_array_equal(leaf, value)
    kernel = state.params["projector"]["first"]["kernel"][...]
    assert {shard.data.size for shard in kernel.addressable_shards} == {kernel.size // 4}
