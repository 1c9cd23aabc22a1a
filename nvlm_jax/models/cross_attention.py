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
from nvlm_jax.models.layers import TABLE_INIT, GatedMLP, linear, rms_norm, rotate, stack
from nvlm_jax.models.resampler import Resampler
from nvlm_jax.models.tile_tags import TaggedTiles, TileTags, tagged


class ImageMemory(NamedTuple):
    """What the cross-attention layers read, the same for all of them."""

    media: jax.Array | None  # [B, T, N', D]: each tile's keys (its tag's first, where they are joined)
    visible: jax.Array  # bool [B, S, T]
    keys: jax.Array | None = None  # [G, B, K, h, T*N'], computed once when generating
    values: jax.Array | None = None  # [G, B, K, T*N', h]
    mask: TileMask | None = None  # that `visible` was made of, when training
    real: jax.Array | None = None  # bool [B, T*N'], False for keys that are none; None = all are
    turns: jax.Array | None = None  # [B, T, 2, h/2], by which `media`'s keys are turned; None = not at all


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
    def keys_values(self, media: jax.Array, turns: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """[B, T, N', D] -> two of [B, T*N', K, h]; keys turned as the tile's `turns` [B, T, 2, h/2] say."""
        pattern = "b t n (k h) -> b t (n k) h"
        keys, values = (rearrange(project(media), pattern, h=self.head_dim) for project in (self.k, self.v))
        if turns is not None:
            keys = rotate(keys, turns, 0.0)
        pattern = "b t (n k) h -> b (t n) k h"
        made = (rearrange(a, pattern, n=media.shape[2]) for a in (keys, values))
        return tuple(constrain(a, "rows", None, "kv", None) for a in made)

    def attention(
        self,
        x: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        visible: jax.Array,
        mask: TileMask | None = None,
        kept: bool = False,
        real: jax.Array | None = None,
    ) -> jax.Array:
        """The ungated attention output [B, S, D]; exactly zero for a token that sees no tile.

        `mask`: that `visible` was made of. `kept`: keys are [B, K, h, T*N'] and values [B, K, T*N', h], as
        generation keeps them. `real`: bool [B, T*N'], keys that are some.
        """
        normed = constrain(self.norm1(x), "rows", "places", None)
        q = rearrange(self.q(normed), "b s (n h) -> b s n h", h=self.head_dim)
        q = constrain(q, "rows", "places", "heads", None)
        per_tile = values.shape[2 if kept else 1] // visible.shape[2]
        seen = TileKeys(visible, per_tile, mask, real)
        if kept:
            out = attend_over(q, [Keys(keys, values, seen.block(0, values.shape[2]), skippable=True)])
        else:
            out = attend(q, keys, values, seen)
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
        real: jax.Array | None = None,
    ) -> jax.Array:
        gates = (jnp.tanh(g[...]).astype(x.dtype) for g in (self.attention_gate, self.mlp_gate))
        attention_gate, mlp_gate = gates
        sees = visible.any(axis=-1, keepdims=True)
        x = x + attention_gate * self.attention(x, keys, values, visible, mask, kept, real)
        return x + mlp_gate * jnp.where(sees, self.mlp(self.norm2(x)), 0)


class CrossAttention(nnx.Module):
    """All gated layers of a model, stacked; what tells NVLM-H's tiles apart; and an ablation's resampler."""

    def __init__(self, config: CrossAttentionConfig, decoder: DecoderConfig, arch: str, rngs: nnx.Rngs, dtype: str):
        self.arch, self.dtype, self.place, self.tile_tags = arch, dtype, config.place, config.tile_tags
        self.head_dim, self.theta = decoder.head_dim, decoder.rope_theta
        count = decoder.layers // config.every
        self.layers = stack(lambda rngs: GatedCrossAttention(config, decoder, rngs, dtype), count, rngs)
        gates = self.layers.attention_gate
        gates[...] = gates[...].at[-1].set(config.last_gate_init)
        shape = (config.tag_embeddings, decoder.width)
        self.tags = nnx.Param(TABLE_INIT(rngs.params(), shape)) if config.tag_embeddings else None
        latents, depth = config.resampler_latents, config.resampler_layers
        self.resampler = Resampler(latents, depth, decoder, rngs, dtype) if latents else None

    def memory(
        self, image_tokens: jax.Array, tile_index: jax.Array, mask: TileMask, tags: TileTags | None = None
    ) -> ImageMemory:
        """What the layers read: all tiles for X; for H the regular tiles, each with its tag.

        Args:
            image_tokens: [B, T, N, D], projected.
            tile_index: int32 [B, T].
            mask: visibility of the row's tiles.
            tags: where the config's `tile_tags` is not empty.
        """
        if self.arch == "h":
            mask = mask._replace(tile_segment=jnp.where(tile_index == THUMBNAIL, 0, mask.tile_segment))
        tiles = self.tagged(image_tokens, tile_index, tags)
        media = constrain(tiles.media, "rows", "memory", None, None)
        real = None if tiles.real is None else rearrange(tiles.real, "b t n -> b (t n)")
        return ImageMemory(media, mask.tiles(), mask=mask, real=real, turns=tiles.turns)

    def tagged(self, image_tokens: jax.Array, tile_index: jax.Array, tags: TileTags | None) -> TaggedTiles:
        """Each tile's image tokens [B, T, N, D] with its tag."""
        if self.resampler is not None:
            image_tokens = self.resampler(image_tokens)
        if self.tile_tags:
            return tagged(self.tile_tags, image_tokens, tile_index, tags, self.head_dim, self.theta)
        if self.tags is None:
            return TaggedTiles(image_tokens)
        rows = self.tags[...].astype(image_tokens.dtype)
        tag = rows[jnp.clip(tile_index - 1, 0, rows.shape[0] - 1)][:, :, None]
        return TaggedTiles(jnp.concatenate([tag, image_tokens], axis=2))

    def keys_values(self, media: jax.Array, turns: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """[V, 1, N', D] -> every layer's keys [V, G, K, h, N'] and values [V, G, K, N', h], which no added token
        changes."""
        keys, values = nnx.vmap(lambda layer: layer.keys_values(media, turns), in_axes=0, out_axes=0)(self.layers)
        return rearrange(keys, "g v n k h -> v g k h n"), rearrange(values, "g v n k h -> v g k n h")
