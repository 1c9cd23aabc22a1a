"""NVLM = vision encoder + projector + decoder (+ gated cross-attention). The whole difference between D, X and H:

                                      D                X                 H
    image tokens in the decoder       all tiles        none              thumbnail         <- Batch.image_slots
    tiles the cross-attention reads   (has none)       all               regular tiles     <- CrossAttention.memory
    tile tags                         text, decoder    text, decoder     with the tile in the keys; thumbnail's in text

The first row is data: `inputs/example.py` fills `image_slots`. The second is one line in `cross_attention.py`. There is
no other branch on the architecture in the model.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from nvlm_jax.config import ModelConfig
from nvlm_jax.inputs.batch import Batch
from nvlm_jax.models.attention import CausalMask, TileMask
from nvlm_jax.models.axes import constrain
from nvlm_jax.models.cross_attention import CrossAttention, ImageMemory
from nvlm_jax.models.decoder import Cache, CacheMask, Decoder, KeyValues
from nvlm_jax.models.projector import Projector
from nvlm_jax.models.tile_tags import TileTags
from nvlm_jax.models.vision import VisionEncoder, gather_tiles, pixel_shuffle, spread_tiles

PARTS = ("vision", "projector", "cross_attention", "decoder")


class Seen(NamedTuple):
    """What is kept of each tile while generating."""

    tokens: jax.Array  # [V, N, D]
    keys: jax.Array | None  # [V, G, K, h, N'], of the cross-attention layers, where there are some
    values: jax.Array | None  # [V, G, K, N', h]
    real: jax.Array | None = None  # bool [V, N'], keys that are some; None = all are


class NVLM(nnx.Module):
    """The model. Parameters are float32 unless the caller casts them; computation runs in `config.dtype`."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        shuffled = config.vision.width * config.pixel_shuffle**2
        how = (config.dtype, config.remat, config.unroll)
        self.vision = VisionEncoder(config.vision, rngs, *how)
        self.projector = Projector(shuffled, config.projector_width, config.decoder.width, rngs, config.dtype)
        self.decoder = Decoder(config.decoder, rngs, *how)
        cross = config.cross_attention
        self.cross_attention = cross and CrossAttention(cross, config.decoder, config.arch, rngs, config.dtype)

    def image_tokens(self, tiles: jax.Array) -> jax.Array:
        """uint8 [B, T, P, P, 3] -> [B, T, N, D]."""
        with jax.named_scope("vision"):
            features = self.vision(spread_tiles(tiles))
        with jax.named_scope("projector"):
            tokens = self.projector(pixel_shuffle(features, self.config.pixel_shuffle))
        return gather_tiles(tokens, *tiles.shape[:2])

    def embed(self, tokens: jax.Array, image_tokens: jax.Array | None, image_slots: jax.Array) -> jax.Array:
        """Decoder input [B, S, D]: word embeddings, with image tokens where `image_slots` says so."""
        x = self.decoder.embed(tokens)
        if image_tokens is None:
            return x
        flat = image_tokens.reshape(image_tokens.shape[0], -1, image_tokens.shape[-1])
        placed = jnp.take_along_axis(flat, jnp.maximum(image_slots, 0)[:, :, None], axis=1)
        placed = constrain(placed, "rows", "between", None)
        return jnp.where(image_slots[:, :, None] >= 0, placed.astype(x.dtype), x)

    def memory(self, batch: Batch, image_tokens: jax.Array, index: jax.Array) -> ImageMemory | None:
        """What the cross-attention layers read; None without such layers."""
        if self.cross_attention is None:
            return None
        mask = TileMask(batch.segment_ids, index, batch.tag_tile, batch.tile_segment_ids, batch.tile_start)
        tags = self.tile_tags(batch.tile_tags, batch.tile_index)
        return self.cross_attention.memory(image_tokens, batch.tile_index, mask, tags)

    def tile_tags(self, ids: jax.Array | None, tile_index: jax.Array) -> TileTags | None:
        """The decoder's embeddings of tags int32 [B, T, K], of tiles [B, T]; None where no tag is read."""
        if not self.cross_attention.tile_tags:
            return None
        ids = jnp.full((*tile_index.shape, 0), -1) if ids is None else ids
        # As `Decoder.embed`: each device looks up its part of the width.
        x = constrain(self.decoder.embedding[...][jnp.maximum(ids, 0)], "replicas", None, None, "embed")
        return TileTags(constrain(x.astype(jnp.dtype(self.config.dtype)), "rows", None, None, None), ids >= 0)

    def hidden(self, batch: Batch) -> jax.Array:
        """A packed batch -> the decoder's final hidden states [B, S, D], before the vocabulary head."""
        b, s = batch.tokens.shape
        index = jnp.broadcast_to(jnp.arange(s), (b, s))
        image_tokens = self.image_tokens(batch.tiles) if batch.tiles.shape[1] else None
        mask = CausalMask(batch.segment_ids, index, batch.segment_ids, index, aligned=True)
        memory = None if image_tokens is None else self.memory(batch, image_tokens, index)
        cross = None if memory is None else self.cross_attention
        with jax.named_scope("decoder"):
            x = self.embed(batch.tokens, image_tokens, batch.image_slots)
            return self.decoder(x, batch.positions, mask, cross, memory)[0]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., D] -> float32 [..., V]."""
        return self.decoder.logits(hidden)

    def logits_by_chunks(self) -> jax.tree_util.Partial:
        """`logits`, for one part of the rows after the other: a pytree whose leaf is the weights [D, V]."""
        return self.decoder.logits_by_chunks()

    def see(self, tiles: jax.Array, tile_index: jax.Array, tile_tags: jax.Array | None = None) -> Seen:
        """Everything that generation needs of some tiles, whatever they belong to.

        Args:
            tiles: uint8 [V, P, P, 3].
            tile_index: int32 [V], k of `<tile_k>`.
            tile_tags: int32 [V, K], as in `Batch`.
        """
        tokens = self.image_tokens(tiles[:, None])
        if self.cross_attention is None:
            return Seen(tokens[:, 0], None, None)
        index = tile_index[:, None]
        tags = self.tile_tags(None if tile_tags is None else tile_tags[:, None], index)
        made = self.cross_attention.tagged(tokens, index, tags)
        real = None if made.real is None else made.real[:, 0]
        return Seen(tokens[:, 0], *self.cross_attention.keys_values(made.media, made.turns), real)

    def extend(
        self, x: jax.Array, positions: jax.Array, mask: CacheMask, cache: Cache, memory: ImageMemory | None
    ) -> tuple[jax.Array, KeyValues]:
        """More tokens of rows whose earlier ones are in the cache.

        Args:
            x: [B, S, D], embeddings.
            positions: int32 [B, S].
            mask: who sees what of the cache.
            cache: keys and values of earlier tokens.
            memory: with every layer's keys and values; None = no tile is seen by any row.

        Returns:
            hidden [B, S, D], and `cache.fresh` with the new tokens in their places.
        """
        return self.decoder(x, positions, mask, None if memory is None else self.cross_attention, memory, cache)
