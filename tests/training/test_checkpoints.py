"""Saving, restoring, falling back, and what is said when it cannot be done."""

import json
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nvlm_jax.config import ConfigError, MeshConfig
from nvlm_jax.parallel.mesh import make_mesh
from nvlm_jax.training.checkpoints import (
    CheckpointError,
    Checkpoints,
    abstract_state,
    check_sums,
    checksums,
    find_step,
    from_plain,
    restore_model,
    to_plain,
)
from nvlm_jax.training.loop import train
from nvlm_jax.training.telemetry import read_metrics
from tests.tiny import make_batches
from tests.training.conftest import GROUPS
from tests.training.test_loop import exact

# Orbax leaves other arrays' reads unfinished when one fails, which pytest would report at length.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def arrays(model) -> dict[tuple[str, ...], np.ndarray]:
    return {path: np.asarray(value[...]) for path, value in nnx.to_flat_state(nnx.state(model))}


def data_files(item):
    """Files with the arrays' values: Orbax may keep some that nothing refers to, so tests damage all of them."""
    found = [path for path in item.rglob("*") if path.is_file() and path.parent.name == "d"]
    assert found
    return found


def truncate(step):
    for path in data_files(step / "params"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bits(step):
    for path in data_files(step / "opt_state"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def lose_meta(step):
    shutil.rmtree(step / "meta")


@pytest.mark.parametrize("damage", [truncate, flip_bits, lose_meta])
def test_a_broken_newest_checkpoint(damage, runs, tmp_path, caplog):
    """The run goes on from the one before, says so twice, keeps the broken one, and computes the same losses."""
    workdir = shutil.copytree(runs.stopped, tmp_path / "run")
    broken = runs.stopped_outcome.step
    damage(workdir / "checkpoints" / str(broken))
    train(runs.config, workdir, lambda start: make_batches(runs.config, start), GROUPS)
    assert f"checkpoints/{broken} cannot be read" in caplog.text
    assert f"going on from step 4; the broken checkpoint of step {broken} is now" in caplog.text
    assert (workdir / "broken" / str(broken)).is_dir()
    assert exact(workdir) == exact(runs.whole)
    assert [r.get("broken_checkpoints") for r in read_metrics(workdir)] == [None] * 4 + [1, None]


def test_no_checkpoint_can_be_read(runs, tmp_path):
    workdir = shutil.copytree(runs.stopped, tmp_path / "run")
    steps = [int(p.name) for p in (workdir / "checkpoints").iterdir()]
    for step in steps:
        truncate(workdir / "checkpoints" / str(step))
    with pytest.raises(CheckpointError, match="none of the checkpoints can be read") as error:
        train(runs.config, workdir, lambda start: make_batches(runs.config, start), GROUPS)
    assert all(f"step {step}: " in str(error.value) for step in steps)
    assert not (workdir / "broken").exists()  # nothing is moved until something better is found


def test_broken_frozen_parameters(runs, tmp_path):
    workdir = shutil.copytree(runs.stopped, tmp_path / "run")
    shutil.rmtree(workdir / "frozen")
    with pytest.raises(CheckpointError, match="frozen: the parameters that this run does not train cannot be read"):
        train(runs.config, workdir, lambda start: make_batches(runs.config, start), GROUPS)
    shutil.copytree(runs.whole / "checkpoints" / "6" / "params", workdir / "frozen")
    with pytest.raises(CheckpointError, match="cannot be read"):
        restore_model(workdir)


@pytest.fixture
def full_disk():
    """No file of this process may grow beyond some bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_is_said_in_a_line(runs, tmp_path, full_disk):
    checkpoints = Checkpoints(tmp_path / "run", keep=1)
    frozen = restore_model(runs.whole)[1]
    with pytest.raises(CheckpointError, match=r"could not be saved: File too large; there is no checkpoint yet\. Make"):
        checkpoints.save_frozen(nnx.state(frozen))


def test_frozen_parameters_are_saved_once(runs):
    assert (runs.whole / "frozen").is_dir()
    names = sorted(p.name for p in (runs.whole / "checkpoints" / "6" / "params").rglob("*"))
    assert names
    meta = json.loads((runs.whole / "checkpoints" / "6" / "meta" / "metadata").read_text())
    assert {name.split("/")[0] for name in meta["checksums"]["params"]} == {"projector", "cross_attention"}
    assert {name.split("/")[0] for name in meta["checksums"]["frozen"]} == {"vision", "decoder"}
    assert not any("decoder" in name or "vision" in name for name in meta["checksums"]["opt_state"])
    assert meta["step"] == 6 and meta["config"]["inputs"]["tile_tags"] == "1d" and "jax" in meta["versions"]


def test_restore_for_evaluation(runs):
    config, model = restore_model(runs.whole)
    assert config == runs.config
    by_step = arrays(restore_model(runs.whole / "checkpoints" / "6")[1])
    for path, value in arrays(model).items():
        np.testing.assert_array_equal(value, by_step[path])
    earlier = arrays(restore_model(runs.whole, step=2)[1])
    changed = {path[0] for path, value in earlier.items() if np.any(value != by_step[path])}
    assert changed == {"projector", "cross_attention"}


def test_restore_onto_another_mesh(runs, tmp_path):
    """Losses of a run that goes on elsewhere agree to rounding; the restored arrays agree to the bit."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    _, there = restore_model(runs.whole, mesh=mesh)
    kernel = there.decoder.layers.mlp.gate.kernel[...]
    assert len(kernel.sharding.device_set) == 8 and kernel.addressable_shards[0].data.size * 4 == kernel.size
    here = arrays(restore_model(runs.whole)[1])
    for path, value in arrays(there).items():
        np.testing.assert_array_equal(value, here[path])


def test_steps_that_do_not_exist(runs, tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 5; there are 2, 4, 6"):
        restore_model(runs.whole, step=5)
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 7; there are 2, 4, 6"):
        restore_model(runs.whole / "checkpoints" / "7")
    with pytest.raises(CheckpointError, match=r"no checkpoints there; expected a workdir with checkpoints/<step>"):
        restore_model(tmp_path)
    with pytest.raises(CheckpointError, match=r"is the checkpoint of step 2, but step 4 is asked for"):
        find_step(runs.whole / "checkpoints" / "2", 4)


def test_a_broken_checkpoint_is_not_evaluated(runs, tmp_path):
    workdir = shutil.copytree(runs.whole, tmp_path / "run")
    truncate(workdir / "checkpoints" / "6")
    with pytest.raises(CheckpointError, match=r"checkpoints/6: cannot be read: .*; other steps: 2, 4"):
        restore_model(workdir)


def test_a_config_of_another_version(runs, tmp_path):
    workdir = shutil.copytree(runs.whole, tmp_path / "run")
    path = workdir / "checkpoints" / "6" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    meta["config"]["model"]["experts"] = 8
    path.write_text(json.dumps(meta))
    with pytest.raises(ConfigError, match=r"model.experts: no such key"):
        restore_model(workdir)


def test_checksums_see_every_change_and_no_mesh():
    tree = {"a": jnp.arange(64, dtype=jnp.float32).reshape(8, 8), "b": jnp.ones(8, jnp.bfloat16)}
    sums = checksums(tree)
    mesh = make_mesh(MeshConfig(fsdp=8))
    split = jax.device_put(tree, jax.NamedSharding(mesh, jax.P("fsdp")))
    assert checksums(split) == sums
    swapped = tree | {"a": tree["a"].at[0, 1].set(tree["a"][1, 0]).at[1, 0].set(tree["a"][0, 1])}
    last_bit = tree | {"a": tree["a"].at[3, 3].set(np.nextafter(np.float32(27), np.float32(28)))}
    half = tree | {"b": tree["b"].at[2].set(1.0078125)}
    for other, name in ((swapped, "a"), (last_bit, "a"), (half, "b")):
        with pytest.raises(CheckpointError, match=f"1 arrays differ from what was saved, the first is {name}"):
            check_sums(other, sums, "step 1")
    check_sums(tree, sums, "step 1")


def test_plain_trees_are_inverted(tiny_run_config):
    _, state = abstract_state(tiny_run_config("h"))
    plain = to_plain(state.opt_state)
    assert plain["1"]["mu"]["cross_attention"]["tags"].shape == (6, 32)
    again = from_plain(state.opt_state, plain)
    assert jax.tree.structure(again) == jax.tree.structure(state.opt_state)
    assert all(a is b for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(state.opt_state), strict=True))


def test_retention(tmp_path, tiny_run_config):
    config = tiny_run_config("d", trainable=("projector",))
    _, abstract = abstract_state(config)
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract)
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3, 4):
        checkpoints.save(step, state, config)
    checkpoints.save(4, state, config)  # saved before: nothing happens
    checkpoints.wait()
    assert checkpoints.steps == [3, 4]
    checkpoints.close()
