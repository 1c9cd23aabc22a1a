"""A Perceiver resampler, for ablations alone: NVLM has none, for it shuffles the patches' places (paper, section 4.3).

As Flamingo's, but tile by tile, so that a tile tag still reads its own tile: learned latents attend to the tile's image
tokens and to themselves, then a feed-forward, both added to the latents. What the decoder or the cross-attention reads
in place of the tile's N tokens is as many latents.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from nvlm_jax.config import DecoderConfig
from nvlm_jax.models.attention import attend
from nvlm_jax.models.layers import TABLE_INIT, GatedMLP, linear, rms_norm, scan_layers, stack


class ResamplerLayer(nnx.Module):
    """Latents read the image tokens and themselves, then a feed-forward."""

    def __init__(self, decoder: DecoderConfig, rngs: nnx.Rngs, dtype: str):
        inner = decoder.heads * decoder.head_dim
        self.head_dim = decoder.head_dim
        self.media_norm = rms_norm(decoder.width, decoder.norm_eps, rngs, dtype)
        self.norm1 = rms_norm(decoder.width, decoder.norm_eps, rngs, dtype)
        self.q = linear(decoder.width, inner, rngs, dtype)
        self.k = linear(decoder.width, inner, rngs, dtype)
        self.v = linear(decoder.width, inner, rngs, dtype)
        self.out = linear(inner, decoder.width, rngs, dtype)
        self.norm2 = rms_norm(decoder.width, decoder.norm_eps, rngs, dtype)
        self.mlp = GatedMLP(decoder.width, decoder.ff, rngs, dtype)

    def __call__(self, latents: jax.Array, media: jax.Array) -> jax.Array:
        """Latents [tiles, R, D] and image tokens [tiles, N, D] -> latents."""
        own = self.norm1(latents)
        keys = jnp.concatenate([self.media_norm(media), own], axis=1)
        q, k, v = (
            rearrange(project(x), "t s (n h) -> t s n h", h=self.head_dim)
            for project, x in ((self.q, own), (self.k, keys), (self.v, keys))
        )
        out = attend(q, k, v, axes=("rows", None, "heads"))
        latents = latents + self.out(rearrange(out, "t s n h -> t s (n h)"))
        return latents + self.mlp(self.norm2(latents))


class Resampler(nnx.Module):
    """`latents` tokens for each tile in place of its image tokens."""

    def __init__(self, latents: int, layers: int, decoder: DecoderConfig, rngs: nnx.Rngs, dtype: str):
        self.latents = nnx.Param(TABLE_INIT(rngs.params(), (latents, decoder.width)))
        self.layers = stack(lambda rngs: ResamplerLayer(decoder, rngs, dtype), layers, rngs)
        self.norm = rms_norm(decoder.width, decoder.norm_eps, rngs, dtype)

    def __call__(self, image_tokens: jax.Array) -> jax.Array:
        """[B, T, N, D] -> [B, T, R, D]."""
        media = rearrange(image_tokens, "b t n d -> (b t) n d")
        start = jnp.broadcast_to(self.latents[...].astype(media.dtype), (media.shape[0], *self.latents.shape))
        latents, _ = scan_layers(self.layers, lambda layer, x, _: (layer(x, media), None), start)
        return rearrange(self.norm(latents), "(b t) r d -> b t r d", b=image_tokens.shape[0])
