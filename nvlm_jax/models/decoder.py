"""The language model: Qwen2 (with q/k/v biases) or Llama/Yi (without), with or without gated cross-attention.

Without cross-attention the layers are one scan. With it the scan is nested: G x (one gated cross-attention layer, then
L/G decoder layers). Parameters are stacked [L, ...] either way, so the three architectures share one backbone layout.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from nvlm_jax.config import DecoderConfig
from nvlm_jax.models.attention import CausalMask, attend
from nvlm_jax.models.axes import constrain, split
from nvlm_jax.models.cached_attention import Keys, attend_over
from nvlm_jax.models.cross_attention import CrossAttention, ImageMemory
from nvlm_jax.models.layers import (
    TABLE_INIT,
    GatedMLP,
    linear,
    rematerialised,
    rms_norm,
    rotate,
    scan_layers,
    stack,
    turns,
    whole,
)


class KeyValues(NamedTuple):
    """Keys and values of all layers, or without the leading L of one."""

    keys: jax.Array  # [L, B, K, h, M]: as a matrix product wants them
    values: jax.Array  # [L, B, K, M, h]


class Cache(NamedTuple):
    """What a token sees when generating: tokens read before, and the latest ones beside itself."""

    past: KeyValues | None  # None = nothing was read before, or it is in `fresh`
    fresh: KeyValues | None  # room for the latest tokens; None = just those that are read now


class CacheMask(NamedTuple):
    """Who sees what of a `Cache`."""

    past: jax.Array | None  # bool [B, M]
    fresh: jax.Array  # bool [B, S, F]
    offset: jax.Array | int = 0  # place in `fresh` of the first token read now


class SelfAttention(nnx.Module):
    """Causal self-attention with rotary positions and grouped key/value heads."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs, dtype: str):
        inner, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.head_dim, self.theta = config.head_dim, config.rope_theta
        self.q = linear(config.width, inner, rngs, dtype, bias=config.qkv_bias)
        self.k = linear(config.width, kv, rngs, dtype, bias=config.qkv_bias)
        self.v = linear(config.width, kv, rngs, dtype, bias=config.qkv_bias)
        self.out = linear(inner, config.width, rngs, dtype)

    @jax.named_scope("attention")
    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        mask: CausalMask | CacheMask,
        cache: Cache | None,
        only: jax.Array | None = None,
    ) -> tuple[jax.Array, KeyValues | None]:
        x = constrain(x, "rows", "places", None)
        k, v = (rearrange(f(x), "b s (n h) -> b s n h", h=self.head_dim) for f in (self.k, self.v))
        k = rotate(k, positions, self.theta)
        if only is not None:  # one query a row
            x, positions, seen = (pick(a, only) for a in (x, positions, mask.fresh))
            mask = mask._replace(fresh=seen)
        q = rearrange(self.q(x), "b s (n h) -> b s n h", h=self.head_dim)
        q = rotate(constrain(q, "rows", "places", "heads", None), positions, self.theta)
        if cache is None:
            # A query may read any earlier key: keys and values are few heads, so each device takes the whole row's.
            k, v = (constrain(a, "rows", None, "kv", None) for a in (k, v))
            out, fresh = attend(q, k, v, mask), None
        else:
            fresh = KeyValues(rearrange(k, "b s k h -> b k h s"), rearrange(v, "b s k h -> b k s h"))
            if cache.fresh is not None:
                pairs = zip(cache.fresh, fresh, (3, 2), strict=True)
                write = jax.lax.dynamic_update_slice_in_dim
                fresh = KeyValues(*(write(a, b.astype(a.dtype), mask.offset, axis) for a, b, axis in pairs))
            earlier = [] if cache.past is None else [Keys(*cache.past, mask.past[:, None], skippable=True)]
            out = attend_over(q, [*earlier, Keys(*fresh, mask.fresh)])
        out = constrain(out, "rows", "places", "heads", None)
        return constrain(self.out(rearrange(out, "b s n h -> b s (n h)")), "rows", "between", None), fresh


class DecoderLayer(nnx.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs, dtype: str):
        self.norm1 = rms_norm(config.width, config.norm_eps, rngs, dtype)
        self.attention = SelfAttention(config, rngs, dtype)
        self.norm2 = rms_norm(config.width, config.norm_eps, rngs, dtype)
        self.mlp = GatedMLP(config.width, config.ff, rngs, dtype)

    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        mask: CausalMask | CacheMask,
        cache: Cache | None,
        only: jax.Array | None = None,
    ) -> tuple[jax.Array, KeyValues | None]:
        """[B, S, D] -> the same; with `only` int32 [B], [B, 1, D]: of one token a row, and all keys and values."""
        attended, fresh = self.attention(self.norm1(x), positions, mask, cache, only)
        x = (x if only is None else pick(x, only)) + attended
        return x + self.mlp(self.norm2(x)), fresh


class Decoder(nnx.Module):
    """Token embedding, layers, final norm, vocabulary head."""

    def __init__(
        self, config: DecoderConfig, rngs: nnx.Rngs, dtype: str = "float32", remat: str = "none", unroll: int = 1
    ):
        self.config, self.dtype, self.remat, self.unroll = config, dtype, remat, unroll
        self.embedding = nnx.Param(TABLE_INIT(rngs.params(), (config.vocab_size, config.width)))
        self.layers = stack(lambda rngs: DecoderLayer(config, rngs, dtype), config.layers, rngs)
        self.norm = rms_norm(config.width, config.norm_eps, rngs, dtype)
        self.head = None if config.tied_embeddings else linear(config.width, config.vocab_size, rngs, dtype)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """int32 [B, S] -> [B, S, D]."""
        # Each device looks up its part of the width for every row, and hands each row to its owner.
        x = constrain(self.embedding[...][tokens], "replicas", "places", "embed").astype(jnp.dtype(self.dtype))
        return constrain(x, "rows", "between", None)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., D] -> float32 [..., V]."""
        if self.head is not None:
            return self.head(hidden).astype(jnp.float32)
        return jnp.einsum("...d,vd->...v", hidden, self.embedding[...].astype(hidden.dtype)).astype(jnp.float32)

    def logits_by_chunks(self) -> jax.tree_util.Partial:
        """`logits`, for one part of the rows after the other, as a pytree whose leaf is the weights [D, V].

        Several devices bring the weights together once, here, in the dtype of the computation.
        """
        table = self.embedding[...].T if self.head is None else self.head.kernel[...]
        if split():
            table = constrain(table.astype(jnp.dtype(self.dtype)), None, "vocab")
        return jax.tree_util.Partial(_product, table)

    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        mask: CausalMask | CacheMask,
        cross: CrossAttention | None = None,
        memory: ImageMemory | None = None,
        cache: Cache | None = None,
    ) -> tuple[jax.Array, KeyValues | None]:
        """Embeddings [B, S, D] -> final normalised hidden states [B, S, D] and `cache.fresh` with these tokens written.

        Args:
            x: token and image embeddings.
            positions: int32 [B, S], rotary positions.
            mask: self-attention mask, a `CacheMask` with a cache.
            cross: the gated layers, or None for a plain text decoder (and NVLM-D).
            memory: what they read.
            cache: keys and values of earlier tokens, when generating; its leaves lead with L.
        """

        positions = turns(positions, self.config.head_dim, self.config.rope_theta)

        def layer_body(layer: DecoderLayer, x: jax.Array, cache: Cache | None):
            return layer(x, positions, mask, cache)

        if cross is None:
            x, fresh = scan_layers(self.layers, layer_body, x, cache, remat=self.remat, unroll=self.unroll)
        else:
            x, fresh = self._with_cross_attention(layer_body, x, cross, memory, cache)
        return self.norm(x), fresh

    def _with_cross_attention(self, layer_body, x, cross, memory, cache):
        groups, place = _count(cross.layers), cross.place
        every = self.config.layers // groups
        grouped = jax.tree.map(lambda a: a.reshape(groups, every, *a.shape[1:]), cache)
        gated_graph, gated_params = nnx.split(cross.layers)

        def gated_body(gated_params, x, keys_values):
            gated = nnx.merge(gated_graph, whole(gated_params))
            if keys_values is None:
                return gated(
                    x, *gated.keys_values(memory.media, memory.turns), memory.visible, memory.mask, real=memory.real
                )
            return gated(x, *keys_values, memory.visible, kept=True, real=memory.real)

        def run(layers, x, cache, first, end):
            layers, cache = _cut(layers, first, end), jax.tree.map(lambda a: a[first:end], cache)
            return scan_layers(layers, layer_body, x, cache, remat=self.remat, unroll=self.unroll)

        def group_body(layers, x, scanned):
            gated_params, keys_values, cache = scanned
            if place:
                x, before = run(layers, x, cache, 0, place)
            x = rematerialised(gated_body, self.remat)(gated_params, x, keys_values)
            x, fresh = run(layers, x, cache, place, every)
            return x, jax.tree.map(lambda *parts: jnp.concatenate(parts), before, fresh) if place else fresh

        keys_values = None if memory.keys is None else (memory.keys, memory.values)
        xs = (gated_params, keys_values, grouped)
        x, fresh = scan_layers(self.layers, group_body, x, xs, group=every, unroll=self.unroll)
        return x, jax.tree.map(lambda a: a.reshape(self.config.layers, *a.shape[2:]), fresh)


def pick(x: jax.Array, only: jax.Array) -> jax.Array:
    """One place a row: [B, S, ...] and int32 [B] -> [B, 1, ...]."""
    return x[jnp.arange(len(only)), only][:, None]


def _product(table: jax.Array, hidden: jax.Array) -> jax.Array:
    return (hidden @ table.astype(hidden.dtype)).astype(jnp.float32)


def _cut(layers: nnx.Module, first: int, end: int) -> nnx.Module:
    """Of a stacked module the layers [first, end)."""
    if first == 0 and end == _count(layers):
        return layers
    graphdef, params = nnx.split(layers)
    return nnx.merge(graphdef, jax.tree.map(lambda a: a[first:end], params))


def _count(layers: nnx.Module) -> int:
    return jax.tree.leaves(nnx.state(layers))[0].shape[0]
