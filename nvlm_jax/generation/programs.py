"""The three compiled programs of generation: look at tiles, read a piece of prompts, choose tokens.

Each is compiled once for a size of its arguments. Rows are described by small arrays that change from call to call
(pages of the cache, tiles, lengths), so that requests come and go without a new program.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from nvlm_jax.generation.layers import (
    LEAST_BYTES,
    MOST_CHOOSING,
    MOST_READING,
    Layers,
    extend,
    joined_layers,
    layers_of,
    split_layers,
)
from nvlm_jax.generation.sampling import Chosen, Draws, choose
from nvlm_jax.generation.store import PAGE, Store, pages_for, read_pages, read_tiles, write_pages, write_tokens
from nvlm_jax.models.axes import split_by_compiler
from nvlm_jax.models.decoder import CacheMask, KeyValues
from nvlm_jax.models.nvlm import NVLM


class Tiles(NamedTuple):
    """What the cross-attention of rows reads; T = 0 where nothing is read."""

    places: np.ndarray  # int32 [B, T], in the store; 0 = no tile
    starts: np.ndarray  # int32 [B, T], first place in the row whose token sees it


class Piece(NamedTuple):
    """A piece of each row's prompt."""

    tokens: np.ndarray  # int32 [B, C]
    slots: np.ndarray  # int32 [B, C], index into all image tokens of the store, else -1
    tag_tile: np.ndarray  # int32 [B, C], 1 + number of the row's tile that a tag names, else 0
    start: np.ndarray  # int32 [B], tokens before the piece, whole pages
    length: np.ndarray  # int32 [B], tokens of the piece; 0 = an empty row
    past: np.ndarray  # int32 [B, n], pages before it, n at least 1
    written: np.ndarray  # int32 [B, C / PAGE], pages of it


class Rows(NamedTuple):
    """Rows that choose tokens."""

    token: np.ndarray  # int32 [B], the latest, not yet in the cache
    length: np.ndarray  # int32 [B], tokens in the cache
    left: np.ndarray  # int32 [B], tokens that may still be chosen; 0 = an empty row
    pages: np.ndarray  # int32 [B, n], with room for what is chosen
    least: np.int32  # the call ends when no more rows than this go on


@functools.lru_cache(maxsize=8)
def programs_for(
    graphdef: nnx.GraphDef,
    tree: jax.tree_util.PyTreeDef,
    vocab_size: int,
    end_ids: tuple[int, ...],
    full: bool,
    apart: bool,
    shardings: Store | None,
) -> Programs:
    """The programs for all engines of such models: compiled once."""
    return Programs(graphdef, tree, vocab_size, end_ids, full, apart, shardings)


class Programs:
    """The programs for models of one kind; the parameters, as a list of arrays, are an argument."""

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        tree: jax.tree_util.PyTreeDef,
        vocab_size: int,
        end_ids: tuple[int, ...],
        full: bool,
        apart: bool,
        shardings: Store | None,
    ):
        """
        Args:
            graphdef: of an `NVLM`.
            tree: of its state. Handed over at each call, a list costs a tenth of what the state does.
            vocab_size: ids of the tokenizer.
            end_ids: tokens that end an answer.
            full: matrix products of float32 have full precision on every device.
            apart: the layers one by one, however small they are.
            shardings: of the store on a mesh; None = one device.
        """
        self._graphdef, self._tree = graphdef, tree
        self._vocab_size, self._end_ids, self._full = vocab_size, end_ids, full
        self._apart, self._least_bytes = apart, 0 if apart else LEAST_BYTES
        whole = shardings and NamedSharding(shardings.pages.keys.mesh, PartitionSpec())
        self.see = self._compiled(self._see, shardings)
        self.read = self._compiled(self._read, shardings and (shardings, whole), "greedy", "alternatives")
        out = shardings and (shardings, whole, whole)
        self.advance = self._compiled(self._advance, out, "steps", "greedy", "alternatives")

    def _compiled(self, function, out_shardings, *static: str):
        placed = {} if out_shardings is None else {"out_shardings": out_shardings}
        compiled = jax.jit(function, static_argnames=static, donate_argnames=("store",), **placed)

        @functools.wraps(function)
        def call(**arguments):
            precision = jax.default_matmul_precision("highest") if self._full else contextlib.nullcontext()
            with precision, split_by_compiler(out_shardings is not None):
                return compiled(**arguments)

        return call

    def _model(self, params: list[jax.Array]) -> NVLM:
        model = nnx.merge(self._graphdef, jax.tree.unflatten(self._tree, params))
        few = self._apart and model.config.vision.layers <= MOST_READING
        model.decoder.unroll, model.vision.unroll = 1, model.config.vision.layers if few else 1
        return model

    def _see(
        self,
        params: list[jax.Array],
        store: Store,
        tiles: jax.Array,
        tile_index: jax.Array,
        tile_tags: jax.Array,
        places: jax.Array,
    ) -> Store:
        """Put what the model sees of tiles uint8 [V, P, P, 3] with tags int32 [V, K] to places int32 [V]."""
        seen = self._model(params).see(tiles, tile_index, tile_tags)
        kept = jax.tree.map(lambda old, new: old.at[places].set(new.astype(old.dtype)), store.tiles, seen)
        return store._replace(tiles=kept)

    def _read(
        self,
        params: list[jax.Array],
        store: Store,
        piece: Piece,
        tiles: Tiles,
        draws: Draws,
        *,
        greedy: bool | None,
        alternatives: int,
    ) -> tuple[Store, Chosen]:
        """Read a piece of each prompt into its pages, and choose the token behind it."""
        model = self._model(params)
        count = piece.tokens.shape[1]
        index = piece.start[:, None] + jnp.arange(count)
        valid = jnp.arange(count) < piece.length[:, None]
        mask = CacheMask(
            jnp.arange(piece.past.shape[1] * PAGE) < piece.start[:, None],
            jnp.tril(jnp.ones((count, count), bool)) & valid[:, None, :],
        )
        x = model.decoder.embed(piece.tokens)
        image_tokens = store.tiles.tokens.reshape(-1, x.shape[-1])
        x = jnp.where(piece.slots[:, :, None] >= 0, image_tokens[jnp.maximum(piece.slots, 0)].astype(x.dtype), x)
        memory = None
        if tiles.places.shape[1]:
            number = 1 + jnp.arange(tiles.places.shape[1])
            named = (piece.tag_tile[:, :, None] == 0) | (piece.tag_tile[:, :, None] == number)
            seen = (tiles.places > 0)[:, None] & (tiles.starts[:, None] <= index[:, :, None]) & named
            memory = read_tiles(store.tiles, tiles.places, seen)
        layers = layers_of(model, MOST_READING, self._least_bytes)
        # All layers at once: if it were one by one, XLA would not see that pages are read before they are written to.
        past = split_layers(read_pages(store.pages, piece.past), layers)
        last = jnp.maximum(piece.length - 1, 0)
        hidden, fresh = extend(model, layers, x, index, mask, past, None, memory, last)
        store = store._replace(pages=write_pages(store.pages, piece.written, joined_layers(fresh, layers)))
        return store, choose(model.logits(hidden[:, 0]), draws, self._vocab_size, greedy, alternatives)

    def _advance(
        self,
        params: list[jax.Array],
        store: Store,
        rows: Rows,
        tiles: Tiles,
        draws: Draws,
        *,
        steps: int,
        greedy: bool | None,
        alternatives: int,
    ) -> tuple[Store, Chosen, jax.Array]:
        """Choose up to `steps` tokens a row: [B, steps, ...], and how many of them were chosen; the rest is padding.

        The cache is read once for all of them; the latest tokens are written at the end.
        """
        model = self._model(params)
        layers = layers_of(model, MOST_CHOOSING, self._least_bytes)
        past, fresh, offset = _cache_of(store.pages, rows.pages, steps, layers)
        count, places = rows.pages.shape[0], rows.pages.shape[1] * PAGE
        seen, room = jnp.arange(places) < rows.length[:, None], PAGE * pages_for(steps)
        memory = None
        if tiles.places.shape[1]:
            # Images end before the prompt does: no tile has still to begin.
            memory = read_tiles(store.tiles, tiles.places, (tiles.places > 0)[:, None])

        def step(state):
            number, token, done, fresh, out = state
            latest = jnp.broadcast_to(jnp.arange(room) <= number, (count, room))
            if past is None:
                mask = CacheMask(None, jnp.concatenate([seen, latest], axis=1)[:, None], offset + number)
            else:
                mask = CacheMask(seen, latest[:, None], number)
            x = model.decoder.embed(token[:, None])
            positions = (rows.length + number)[:, None]
            hidden, fresh = extend(model, layers, x, positions, mask, past, fresh, memory)
            now = draws._replace(count=draws.count + number)
            chosen = choose(model.logits(hidden[:, 0]), now, self._vocab_size, greedy, alternatives)
            out = jax.tree.map(lambda all, one: all.at[:, number].set(one), out, chosen)
            done = done | jnp.isin(chosen.token, jnp.asarray(self._end_ids)) | (rows.left <= number + 1)
            return number + 1, chosen.token, done, fresh, out

        def going(state):
            return (state[0] < steps) & ((~state[2]).sum() > rows.least)

        scores = jnp.zeros((count, self._vocab_size))
        one = jax.eval_shape(lambda: choose(scores, draws, self._vocab_size, True, alternatives))
        out = jax.tree.map(lambda x: jnp.zeros((count, steps, *x.shape[1:]), x.dtype), one)
        start = (jnp.int32(0), jnp.asarray(rows.token), rows.left <= 0, fresh, out)
        taken, _, _, fresh, out = jax.lax.while_loop(going, step, start)
        number = jnp.arange(steps)
        valid = (number < taken) & (number < rows.left[:, None])
        latest = slice(offset, offset + steps)
        new = [KeyValues(a.keys[..., latest], a.values[..., latest, :]) for a in (fresh if layers else [fresh])]
        new = joined_layers(new, layers) if layers else new[0]
        pages = write_tokens(store.pages, rows.pages, rows.length[:, None] + number, new, valid)
        return store._replace(pages=pages), out, taken


def _cache_of(pages: KeyValues, table: jax.Array, steps: int, layers: Layers) -> tuple[Any, Any, int]:
    """What rows, int32 [B, n], have read, room for `steps` tokens, and where in that the first of them goes.

    Layers one by one have the room behind what they read, so that each attends to one array; then the first is None.
    """
    table, more = jnp.asarray(table), pages_for(steps)
    if layers is None:
        room = jax.eval_shape(read_pages, pages, table[:, :1].repeat(more, 1))
        return read_pages(pages, table), jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), room), 0
    with_room = jnp.pad(table, ((0, 0), (0, more)))
    return None, [read_pages(pages, with_room, i) for i in range(len(layers))], table.shape[1] * PAGE
