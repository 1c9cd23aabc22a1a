"""How NVLM-H's cross-attention knows which tile is which: the tag `<tile_k>` of each regular tile.

The paper has the text embeddings of `<tile_k>` enter the cross-attention "alongside" the tile's image tokens (section
4.4), and not how. Attention reads a set: what merely stands beside the tokens of a tile is bound to none of them.
`CrossAttentionConfig.tile_tags` says which of these is done, e being the decoder's own embeddings of the tag's tokens:

    joined              e, token by token, are further keys and values beside the tile's own
    added               the mean of e, at a root mean square of 1, is added to each of the tile's tokens
    positions           no embedding: keys are turned as in rotary attention, to place k; queries stand at place 0
    joined+positions    both: the tag's keys and the tile's are turned to the same place

A tile without a tag (style `none`) has no keys more, nothing added, and place 0.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nvlm_jax.models.layers import turns


class TileTags(NamedTuple):
    """The tags of a row's tiles."""

    embeddings: jax.Array  # [B, T, K, D], the decoder's
    real: jax.Array  # bool [B, T, K], False behind a tag's last token


class TaggedTiles(NamedTuple):
    """What keys and values are made of."""

    media: jax.Array  # [B, T, N', D]
    real: jax.Array | None = None  # bool [B, T, N'], False where there is no key; None = all are
    turns: jax.Array | None = None  # [B, T, 2, h / 2], by which keys are turned; None = not at all


def tagged(
    how: str, tokens: jax.Array, tile_index: jax.Array, tags: TileTags, head_dim: int, theta: float
) -> TaggedTiles:
    """Each tile's tokens with its tag.

    Args:
        how: of `CROSS_TAGS`, not empty.
        tokens: [B, T, N, D].
        tile_index: int32 [B, T], the k of `<tile_k>`.
        tags: of the tiles.
        head_dim: h.
        theta: base of the rotary wavelengths, the decoder's.
    """
    media, real, turned = tokens, None, None
    if how == "added":
        media = tokens + unit_mean(tags)[:, :, None].astype(tokens.dtype)
    if how.startswith("joined"):
        # Behind them, so that room for longer tags can be made; attention asks for no order.
        media = jnp.concatenate([tokens, tags.embeddings.astype(tokens.dtype)], axis=2)
        real = jnp.concatenate([jnp.ones(tokens.shape[:3], bool), tags.real], axis=2)
    if how.endswith("positions"):
        turned = turns(jnp.where(tags.real.any(axis=2), tile_index, 0), head_dim, theta)
    return TaggedTiles(media, real, turned)


def unit_mean(tags: TileTags) -> jax.Array:
    """Float32 [B, T, D]: the mean of each tag's embeddings, scaled to a root mean square of 1; 0 without a tag.

    Embeddings are small (0.02 where training begins) and image tokens are not: unscaled, a tag would be lost in them.
    """
    real = tags.real[..., None]
    mean = jnp.where(real, tags.embeddings.astype(jnp.float32), 0).sum(axis=2) / jnp.maximum(real.sum(axis=2), 1)
    return mean * jax.lax.rsqrt(jnp.square(mean).mean(axis=-1, keepdims=True) + 1e-12)
