"""The attention kernels, interpreted, against attention in float64; on one device and on eight."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, NamedSharding, PartitionSpec, use_abstract_mesh

from nvlm_jax.config import MeshConfig
from nvlm_jax.models import attention
from nvlm_jax.models.attention import CausalMask, TileKeys, TileMask, attend
from nvlm_jax.models.axes import laid_out, platform, split_by_compiler
from nvlm_jax.models.flash import mosaic, triton
from nvlm_jax.models.flash.attention import flash_attention
from nvlm_jax.models.flash.rule import spans, visible
from nvlm_jax.parallel.mesh import PRESETS, make_mesh
from nvlm_jax.parallel.sharding import mesh_layout
from nvlm_jax.planning.chips import CHIPS
from nvlm_jax.planning.compile import tpu_devices

SIZES = {
    "triton": triton.Sizes(triton.Size(16, 32), triton.Size(32, 16), triton.Size(16, 16)),
    "mosaic": mosaic.Sizes(mosaic.Size(16, 32), mosaic.Size(32, 16), mosaic.Size(16, 16)),
}
ROWS, PER_TILE, WIDTH = 2, 20, 16


def causal(length: int = 96) -> CausalMask:
    """Samples of uneven length, and padding at the end of each row."""
    ends = np.array([[33, 40, 90], [5, 64, 65]])
    index = np.broadcast_to(np.arange(length), (ROWS, length))
    segment = 1 + (index[:, :, None] >= ends[:, None]).sum(-1)
    segment = jnp.asarray(np.where(segment > 3, 0, segment), jnp.int32)
    return CausalMask(segment, jnp.asarray(index, jnp.int32), segment, jnp.asarray(index, jnp.int32))


def tiles() -> TileKeys:
    """Two samples with images and one without; tags that name a tile; a tile of nobody between two that are read."""
    mask = causal()
    tag = np.zeros((ROWS, 96), np.int32)
    tag[:, 3], tag[0, 4:6], tag[0, 38] = 1, 3, 2
    segment = jnp.array([[1, 0, 1, 2, 2], [1, 2, 2, 2, 0]], jnp.int32)
    start = jnp.array([[2, 0, 2, 36, 39], [0, 10, 30, 60, 0]], jnp.int32)
    rule = TileMask(mask.q_segment, mask.q_index, jnp.asarray(tag), segment, start)
    return TileKeys(rule.tiles(), PER_TILE, rule)


CASES = {"causal": (96, 96, causal), "tiles": (96, 5 * PER_TILE, tiles), "nothing hidden": (37, 53, lambda: None)}


def arrays(case: str, heads: int, kv_heads: int, dtype: str = "float32", rows: int = ROWS):
    """q, k, v and the gradient of the output."""
    queries, keys, _ = CASES[case]
    random = np.random.default_rng(0)
    shapes = [(rows, n, h, WIDTH) for n, h in ((queries, heads), (keys, kv_heads), (keys, kv_heads), (queries, heads))]
    return tuple(jnp.asarray(random.normal(size=shape), dtype) for shape in shapes)


def exact(q, k, v, d_out, seen):
    """Attention and its gradients by q, k and v in float64, from scores written down in full."""
    q, k, v, d_out = (np.asarray(x, np.float64) for x in (q, k, v, d_out))
    group = q.shape[2] // k.shape[2]
    wide_k, wide_v = (np.repeat(x, group, axis=2) for x in (k, v))
    scores = np.einsum("bqnh,bknh->bnqk", q, wide_k) / np.sqrt(q.shape[-1])
    weights = np.where(seen, np.exp(scores - scores.max()), 0)
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-300)
    d_weights = np.einsum("bqnh,bknh->bnqk", d_out, wide_v)
    d_scores = weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True)) / np.sqrt(q.shape[-1])
    dk, dv = np.einsum("bnqk,bqnh->bknh", d_scores, q), np.einsum("bnqk,bqnh->bknh", weights, d_out)
    dk, dv = (x.reshape(*x.shape[:2], k.shape[2], group, -1).sum(3) for x in (dk, dv))
    return np.einsum("bnqk,bknh->bqnh", weights, wide_v), np.einsum("bnqk,bknh->bqnh", d_scores, wide_k), dk, dv


def with_gradients(compute, q, k, v, d_out):
    @jax.jit
    def run(q, k, v, d_out):
        out, back = jax.vjp(compute, q, k, v)
        return out, *back(d_out)

    return run(q, k, v, d_out)


@pytest.mark.parametrize("backend", ["triton", "mosaic"])
@pytest.mark.parametrize(
    ("case", "heads", "kv_heads", "dtype", "tolerance"),
    [
        ("causal", 4, 2, "float32", 1e-5),
        ("tiles", 8, 1, "float32", 1e-5),
        ("nothing hidden", 2, 2, "bfloat16", 2e-2),
    ],
)
def test_kernels_equal_attention_in_float64(backend, case, heads, kv_heads, dtype, tolerance):
    given, mask = arrays(case, heads, kv_heads, dtype), CASES[case][2]()
    rule = None if mask is None else mask.rule()
    seen = True if mask is None else np.asarray(mask.block(0, given[1].shape[1]))[:, None]
    how = {"backend": backend, "interpret": True, "sizes": SIZES[backend]}
    found = with_gradients(lambda q, k, v: flash_attention(q, k, v, rule, **how), *given)
    for name, got, want in zip(("out", "dq", "dk", "dv"), found, exact(*given, seen), strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=tolerance * np.abs(want).max(), err_msg=name)
    if mask is not None:
        blind = ~seen[:, 0].any(-1)
        assert blind.any() and not blind.all()
        assert (np.asarray(found[0])[blind] == 0).all() and (np.asarray(found[1])[blind] == 0).all()
        unread = ~seen[:, 0].any(-2)
        assert unread.any() and all((np.asarray(x)[unread] == 0).all() for x in found[2:])


@pytest.mark.parametrize("case", ["causal", "tiles"])
def test_skipped_blocks_hold_no_visible_pair(case):
    queries, keys, mask = CASES[case]
    rule, (q_size, k_size) = mask().rule(), (16, 10 if case == "tiles" else 12)
    columns = type(rule.q)(*(None if x is None else x[:, :, None] for x in rule.q))
    seen = np.asarray(visible(columns, type(rule.k)(*(None if x is None else x[:, None] for x in rule.k))))
    np.testing.assert_array_equal(seen, mask().block(0, keys))
    blocks = seen.reshape(ROWS, queries // q_size, q_size, keys // k_size, k_size)
    found = spans(rule, q_size, k_size)
    for of, seen in ((found.of_queries, blocks), (found.of_keys, blocks.transpose(0, 3, 4, 1, 2))):
        some, every = seen.any((2, 4)), seen.all((2, 4))
        place = np.arange(some.shape[-1])
        low, begin, end, high = (np.asarray(of)[..., i, None] for i in range(4))
        inside, whole = (place >= low) & (place < high), (place >= begin) & (place < end)
        assert (inside | ~some).all() and (every | ~whole).all() and (inside | ~whole).all()
        assert inside.sum() < 0.75 * inside.size and whole.sum() >= 0.5 * every.sum()


@pytest.mark.slow
@pytest.mark.parametrize(("case", "kernel"), [("causal", "mosaic"), ("tiles", "triton"), ("nothing hidden", "mosaic")])
def test_eight_devices_give_the_numbers_of_one(case, kernel):
    """Rows over fsdp, heads over tensor, queries over context; without a mask whole tiles over all of them."""
    if case == "nothing hidden":
        given, mask, axes = arrays(case, 2, 2, rows=8), None, ("tiles", None, None)
    else:
        given, mask, axes = arrays(case, 4, 2), CASES[case][2](), attention.ROW_AXES
    compute = functools.partial(attend, mask=mask, implementation=kernel, axes=axes)
    one = with_gradients(compute, *given)
    with laid_out(mesh_layout(make_mesh(PRESETS["fsdp2-tp2-context2"]))):
        several = with_gradients(compute, *given)
    assert not several[0].sharding.is_fully_replicated
    for got, want in zip(several, one, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_the_choice_is_by_platform_and_size():
    def of(kind, queries, keys, mask=None, dtype="bfloat16", width=64):
        class Layout:
            def parts(self, name):
                return 2

        Layout.platform = kind
        q, k = (jax.ShapeDtypeStruct((2, n, h, width), dtype) for n, h in ((queries, 4), (keys, 2)))
        with laid_out(Layout()):
            return attention.choose(q, k, mask)

    mask = causal()
    assert [of("cpu", n, n, mask) for n in (256, 1024, 1026)] == ["dense", "dense", "blockwise"]
    assert of("cpu", 1025, 1025) == "blockwise"
    assert [of("tpu", n, n, mask) for n in (128, 256, 8192)] == ["dense", "mosaic", "mosaic"]
    assert [of("gpu", n, n, mask) for n in (128, 256, 8192)] == ["dense", "triton", "triton"]
    assert of("gpu", 1024, 1024) == "cudnn" and of("gpu", 1024, 1024, mask, dtype="float32") == "dense"
    assert of("gpu", 1024, 1024, mask, width=80) == "dense"  # no power of two
    assert of("tpu", 2047, 2047, mask) == "blockwise"  # places do not divide by two
    assert of("tpu", 2048, 9216, tiles()) == "mosaic"
    assert of("tpu", 2048, 9216, tiles()._replace(tiles=None)) == "blockwise"  # nothing but `visible` is known
    with split_by_compiler():
        assert platform() == "any" and of("tpu", 8192, 8192, mask) == "mosaic"  # a layout says how to split
    assert platform() == "cpu"


def of_kernel(case: str, kernel: str, width: int, kv_heads: int, rows: int = 2):
    """Attention by this kernel with gradients, and the shapes of its arguments, long enough for several blocks."""
    queries, keys = {"causal": (1024, 1024), "tiles": (512, 6 * 257)}[case]
    heads = 2 * kv_heads
    sizes = ((queries, heads), (keys, kv_heads), (keys, kv_heads), (queries, heads))
    shapes = [jax.ShapeDtypeStruct((rows, *size, width), jnp.bfloat16) for size in sizes]
    of_q, of_k = (jax.ShapeDtypeStruct((rows, n), jnp.int32) for n in (queries, keys))
    of_tiles = jax.ShapeDtypeStruct((rows, 6), jnp.int32)
    marks = (of_q, of_q, of_k, of_k) if case == "causal" else (of_q, of_q, of_q, of_tiles, of_tiles)

    def compute(q, k, v, d_out, *marks):
        if case == "causal":
            mask = CausalMask(*marks)
        else:
            rule = TileMask(*marks)
            mask = TileKeys(rule.tiles(), keys // 6, rule)
        out, back = jax.vjp(functools.partial(attend, mask=mask, implementation=kernel), q, k, v)
        return out, *back(d_out)

    return compute, (*shapes, *marks)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "width"), [("tiles", 128)])  # each takes a quarter of a minute
def test_kernels_compile_for_a_tpu_slice(case, width):
    pytest.importorskip("libtpu")
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2), tpu_devices(CHIPS["v5p"], "2x2x1"))
    compute, shapes = of_kernel(case, "mosaic", width, kv_heads=2, rows=4)
    rows = NamedSharding(mesh, PartitionSpec("fsdp"))
    with laid_out(mesh_layout(mesh)):
        lowered = jax.jit(compute, in_shardings=rows).lower(*shapes)
    assert lowered.compile().as_text().count('custom_call_target="tpu_custom_call"') == 3


def a_gpu():
    """Newer JAX asks which GPU it lowers for; older takes a Hopper where there is none."""
    if jax.__version_info__ < (0, 11):
        return contextlib.nullcontext()
    device = AbstractDevice("NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu")
    return use_abstract_mesh(AbstractMesh((1,), ("one",), abstract_device=device))


@pytest.mark.parametrize("case", ["causal", "tiles"])
def test_kernels_lower_to_triton(case):
    """As far as a machine without a GPU can go: Triton's own compiler is not asked."""

    class Layout:
        platform = "gpu"

        def by_part(self, function, given, made):
            return function

    compute, shapes = of_kernel(case, "triton", 64, kv_heads=1)
    with laid_out(Layout()), a_gpu():
        lowered = jax.jit(compute).trace(*shapes).lower(lowering_platforms=("cuda",))
    assert lowered.as_text().count("xla.gpu.triton") == 3


@pytest.mark.parametrize("length", [8, 9])
def test_cudnn_has_gradients_of_odd_lengths(length, monkeypatch):
    """Its place taken by XLA's own attention, which refuses what cuDNN refuses: gradients of an odd length."""
    xla = functools.partial(jax.nn.dot_product_attention)

    def stand_in(q, k, v, implementation, **lengths):
        assert implementation == "cudnn" and (q.shape[1] % 2 == 0 or not isinstance(q, jax.core.Tracer))
        return xla(q, k, v, implementation="xla", **lengths)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    q, k, v, d_out = (jax.random.normal(key, (2, length, 2, 4)) for key in jax.random.split(jax.random.key(0), 4))
    cudnn, dense = (functools.partial(attend, implementation=name) for name in ("cudnn", "dense"))
    np.testing.assert_allclose(cudnn(q, k, v), dense(q, k, v), atol=1e-6)
    both = (with_gradients(compute, q, k, v, d_out) for compute in (cudnn, dense))
    for found, expected in zip(*both, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
