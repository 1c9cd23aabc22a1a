"""The arrays that generation keeps on the device: pages of keys and values, and what was seen of each tile."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nvlm_jax.config import ModelConfig
from nvlm_jax.models.cross_attention import ImageMemory
from nvlm_jax.models.decoder import KeyValues
from nvlm_jax.models.flops import keys_per_tile
from nvlm_jax.models.nvlm import Seen

PAGE = 16  # tokens


class Store(NamedTuple):
    """Place 0 of both is padding: what is written there is never seen.

    A page holds all layers of some tokens, so that reading one moves one stretch of memory.
    """

    pages: KeyValues  # [places, L, K, h, PAGE] and [places, L, K, PAGE, h]
    tiles: Seen  # [places, N, D], [places, G, K, h, N'] and [places, G, K, N', h]


def empty_store(config: ModelConfig, pages: int, tiles: int, tag_tokens: int = 0) -> Store:
    """Zeros, in the dtype of the model's computation; with room for `tag_tokens` keys of a tile's joined tag."""
    decoder, cross, dtype = config.decoder, config.cross_attention, jnp.dtype(config.dtype)

    def keys_values(places: int, layers: int, count: int) -> KeyValues:
        outer, width = (places, layers, decoder.kv_heads), decoder.head_dim
        return KeyValues(jnp.zeros((*outer, width, count), dtype), jnp.zeros((*outer, count, width), dtype))

    tokens, kept = jnp.zeros((tiles, config.tokens_per_tile, decoder.width), dtype), (None, None, None)
    if cross is not None:
        count = keys_per_tile(config, tag_tokens)
        real = jnp.zeros((tiles, count), bool) if cross.tile_tags.startswith("joined") else None
        kept = (*keys_values(tiles, decoder.layers // cross.every, count), real)
    return Store(keys_values(pages, decoder.layers, PAGE), Seen(tokens, *kept))


def with_tag_room(store: Store, config: ModelConfig, tag_tokens: int) -> Store:
    """The store with room for longer tags behind each tile's keys, where tags are joined to them."""
    seen = store.tiles
    if seen.real is None or (more := keys_per_tile(config, tag_tokens) - seen.real.shape[1]) <= 0:
        return store

    def pad(array: jax.Array, axis: int) -> jax.Array:
        return jnp.pad(array, [(0, more if i == axis else 0) for i in range(array.ndim)])

    return store._replace(tiles=Seen(seen.tokens, pad(seen.keys, 4), pad(seen.values, 3), pad(seen.real, 1)))


@functools.partial(jax.jit, static_argnames=("pages", "tiles"))
def grown(store: Store, pages: int, tiles: int) -> Store:
    """The store with room behind what it holds."""

    def pad(array: jax.Array, count: int) -> jax.Array:
        more = jnp.zeros((count - array.shape[0], *array.shape[1:]), array.dtype)
        return jnp.concatenate([array, more]) if count > array.shape[0] else array

    return Store(*(jax.tree.map(lambda a, n=n: pad(a, n), part) for part, n in zip(store, (pages, tiles), strict=True)))


def mesh_of(params: Sequence[jax.Array]) -> Mesh | None:
    """The mesh that parameters lie on; None for one device."""
    shardings = {leaf.sharding for leaf in params if isinstance(leaf, jax.Array)}
    return next((s.mesh for s in shardings if isinstance(s, NamedSharding) and s.mesh.size > 1), None)


def store_shardings(store: Store, mesh: Mesh) -> Store:
    """Key/value heads over `tensor`, everything else whole on each device."""

    def sharding(array: jax.Array, heads: int | None) -> NamedSharding:
        split = heads is not None and array.shape[heads] % mesh.shape["tensor"] == 0
        axes = [None] * heads + ["tensor"] if split else []
        return NamedSharding(mesh, PartitionSpec(*axes))

    tokens, *kept, real = store.tiles
    kept = (None if array is None else sharding(array, 2) for array in kept)
    seen = Seen(sharding(tokens, None), *kept, None if real is None else sharding(real, None))
    return Store(KeyValues(*(sharding(array, 2) for array in store.pages)), seen)


def pages_for(tokens: int) -> int:
    """Pages that hold so many tokens."""
    return -(-tokens // PAGE)


def read_pages(pages: KeyValues, table: jax.Array, layer: int | None = None) -> KeyValues:
    """The pages of rows, int32 [B, n], one behind the other.

    Returns:
        Keys [L, B, K, h, n * PAGE], values [L, B, K, n * PAGE, h]; of one layer, without L.
    """
    at, outer, inner = (table, "b n l k", "l b k") if layer is None else ((table, layer), "b n k", "b k")
    keys, values = pages.keys[at], pages.values[at]
    return KeyValues(
        rearrange(keys, f"{outer} h p -> {inner} h (n p)"), rearrange(values, f"{outer} p h -> {inner} (n p) h")
    )


def write_pages(pages: KeyValues, table: jax.Array, new: KeyValues) -> KeyValues:
    """Whole pages, as `read_pages` has them, to the places int32 [B, n]."""
    keys = rearrange(new.keys, "l b k h (n p) -> b n l k h p", p=PAGE)
    values = rearrange(new.values, "l b k (n p) h -> b n l k p h", p=PAGE)
    return KeyValues(pages.keys.at[table].set(keys), pages.values.at[table].set(values))


def write_tokens(pages: KeyValues, table: jax.Array, index: jax.Array, new: KeyValues, valid: jax.Array) -> KeyValues:
    """Single tokens to where they belong in the pages of their rows.

    Args:
        pages: of the store.
        table: int32 [B, n], pages of each row.
        index: int32 [B, F], place of each token in its row.
        new: keys [L, B, K, h, F] and values [L, B, K, F, h] of the tokens.
        valid: bool [B, F]; others go nowhere.
    """
    slot = jnp.minimum(index // PAGE, table.shape[1] - 1)
    page, place = jnp.where(valid, jnp.take_along_axis(table, slot, axis=1), 0), index % PAGE
    keys, values = rearrange(new.keys, "l b k h f -> b f l k h"), rearrange(new.values, "l b k f h -> b f l k h")
    return KeyValues(pages.keys.at[page, :, :, :, place].set(keys), pages.values.at[page, :, :, place].set(values))


def read_tiles(seen: Seen, tiles: jax.Array, visible: jax.Array) -> ImageMemory:
    """What the cross-attention reads of rows' tiles, int32 [B, T]: keys [G, B, K, h, T * N'], values [G, B, K, T * N',
    h]; `visible` bool [B, S, T] goes with them."""
    keys = rearrange(seen.keys[tiles], "b t g k h n -> g b k h (t n)")
    values = rearrange(seen.values[tiles], "b t g k n h -> g b k (t n) h")
    real = None if seen.real is None else rearrange(seen.real[tiles], "b t n -> b (t n)")
    return ImageMemory(None, visible, keys, values, real=real)
