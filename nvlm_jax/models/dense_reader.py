"""A vision encoder with a linear head, to teach the encoder to read before NVLM uses it frozen.

The same `Batch` and the same loss as for NVLM: place s of a row asks for label `tokens[s]` of image token
`image_slots[s]`, and `targets[s]` is the answer (template "dense" of `inputs/example.py`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from nvlm_jax.config import ModelConfig
from nvlm_jax.inputs.batch import Batch
from nvlm_jax.models.layers import KERNEL_INIT
from nvlm_jax.models.vision import VisionEncoder, gather_tiles, pixel_shuffle, spread_tiles


class DenseReader(nnx.Module):
    """Vision encoder, pixel shuffle, and one linear classifier over the vocabulary for each label."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        shuffled = config.vision.width * config.pixel_shuffle**2
        shape = (shuffled, config.dense_labels * config.decoder.vocab_size)
        self.vision = VisionEncoder(config.vision, rngs, config.dtype, config.remat, config.unroll)
        self.norm = nnx.LayerNorm(shuffled, dtype=jnp.dtype(config.dtype), rngs=rngs)
        self.head = nnx.Param(KERNEL_INIT(rngs.params(), shape))

    def hidden(self, batch: Batch) -> jax.Array:
        """Scores of the asked labels, float32 [B, S, V]: already logits, since the head comes before the choice."""
        b, t = batch.tiles.shape[:2]
        features = self.norm(pixel_shuffle(self.vision(spread_tiles(batch.tiles)), self.config.pixel_shuffle))
        features = gather_tiles(features, b, t)
        labels, vocabulary = self.config.dense_labels, self.config.decoder.vocab_size
        scores = (features @ self.head[...].astype(features.dtype)).reshape(b, -1, vocabulary)
        asked = jnp.maximum(batch.image_slots, 0) * labels + batch.tokens
        return jnp.take_along_axis(scores, asked[:, :, None], axis=1).astype(jnp.float32)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """`hidden` itself."""
        return hidden
