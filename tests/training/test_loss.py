"""The loss of the wanted places alone: against a softmax over all of them, and how much of it is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvlm_jax.config import MeshConfig
from nvlm_jax.models.axes import laid_out
from nvlm_jax.parallel.mesh import make_mesh
from nvlm_jax.parallel.sharding import mesh_layout
from nvlm_jax.training.loss import chunk_size, token_nll

B, S, D, V = 4, 24, 8, 12
MESHES = {
    "one device": None,
    "rows": MeshConfig(fsdp=4),
    "rows and vocabulary": MeshConfig(fsdp=2, tensor=2),
    "places": MeshConfig(fsdp=2, context=2),
}


def arrays(seed: int = 0):
    hidden, table, targets = jax.random.split(jax.random.key(seed), 3)
    return (
        jax.random.normal(hidden, (B, S, D)),
        jax.random.normal(table, (D, V)),
        jax.random.randint(targets, (B, S), 0, V),
    )


def by_softmax(hidden, table, targets, wanted):
    scores = jax.nn.log_softmax(hidden @ table)
    return jnp.where(wanted, -jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0], 0.0)


PATTERNS = {
    "all": np.ones((B, S), bool),
    "none": np.zeros((B, S), bool),
    "some": np.random.default_rng(0).random((B, S)) < 0.3,
    "a row of none": np.arange(S) % 2 == np.array([[0], [1], [2], [0]]),
    "the last place": np.broadcast_to(np.arange(S) == S - 1, (B, S)),
}


def on(mesh):
    """What is traced in it, gradients too, is for four devices."""
    return laid_out(mesh and mesh_layout(make_mesh(mesh, jax.devices()[:4])))


@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
@pytest.mark.parametrize("chunk", [4, 7, 100])
@pytest.mark.parametrize("wanted", PATTERNS.values(), ids=PATTERNS)
def test_values_and_gradients_are_those_of_a_softmax_over_everything(wanted, chunk, mesh):
    hidden, table, targets = arrays()
    weights = jax.random.uniform(jax.random.key(5), (B, S))

    def ours(hidden, table):
        logits = jax.tree_util.Partial(lambda table, part: part @ table, table)
        return token_nll(logits, hidden, targets, jnp.asarray(wanted), chunk)

    def total(of):
        return jax.jit(jax.grad(lambda *arguments: (of(*arguments) * weights).sum(), argnums=(0, 1)))

    def plain(hidden, table):
        return by_softmax(hidden, table, targets, wanted)

    with on(mesh):
        value, gradients = jax.jit(ours)(hidden, table), total(ours)(hidden, table)
    np.testing.assert_allclose(value, plain(hidden, table), rtol=1e-5, atol=1e-6)
    for found, want in zip(gradients, total(plain)(hidden, table), strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mesh", [MESHES["one device"], MESHES["rows"]], ids=["one device", "rows"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_a_row_of_23_places_and_a_frozen_head(dtype, tolerance, mesh):
    """No chunk divides it; half-precision weights are added up in float32; the gradient of hidden alone is the same."""
    hidden, table, targets = arrays()
    hidden, table, targets = hidden[:, :23].astype(dtype), table.astype(dtype), targets[:, :23]
    wanted = jnp.asarray(PATTERNS["some"][:, :23])

    def ours(hidden, table):
        logits = jax.tree_util.Partial(lambda table, part: (part @ table).astype(jnp.float32), table)
        return token_nll(logits, hidden, targets, wanted, 100).sum()

    def plain(hidden, table):
        return by_softmax(hidden.astype(jnp.float32), table.astype(jnp.float32), targets, wanted).sum()

    with on(mesh):
        both, frozen = jax.jit(jax.grad(ours, argnums=(0, 1)))(hidden, table), jax.jit(jax.grad(ours))(hidden, table)
        trained, alone = (str(jax.make_jaxpr(jax.grad(ours, argnums=n))(hidden, table)) for n in ((0, 1), 0))
    want = jax.grad(plain, argnums=(0, 1))(hidden, table)
    assert trained.count("dot_general") == alone.count("dot_general") + 1  # the head's gradient, where it is wanted
    assert f"f32[{D},{V}]" in trained and (dtype == "float32" or f"f32[{D},{V}]" not in alone)
    for found, wanted_gradient in ((both[0], want[0]), (both[1], want[1]), (frozen, want[0])):
        assert found.dtype == dtype
        error = np.abs(np.float32(found) - np.float32(wanted_gradient)).max()
        assert error <= tolerance * np.abs(np.float32(wanted_gradient)).max()


@pytest.mark.parametrize(
    ("places", "chunk", "size"),
    [(384, 512, 64), (8192, 512, 512), (2176, 512, 272), (23, 100, 3), (1021, 512, 146), (5, 512, 1), (24, 4, 4)],
)
def test_sizes_of_chunks(places, chunk, size):
    assert chunk_size(places, chunk) == size


@pytest.mark.parametrize(("most", "chunks"), [(0, 0), (1, 1), (4, 1), (5, 2), (24, 6)])
def test_chunks_behind_the_last_wanted_place_are_left_out(most, chunks):
    hidden, table, targets = arrays()
    wanted = jnp.zeros((B, S), bool).at[1, S - most :].set(most > 0)
    computed = []

    def logits(table, part):
        jax.debug.callback(lambda: computed.append(part.shape))
        return part @ table

    head = jax.tree_util.Partial(logits, table)
    jax.block_until_ready(jax.jit(lambda: token_nll(head, hidden, targets, wanted, 4))())
    jax.effects_barrier()
    assert computed == [(B, 4, D)] * chunks


def test_each_device_leaves_out_chunks_behind_the_last_wanted_place_of_its_own_rows():
    """And the weights' gradient is added up over the devices once, not in each chunk that may be left out."""
    hidden, table, targets = arrays()
    wanted = jnp.arange(S) < jnp.array([[5], [0], [9], [1]])  # of chunks of four places: 2, 0, 3 and 1
    computed = []

    def logits(table, part):
        jax.debug.callback(lambda: computed.append(part.shape))
        return part @ table

    def total(table):
        return token_nll(jax.tree_util.Partial(logits, table), hidden, targets, wanted, 4).sum()

    with on(MESHES["rows"]):
        jax.block_until_ready(jax.jit(total)(table))
        jax.effects_barrier()
        assert computed == [(1, 4, D)] * 6
        program = jax.jit(jax.grad(total)).lower(table).compile().as_text()
    assert program.count(" all-reduce(") == 1
