"""NVLM = vision encoder + projector + decoder (+ gated cross-attention). The whole difference between D, X and H:

                                      D                X                 H
    image tokens in the decoder       all tiles        none              thumbnail         <- Batch.image_slots
    tiles the cross-attention reads   (has none)       all               regular tiles     <- CrossAttention.memory
    tile tags                         text, decoder    text, decoder     embeddings in the keys; thumbnail's in text

The first row is data: `inputs/example.py` fills `image_slots`. The second is one line in `cross_attention.py`. There is
no other branch on the architecture in the model.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from nvlm_jax.config import ModelConfig
from nvlm_jax.inputs.batch import Batch
from nvlm_jax.models.attention import CausalMask, TileMask
from nvlm_jax.models.axes import constrain
from nvlm_jax.models.cross_attention import CrossAttention, ImageMemory
from nvlm_jax.models.decoder import Decoder, KVCache
from nvlm_jax.models.projector import Projector
from nvlm_jax.models.vision import VisionEncoder, gather_tiles, pixel_shuffle, spread_tiles

PARTS = ("vision", "projector", "cross_attention", "decoder")


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
        features = self.vision(spread_tiles(tiles))
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
        return self.cross_attention.memory(image_tokens, batch.tile_index, mask)

    def hidden(self, batch: Batch) -> jax.Array:
        """A packed batch -> the decoder's final hidden states [B, S, D], before the vocabulary head."""
        b, s = batch.tokens.shape
        index = jnp.broadcast_to(jnp.arange(s), (b, s))
        image_tokens = self.image_tokens(batch.tiles) if batch.tiles.shape[1] else None
        mask = CausalMask(batch.segment_ids, index, batch.segment_ids, index, aligned=True)
        memory = None if image_tokens is None else self.memory(batch, image_tokens, index)
        cross = None if memory is None else self.cross_attention
        x = self.embed(batch.tokens, image_tokens, batch.image_slots)
        return self.decoder(x, batch.positions, mask, cross, memory)[0]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., D] -> float32 [..., V]."""
        return self.decoder.logits(hidden)

    def prefill(self, batch: Batch, cache: KVCache) -> tuple[jax.Array, KVCache, ImageMemory | None]:
        """Read prompts (one a row, from place 0) into an empty cache.

        Returns:
            hidden [B, S, D], the cache, and the image memory with every layer's keys and values computed.
        """
        b, s = batch.tokens.shape
        index = jnp.broadcast_to(jnp.arange(s), (b, s))
        image_tokens = self.image_tokens(batch.tiles) if batch.tiles.shape[1] else None
        memory = None if image_tokens is None else self.memory(batch, image_tokens, index)
        if memory is not None:
            memory = self.cross_attention.precompute(memory)
        room = cache.keys.shape[2]
        k_segment = jnp.pad(batch.segment_ids, ((0, 0), (0, room - s)))
        mask = CausalMask(batch.segment_ids, index, k_segment, jnp.broadcast_to(jnp.arange(room), (b, room)))
        x = self.embed(batch.tokens, image_tokens, batch.image_slots)
        cross = None if memory is None else self.cross_attention
        hidden, cache = self.decoder(x, batch.positions, mask, cross, memory, cache)
        return hidden, cache, memory

    def decode(
        self, tokens: jax.Array, index: jax.Array, cache: KVCache, memory: ImageMemory | None
    ) -> tuple[jax.Array, KVCache]:
        """One more token a row.

        Args:
            tokens: int32 [B].
            index: int32 [B], the token's place in its row = how many came before it.
            cache: keys and values of the earlier ones.
            memory: from `prefill`, with `visible` [B, 1, T] for the new token.

        Returns:
            logits float32 [B, V] and the cache with the token written.
        """
        b, room = tokens.shape[0], cache.keys.shape[2]
        places = jnp.broadcast_to(jnp.arange(room), (b, room))
        ones = jnp.ones((b, 1), jnp.int32)
        mask = CausalMask(ones, index[:, None], (places <= index[:, None]).astype(jnp.int32), places)
        cross = None if memory is None else self.cross_attention
        x = self.decoder.embed(tokens[:, None])
        hidden, cache = self.decoder(x, index[:, None], mask, cross, memory, cache)
        return self.logits(hidden[:, 0]), cache
