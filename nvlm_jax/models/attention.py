"""One attention for everything: (q, k, v, description of the mask) -> out.

A mask is described by a few integers a token or a tile; nothing of size [S, S] or [S, T*N] is stored. Ways to compute:

    dense       one block of scores for all keys, in plain XLA; right for short rows, and what CPUs take
    blockwise   a scan over blocks of keys with a running softmax: memory is linear in the row
    triton      kernels of our own on NVIDIA GPUs (`flash/`): no score leaves the chip
    mosaic      the same on TPUs
    cudnn       NVIDIA's library, where nothing is masked

A query that sees no key gets exactly zero from all of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from nvlm_jax.models.axes import by_part, parts, platform
from nvlm_jax.models.flash.rule import Marks, Rule, make_rule

# Scores (queries times keys of one head of one row) up to which holding them all is cheaper than scanning.
DENSE_LIMIT = 1 << 20
QUERY_BLOCK = 128  # queries of one step of the dense causal kernel
BLOCK = 512  # keys of one step of the blockwise kernel
MASKED = -1e30
# Accelerators run kernels from as many scores on.
KERNEL_LIMIT = 1 << 16
KERNELS = {"gpu": "triton", "cuda": "triton", "tpu": "mosaic"}  # by platform
ROW_AXES = ("rows", "places", "heads")  # of q in the decoder; names as in models/axes.py


class CausalMask(NamedTuple):
    """A token sees the tokens of its own segment up to itself."""

    q_segment: jax.Array  # int32 [B, Sq], 0 sees nothing
    q_index: jax.Array  # int32 [B, Sq], place in the row
    k_segment: jax.Array  # int32 [B, Sk], 0 is seen by nobody
    k_index: jax.Array  # int32 [B, Sk]
    aligned: bool = False  # queries and keys are the same tokens in the same order

    def block(self, start: jax.Array | int, size: int) -> jax.Array:
        """Bool [B, Sq, size]: which of the keys start .. start+size each query sees."""
        k_segment = jax.lax.dynamic_slice_in_dim(self.k_segment, start, size, axis=1)
        k_index = jax.lax.dynamic_slice_in_dim(self.k_index, start, size, axis=1)
        same = self.q_segment[:, :, None] == k_segment[:, None, :]
        return same & (k_segment[:, None, :] > 0) & (k_index[:, None, :] <= self.q_index[:, :, None])

    def rule(self) -> Rule:
        """The same in integers a query and key."""
        return make_rule(Marks(self.q_segment, self.q_index), Marks(self.k_segment, self.k_index))


class TileMask(NamedTuple):
    """What a token sees of the tiles: those of its own segment whose image precedes it; a tag token its tile alone."""

    q_segment: jax.Array  # int32 [B, Sq]
    q_index: jax.Array  # int32 [B, Sq]
    tag_tile: jax.Array  # int32 [B, Sq], 1 + index of the one tile this token sees, 0 = no such limit
    tile_segment: jax.Array  # int32 [B, T], 0 is seen by nobody
    tile_start: jax.Array  # int32 [B, T]

    def tiles(self) -> jax.Array:
        """Bool [B, Sq, T]: which tiles each token sees."""
        same = self.q_segment[:, :, None] == self.tile_segment[:, None, :]
        precedes = self.tile_start[:, None, :] <= self.q_index[:, :, None]
        number = 1 + jnp.arange(self.tile_segment.shape[1])
        named = (self.tag_tile[:, :, None] == 0) | (self.tag_tile[:, :, None] == number)
        return same & (self.tile_segment[:, None, :] > 0) & precedes & named


class TileKeys(NamedTuple):
    """A `TileMask` with the number of keys of each tile: the mask over the T * keys_per_tile keys."""

    visible: jax.Array  # bool [B, Sq, T]
    keys_per_tile: int
    tiles: TileMask | None = None  # that `visible` was made of; kernels want it
    real: jax.Array | None = None  # bool [B, T * keys_per_tile]: keys that are none, as behind a short tag, are False

    def block(self, start: jax.Array | int, size: int) -> jax.Array:
        """Bool [B, Sq, size]; `start` and `size` are whole tiles."""
        count = size // self.keys_per_tile
        tiles = jax.lax.dynamic_slice_in_dim(self.visible, start // self.keys_per_tile, count, axis=2)
        visible = jnp.repeat(tiles, self.keys_per_tile, axis=2, total_repeat_length=size)
        if self.real is None:
            return visible
        return visible & jax.lax.dynamic_slice_in_dim(self.real, start, size, axis=1)[:, None]

    def rule(self) -> Rule:
        """The same in integers a query and key."""
        mask = self.tiles
        number = jnp.broadcast_to(1 + jnp.arange(mask.tile_segment.shape[1]), mask.tile_segment.shape)
        columns = (mask.tile_segment, mask.tile_start, number)
        segment, start, number = (jnp.repeat(x, self.keys_per_tile, axis=1) for x in columns)
        if self.real is not None:
            segment = jnp.where(self.real, segment, 0)
        return make_rule(Marks(mask.q_segment, mask.q_index, mask.tag_tile), Marks(segment, start, number))


Mask = CausalMask | TileKeys


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask | None = None,
    implementation: str | None = None,
    axes: tuple[str | None, str | None, str | None] = ROW_AXES,
) -> jax.Array:
    """Softmax attention with grouped key/value heads, scaled by 1/sqrt(h); scores and softmax in float32.

    Args:
        q: [B, Sq, H, h].
        k: [B, Sk, K, h]; query head i reads key/value head i // (H / K).
        v: [B, Sk, K, h].
        mask: who sees whom; None = everyone sees everything.
        implementation: one of those above; None picks by platform and size. On CPU kernels are interpreted, slowly.
        axes: names of the first three dimensions of q, for several devices. Keys have the first, and theirs of the
            third; they are whole along the second.

    Returns:
        [B, Sq, H, h] in the dtype of q; exactly zero where a query sees nothing.
    """
    if implementation is None:
        implementation = choose(q, k, mask, axes)
    if implementation == "cudnn":
        if mask is not None:
            raise ValueError("attention: implementation cudnn is for mask=None; triton takes masks")
        return _split(_cudnn, q, k, v, None, axes)
    if implementation in KERNELS.values():
        return _split(_kernel(implementation), q, k, v, mask, axes)
    kernel = {"dense": _dense, "blockwise": _blockwise}[implementation]
    grouped = rearrange(q * q.shape[-1] ** -0.5, "b s (k g) h -> b k g s h", k=k.shape[2])
    k, v = (rearrange(x, "b s k h -> b k s h") for x in (k, v))
    return rearrange(kernel(grouped, k, v, mask), "b k g s h -> b s (k g) h").astype(q.dtype)


def choose(q: jax.Array, k: jax.Array, mask: Mask | None, axes: tuple[str | None, ...] = ROW_AXES) -> str:
    """The implementation for arrays of these shapes on the devices that the model is traced for."""
    pairs, kernel = q.shape[1] * k.shape[1], KERNELS.get(platform())
    if kernel and pairs >= KERNEL_LIMIT and _serves(kernel, q, k, mask, axes):
        return "cudnn" if kernel == "triton" and mask is None else kernel
    return "dense" if pairs <= DENSE_LIMIT else "blockwise"


def _serves(kernel: str, q: jax.Array, k: jax.Array, mask: Mask | None, axes: tuple[str | None, ...]) -> bool:
    from nvlm_jax.models.flash.attention import BACKENDS

    sizes = zip((*q.shape[:3], k.shape[2]), (*axes, axes[2]), strict=True)
    divides = all(name is None or size % parts(name) == 0 for size, name in sizes)
    described = not isinstance(mask, TileKeys) or mask.tiles is not None
    return divides and described and BACKENDS[kernel].serves(q.shape[3], q.dtype)


@jax.custom_vjp
def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


def _cudnn_even(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Gradients exist for even lengths alone, and InternViT's is odd: one place more, neither seen nor kept."""
    length = q.shape[1]
    lengths = [jnp.full(x.shape[:1], x.shape[1], jnp.int32) for x in (q, k)]
    q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
    known = dict(zip(("query_seq_lengths", "key_value_seq_lengths"), lengths, strict=True))
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn", **known)[:, :length]


_cudnn.defvjp(functools.partial(jax.vjp, _cudnn_even), lambda back, d_out: back(d_out))


def _kernel(backend: str) -> Callable[..., jax.Array]:
    # Pallas takes half a second to import, which no run on CPU should wait for.
    from nvlm_jax.models.flash.attention import flash_attention

    interpret = KERNELS.get(platform()) != backend

    def compute(q: jax.Array, k: jax.Array, v: jax.Array, *marks: jax.Array) -> jax.Array:
        half = len(marks) // 2
        rule = Rule(Marks(*marks[:half]), Marks(*marks[half:])) if marks else None
        return flash_attention(q, k, v, rule, backend, interpret)

    return compute


def _split(
    compute: Callable[..., jax.Array],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask | None,
    axes: tuple[str | None, ...],
) -> jax.Array:
    """`compute` on each device's rows, places and heads, for the compiler cannot look into a kernel to split it."""
    rows, places, heads = axes
    rule = None if mask is None else mask.rule()
    marks = () if rule is None else (*rule.q.arrays, *rule.k.arrays)
    names = [(rows, places)] * (len(marks) // 2) + [(rows, None)] * (len(marks) // 2)
    of_q, of_k = (rows, places, heads, None), (rows, None, heads, None)
    return by_part(compute, [of_q, of_k, of_k, *names], of_q)(q, k, v, *marks)


def _scores(q: jax.Array, k: jax.Array, visible: jax.Array | None, turned: bool = False) -> jax.Array:
    """Float32 [B, K, G, Sq, Sk] of q [B, K, G, Sq, h] and k [B, K, Sk, h] (`turned`: [B, K, h, Sk]), hidden places at
    MASKED or below."""
    b, kv_heads, group, s, width = q.shape
    # One matrix product a key/value head: its whole group of query heads at once.
    pattern = "bkqh,bkhs->bkqs" if turned else "bkqh,bksh->bkqs"
    flat = jnp.einsum(pattern, q.reshape(b, kv_heads, -1, width), k, preferred_element_type=jnp.float32)
    scores = flat.reshape(b, kv_heads, group, s, -1)
    return scores if visible is None else scores + jnp.where(visible, 0.0, MASKED)[:, None, None]


def _values(weights: jax.Array, v: jax.Array) -> jax.Array:
    """Float32 [B, K, G, Sq, h] of weights [B, K, G, Sq, Sk] and v [B, K, Sk, h]."""
    b, kv_heads, group, s, keys = weights.shape
    flat = weights.reshape(b, kv_heads, -1, keys).astype(v.dtype)
    out = jnp.einsum("bkqs,bksh->bkqh", flat, v, preferred_element_type=jnp.float32)
    return out.reshape(b, kv_heads, group, s, -1)


def _dense(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask | None) -> jax.Array:
    # Blocks of places that lie on several devices would have to be gathered first.
    if not (isinstance(mask, CausalMask) and mask.aligned) or parts("places") > 1:
        return _softmax(q, k, v, None if mask is None else mask.block(0, k.shape[2]))
    # Queries in blocks, each against the keys up to its own end: the masked half is never computed.
    blocks = []
    for start in range(0, q.shape[3], QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, q.shape[3])
        visible = mask.block(0, end)[:, start:end]
        blocks.append(_softmax(q[:, :, :, start:end], k[:, :, :end], v[:, :, :end], visible))
    return jnp.concatenate(blocks, axis=3)


def _softmax(q: jax.Array, k: jax.Array, v: jax.Array, visible: jax.Array | None) -> jax.Array:
    scores = _scores(q, k, visible)
    # The floor keeps exp() of a query that sees nothing at exactly zero.
    top = jax.lax.stop_gradient(jnp.maximum(scores.max(axis=-1, keepdims=True), MASKED / 2))
    weights = jnp.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    return _values(weights, v) / jnp.where(total == 0, 1.0, total)


def _blockwise(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask | None) -> jax.Array:
    size = _block_size(k.shape[2], mask)

    @jax.checkpoint
    def step(carry: tuple[jax.Array, jax.Array, jax.Array], start: jax.Array):
        top, total, out = carry
        k_block = jax.lax.dynamic_slice_in_dim(k, start, size, axis=2)
        v_block = jax.lax.dynamic_slice_in_dim(v, start, size, axis=2)
        scores = _scores(q, k_block, None if mask is None else mask.block(start, size))
        new_top = jax.lax.stop_gradient(jnp.maximum(top, scores.max(axis=-1, keepdims=True)))
        weights = jnp.exp(scores - new_top)
        shrink = jnp.exp(top - new_top)
        total = total * shrink + weights.sum(axis=-1, keepdims=True)
        return (new_top, total, out * shrink + _values(weights, v_block)), None

    shape = q.shape[:-1]
    carry = (jnp.full((*shape, 1), MASKED / 2), jnp.zeros((*shape, 1)), jnp.zeros(q.shape))
    (_, total, out), _ = jax.lax.scan(step, carry, jnp.arange(0, k.shape[2], size))
    return out / jnp.where(total == 0, 1.0, total)


def _block_size(keys: int, mask: Mask | None) -> int:
    """The largest divisor of `keys` up to BLOCK that is whole tiles where the mask is by tiles."""
    unit = mask.keys_per_tile if isinstance(mask, TileKeys) else 1
    units = keys // unit
    best = max((n for n in range(1, units + 1) if units % n == 0 and n * unit <= max(BLOCK, unit)), default=1)
    return best * unit
