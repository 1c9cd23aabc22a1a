"""The table covers every parameter of every model; what it says is what lies on each device."""

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, PartitionSpec

from configs.nvlm import model_config
from nvlm_jax.config import ConfigError, MeshConfig
from nvlm_jax.inputs.batch import Batch
from nvlm_jax.models.build import abstract_model
from nvlm_jax.parallel.mesh import AXES, make_mesh
from nvlm_jax.parallel.sharding import (
    batch_shardings,
    global_batch,
    parameter_sharding,
    path_text,
    state_shardings,
)
from nvlm_jax.training.checkpoints import abstract_state

POD = AbstractMesh((2, 16, 8, 1), AXES)


def specs(tree, mesh) -> dict[str, PartitionSpec]:
    leaves = jax.tree_util.tree_flatten_with_path(state_shardings(tree, mesh))[0]
    return {path_text(path): sharding.spec for path, sharding in leaves}


@pytest.mark.parametrize("size", ["tiny", "34b", "72b"])
@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_every_parameter_of_the_named_models(arch, size):
    mesh = POD if size != "tiny" else AbstractMesh((1, 8, 2, 1), AXES)
    model = abstract_model(model_config(arch, size))
    found = specs(nnx.state(model), mesh)
    matrices = {p for p, leaf in nnx.to_flat_state(nnx.state(model)) if p[-1] == "kernel"}
    # Every matrix is split somewhere, the encoder's by fsdp alone.
    assert all("fsdp" in found["/".join(path)] for path in matrices)
    assert not any("tensor" in spec for path, spec in found.items() if path.startswith("vision/"))
    assert found["decoder/layers/mlp/gate/kernel"] == PartitionSpec(None, "fsdp", "tensor")
    assert found["decoder/embedding"] == PartitionSpec("tensor", "fsdp")
    assert found["decoder/norm/scale"] == PartitionSpec(None)


def test_the_reader_that_pretrains_the_encoder():
    model = abstract_model(model_config("d", "tiny", dense_labels=5))
    assert specs(nnx.state(model), AbstractMesh((1, 8, 2, 1), AXES))["head"] == PartitionSpec("fsdp", "tensor")


def test_moments_lie_where_their_parameters_lie(tiny_run_config):
    config = tiny_run_config("h")
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    _, state = abstract_state(config)
    found = specs(state.opt_state, mesh)
    params = specs(state.params, mesh)
    for moment in ("mu", "nu"):
        assert {p.split(f"/{moment}/")[1]: s for p, s in found.items() if f"/{moment}/" in p} == params
    assert found["1/count"] == PartitionSpec()


def test_each_device_holds_its_share(tiny_run_config):
    abstract = nnx.state(abstract_model(tiny_run_config("x").model))
    state = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), abstract)
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    placed = jax.device_put(state, state_shardings(state, mesh))
    kernel = placed["decoder"]["layers"]["attention"]["q"]["kernel"][...]
    assert kernel.addressable_shards[0].data.size * 8 == kernel.size
    total = sum(x.nbytes for x in jax.tree.leaves(placed))
    held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(placed))
    assert held < total / 3


def test_a_dimension_that_does_not_divide():
    mesh = AbstractMesh((1, 2, 3, 1), AXES)
    message = r"decoder/layers/attention/q/kernel: dimension 2 \(heads\) of size 32 does not divide by mesh.tensor = 3"
    with pytest.raises(ConfigError, match=message):
        parameter_sharding("decoder/layers/attention/q/kernel", (2, 32, 32), mesh)


def test_a_parameter_that_the_table_does_not_know():
    with pytest.raises(ConfigError, match="parameter decoder/adapter: no line of PARAMETERS"):
        parameter_sharding("decoder/adapter", (4, 4), POD)
    with pytest.raises(ConfigError, match="has not the dimensions"):
        parameter_sharding("decoder/embedding", (4, 4, 4), POD)


def test_batches(tiny_model_config, random_batch):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, context=2))
    batch = random_batch(tiny_model_config("d"), 8, seed=0)
    placed = global_batch(batch, batch_shardings(mesh))
    for name in Batch._fields:
        np.testing.assert_array_equal(getattr(placed, name), getattr(batch, name))
    assert placed.tokens.addressable_shards[0].data.shape == (2, 16)
    assert placed.tiles.addressable_shards[0].data.shape[:2] == (2, 4)
