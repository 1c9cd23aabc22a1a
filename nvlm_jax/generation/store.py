"""The arrays that generation keeps on the device: pages of keys and values, and what was seen of each tile."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nvlm_jax.config import ModelConfig
from nvlm_jax.models.decoder import KeyValues
from nvlm_jax.models.nvlm import Seen

PAGE = 16  # tokens


class Store(NamedTuple):
    """Place 0 of both is padding: what is written there is never seen.

    A page holds all layers of some tokens, so that reading one moves one stretch of memory.
    """

    pages: KeyValues  # [places, L, K, PAGE, h]
    tiles: Seen  # [places, N, D] and [places, G, K, N', h]


def empty_store(config: ModelConfig, pages: int, tiles: int) -> Store:
    """Zeros, in the dtype of the model's computation."""
    decoder, cross, dtype = config.decoder, config.cross_attention, jnp.dtype(config.dtype)
    page = (pages, decoder.layers, decoder.kv_heads, PAGE, decoder.head_dim)
    tokens = jnp.zeros((tiles, config.tokens_per_tile, decoder.width), dtype)
    if cross is None:
        return Store(KeyValues(jnp.zeros(page, dtype), jnp.zeros(page, dtype)), Seen(tokens, None, None))
    keys = (cross.resampler_latents or config.tokens_per_tile) + (cross.tag_embeddings > 0)
    kept = (tiles, decoder.layers // cross.every, decoder.kv_heads, keys, decoder.head_dim)
    # Each array is made anew: one buffer cannot be handed over twice.
    return Store(
        KeyValues(jnp.zeros(page, dtype), jnp.zeros(page, dtype)),
        Seen(tokens, jnp.zeros(kept, dtype), jnp.zeros(kept, dtype)),
    )


def grown(store: Store, pages: int, tiles: int) -> Store:
    """The store with room behind what it holds."""

    def pad(array: jax.Array, count: int) -> jax.Array:
        more = jnp.zeros((count - array.shape[0], *array.shape[1:]), array.dtype)
        return jnp.concatenate([array, more]) if count > array.shape[0] else array

    return Store(*(jax.tree.map(lambda a, n=n: pad(a, n), part) for part, n in zip(store, (pages, tiles), strict=True)))


def store_shardings(store: Store, mesh: Mesh) -> Store:
    """Key/value heads over `tensor`, everything else whole on each device."""

    def sharding(array: jax.Array, heads: int | None) -> NamedSharding:
        split = heads is not None and array.shape[heads] % mesh.shape["tensor"] == 0
        axes = [None] * heads + ["tensor"] if split else []
        return NamedSharding(mesh, PartitionSpec(*axes))

    tokens, *kept = store.tiles
    kept = (None if array is None else sharding(array, 2) for array in kept)
    return Store(KeyValues(*(sharding(array, 2) for array in store.pages)), Seen(sharding(tokens, None), *kept))


def read_pages(pages: KeyValues, table: jax.Array) -> KeyValues:
    """The pages of rows, int32 [B, n], one behind the other: [L, B, K, n * PAGE, h]."""
    return KeyValues(*(rearrange(array[table], "b n l k p h -> l b k (n p) h") for array in pages))


def write_pages(pages: KeyValues, table: jax.Array, new: KeyValues) -> KeyValues:
    """Whole pages [L, B, K, n * PAGE, h] to the places int32 [B, n]."""
    pieces = (rearrange(array, "l b k (n p) h -> b n l k p h", p=PAGE) for array in new)
    return KeyValues(*(old.at[table].set(piece) for old, piece in zip(pages, pieces, strict=True)))


def write_tokens(pages: KeyValues, table: jax.Array, index: jax.Array, new: KeyValues, valid: jax.Array) -> KeyValues:
    """Single tokens [L, B, K, F, h] to where they belong in the pages of their rows.

    Args:
        pages: of the store.
        table: int32 [B, n], pages of each row.
        index: int32 [B, F], place of each token in its row.
        new: the tokens.
        valid: bool [B, F]; others go nowhere.
    """
    slot = jnp.minimum(index // PAGE, table.shape[1] - 1)
    page = jnp.where(valid, jnp.take_along_axis(table, slot, axis=1), 0)
    pieces = (rearrange(array, "l b k f h -> b f l k h") for array in new)
    return KeyValues(*(old.at[page, :, :, index % PAGE].set(piece) for old, piece in zip(pages, pieces, strict=True)))


def read_tiles(seen: Seen, tiles: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-attention keys and values of rows' tiles, int32 [B, T]: two of [G, B, K, T * N', h]."""
    return tuple(rearrange(array[tiles], "b t g k n h -> g b k (t n) h") for array in (seen.keys, seen.values))
