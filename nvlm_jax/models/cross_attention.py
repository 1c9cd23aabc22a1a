"""Gated cross-attention of NVLM-X and NVLM-H: Flamingo's gated block without the Perceiver (paper, section 4.3).

    x + tanh(a) * attention(norm(x), image tokens)      then      x + tanh(b) * mlp(norm(x))

Both gates start at 0, so a fresh model is its text backbone bit for bit. A token that sees no tile gets exactly zero
from both halves, whatever the gates: text-only samples pass through untouched. That the feed-forward half is there and
is the decoder's own kind is our inference from Flamingo; the paper names only what it changed.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from nvlm_jax.config import CrossAttentionConfig, DecoderConfig
from nvlm_jax.inputs.batch import THUMBNAIL
from nvlm_jax.models.attention import TileKeys, TileMask, attend
from nvlm_jax.models.axes import constrain
from nvlm_jax.models.cached_attention import Keys, attend_over
from nvlm_jax.models.layers import TABLE_INIT, GatedMLP, linear, rms_norm, stack
from nvlm_jax.models.resampler import Resampler


class ImageMemory(NamedTuple):
    """What the cross-attention layers read, the same for all of them."""

    media: jax.Array | None  # [B, T, N', D]: each tile's keys (its tag embedding first, where there is one)
    visible: jax.Array  # bool [B, S, T]
    keys: jax.Array | None = None  # [G, B, K, h, T*N'], computed once when generating
    values: jax.Array | None = None  # [G, B, K, T*N', h]
    mask: TileMask | None = None  # that `visible` was made of, when training


class GatedCrossAttention(nnx.Module):
    """One gated layer: attention over image tokens, then a feed-forward, each behind a tanh gate."""

    def __init__(self, config: CrossAttentionConfig, decoder: DecoderConfig, rngs: nnx.Rngs, dtype: str):
        inner, kv = decoder.heads * decoder.head_dim, decoder.kv_heads * decoder.head_dim
        self.head_dim = decoder.head_dim
        self.norm1 = rms_norm(decoder.width, decoder.norm_eps, rngs, dtype)
        self.q = linear(decoder.width, inner, rngs, dtype)
        self.k = linear(decoder.width, kv, rngs, dtype)
        self.v = linear(decoder.width, kv, rngs, dtype)
        self.out = linear(inner, decoder.width, rngs, dtype)
        self.attention_gate = nnx.Param(jnp.full((), config.gate_init, jnp.float32))
        self.norm2 = rms_norm(decoder.width, decoder.norm_eps, rngs, dtype)
        self.mlp = GatedMLP(decoder.width, decoder.ff, rngs, dtype)
        self.mlp_gate = nnx.Param(jnp.full((), config.gate_init, jnp.float32))

    @jax.named_scope("cross_attention")
    def keys_values(self, media: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, T, N', D] -> two of [B, T*N', K, h]."""
        pattern = "b t n (k h) -> b (t n) k h"
        found = (rearrange(project(media), pattern, h=self.head_dim) for project in (self.k, self.v))
        return tuple(constrain(a, "rows", None, "kv", None) for a in found)

    def attention(
        self,
        x: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        visible: jax.Array,
        mask: TileMask | None = None,
        kept: bool = False,
    ) -> jax.Array:
        """The ungated attention output [B, S, D]; exactly zero for a token that sees no tile.

        `mask`: that `visible` was made of. `kept`: keys are [B, K, h, T*N'] and values [B, K, T*N', h], as
        generation keeps them.
        """
        normed = constrain(self.norm1(x), "rows", "places", None)
        q = rearrange(self.q(normed), "b s (n h) -> b s n h", h=self.head_dim)
        q = constrain(q, "rows", "places", "heads", None)
        per_tile = values.shape[2 if kept else 1] // visible.shape[2]
        if kept:
            out = attend_over(q, [Keys(keys, values, jnp.repeat(visible, per_tile, axis=2), skippable=True)])
        else:
            out = attend(q, keys, values, TileKeys(visible, per_tile, mask))
        out = constrain(out, "rows", "places", "heads", None)
        return constrain(self.out(rearrange(out, "b s n h -> b s (n h)")), "rows", "between", None)

    @jax.named_scope("cross_attention")
    def __call__(
        self,
        x: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        visible: jax.Array,
        mask: TileMask | None = None,
        kept: bool = False,
    ) -> jax.Array:
        gates = (jnp.tanh(g[...]).astype(x.dtype) for g in (self.attention_gate, self.mlp_gate))
        attention_gate, mlp_gate = gates
        sees = visible.any(axis=-1, keepdims=True)
        x = x + attention_gate * self.attention(x, keys, values, visible, mask, kept)
        return x + mlp_gate * jnp.where(sees, self.mlp(self.norm2(x)), 0)


class CrossAttention(nnx.Module):
    """All gated layers of a model, stacked, NVLM-H's table of tile-tag embeddings, and an ablation's resampler."""

    def __init__(self, config: CrossAttentionConfig, decoder: DecoderConfig, arch: str, rngs: nnx.Rngs, dtype: str):
        self.arch, self.dtype, self.place = arch, dtype, config.place
        count = decoder.layers // config.every
        self.layers = stack(lambda rngs: GatedCrossAttention(config, decoder, rngs, dtype), count, rngs)
        gates = self.layers.attention_gate
        gates[...] = gates[...].at[-1].set(config.last_gate_init)
        shape = (config.tag_embeddings, decoder.width)
        self.tags = nnx.Param(TABLE_INIT(rngs.params(), shape)) if config.tag_embeddings else None
        latents, depth = config.resampler_latents, config.resampler_layers
        self.resampler = Resampler(latents, depth, decoder, rngs, dtype) if latents else None

    def memory(self, image_tokens: jax.Array, tile_index: jax.Array, mask: TileMask) -> ImageMemory:
        """What the layers read: all tiles for X; for H the regular tiles, each behind its tag embedding.

        Args:
            image_tokens: [B, T, N, D], projected.
            tile_index: int32 [B, T].
            mask: visibility of the row's tiles.
        """
        if self.arch == "h":
            mask = mask._replace(tile_segment=jnp.where(tile_index == THUMBNAIL, 0, mask.tile_segment))
        media = constrain(self.media(image_tokens, tile_index), "rows", "memory", None, None)
        return ImageMemory(media, mask.tiles(), mask=mask)

    def media(self, image_tokens: jax.Array, tile_index: jax.Array) -> jax.Array:
        """Each tile's image tokens [B, T, N, D], behind its tag embedding where there is one: [B, T, N', D]."""
        if self.resampler is not None:
            image_tokens = self.resampler(image_tokens)
        if self.tags is None:
            return image_tokens
        rows = self.tags[...].astype(image_tokens.dtype)
        tag = rows[jnp.clip(tile_index - 1, 0, rows.shape[0] - 1)][:, :, None]
        return jnp.concatenate([tag, image_tokens], axis=2)

    def keys_values(self, media: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[V, 1, N', D] -> every layer's keys [V, G, K, h, N'] and values [V, G, K, N', h], which no added token
        changes."""
        keys, values = nnx.vmap(lambda layer: layer.keys_values(media), in_axes=0, out_axes=0)(self.layers)
        return rearrange(keys, "g v n k h -> v g k h n"), rearrange(values, "g v n k h -> v g k n h")
