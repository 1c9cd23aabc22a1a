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
from nvlm_jax.models.layers import FAN_IN_INIT
from nvlm_jax.models.vision import VisionEncoder, pixel_shuffle


class DenseReader(nnx.Module):
    """Vision encoder, pixel shuffle, and one linear classifier over the vocabulary for each label."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        shuffled = config.vision.width * config.pixel_shuffle**2
        shape = (shuffled, config.dense_labels * config.decoder.vocab_size)
        self.vision = VisionEncoder(config.vision, rngs, config.dtype, config.remat)
        self.norm = nnx.LayerNorm(shuffled, dtype=jnp.dtype(config.dtype), rngs=rngs)
        self.head = nnx.Param(FAN_IN_INIT(rngs.params(), shape))

    def hidden(self, batch: Batch) -> jax.Array:
        """Features of the asked image token, followed by the number of the label: [B, S, C * factor**2 + 1]."""
        b, t = batch.tiles.shape[:2]
        features = self.vision(batch.tiles.reshape(b * t, *batch.tiles.shape[2:]))
        flat = self.norm(pixel_shuffle(features, self.config.pixel_shuffle)).reshape(b, -1, self.head[...].shape[0])
        asked = jnp.take_along_axis(flat, jnp.maximum(batch.image_slots, 0)[:, :, None], axis=1)
        return jnp.concatenate([asked, batch.tokens[:, :, None].astype(asked.dtype)], axis=2)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """float32 [..., V] of the asked label."""
        labels = self.config.dense_labels
        scores = hidden[..., :-1] @ self.head[...].astype(hidden.dtype)
        scores = scores.reshape(*scores.shape[:-1], labels, -1).astype(jnp.float32)
        asked = jax.nn.one_hot(hidden[..., -1].astype(jnp.int32), labels, dtype=jnp.float32)
        return jnp.einsum("...lv,...l->...v", scores, asked)
