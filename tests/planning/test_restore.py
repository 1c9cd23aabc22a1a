"""Restoring reads for each device its own part of each array and no more: planned at 72B, watched at size tiny."""

import math
from collections import Counter

import jax
import pytest
from orbax.checkpoint._src.serialization import serialization

from configs.nvlm import get_config
from nvlm_jax.config import MeshConfig, RunConfig, from_mapping
from nvlm_jax.parallel.mesh import PRESETS, make_mesh
from nvlm_jax.planning.restore import restore_plan
from nvlm_jax.training.checkpoints import Checkpoints, abstract_state
from nvlm_jax.training.step import TrainState


@pytest.mark.parametrize("mesh", [MeshConfig(fsdp=4, tensor=2), MeshConfig(data=2, fsdp=4)])
def test_of_the_72b_model_no_device_reads_more_than_it_holds(mesh):
    config = from_mapping(RunConfig, get_config("arch=h,size=72b,stage=sft").to_dict())
    mesh = make_mesh(mesh)
    found = restore_plan(config, mesh)
    split, state = abstract_state(config)
    leaves = jax.tree.leaves((state.params, state.opt_state, split.frozen))
    assert found.whole == sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves) > 900e9
    assert found.read == found.held
    # What is whole on every device is little; of the rest each has one part of the eight, or of the four of a copy.
    share = found.whole / (mesh.size / mesh.shape["data"])
    assert all(share <= count < 1.03 * share for count in found.held.values())
    for name, parts in found.parts.items():
        sizes = {part: math.prod(stop - start for start, stop in part) for part in parts.values()}
        whole = math.prod(max(part[axis][1] for part in parts.values()) for axis in range(len(next(iter(sizes)))))
        assert sum(sizes.values()) == whole, name  # the different parts are the array, once
        assert len(set(Counter(parts.values()).values())) == 1, name


def test_orbax_reads_those_parts_and_no_more(tmp_path, tiny_run_config, monkeypatch):
    config = tiny_run_config("d", trainable=("projector",))
    mesh, other = make_mesh(PRESETS["fsdp4-tp2"]), make_mesh(PRESETS["data2-fsdp4"])
    split, abstract = abstract_state(config)
    zeros = lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype)  # noqa: E731
    state = TrainState(jax.numpy.int32(1), *jax.tree.map(zeros, (abstract.params, abstract.opt_state)))
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save_frozen(jax.tree.map(zeros, split.frozen))
    checkpoints.save(1, jax.device_put(state, jax.sharding.NamedSharding(mesh, jax.P())), config)
    checkpoints.wait()
    read = Counter()
    real = serialization._read_shard

    async def watched(**arguments):
        domain = arguments["restricted_domain"]
        read[tuple(zip(domain.inclusive_min, domain.exclusive_max, strict=True))] += 1
        return await real(**arguments)

    monkeypatch.setattr(serialization, "_read_shard", watched)
    restored = checkpoints.restore(config, other)
    checkpoints.close()
    expected = Counter(part for parts in restore_plan(config, other).parts.values() for part in set(parts.values()))
    assert read == expected
    kernel = restored.state.params["projector"]["first"]["kernel"][...]
    assert {shard.data.size for shard in kernel.addressable_shards} == {kernel.size // 4}
