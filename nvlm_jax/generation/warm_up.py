"""Calls of every program of a closed set of sizes, with arguments that make it do nothing: nobody's rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from nvlm_jax.config import ModelConfig
from nvlm_jax.generation.sampling import MOST_LOGPROBS, draws_of
from nvlm_jax.generation.shapes import TILES_OF_CALL, Shapes, Sizes, few_or, rows_read
from nvlm_jax.generation.work import PIECES, cross_tiles, piece_of, rows_of

ANY_CHOICE = {"greedy": None, "alternatives": MOST_LOGPROBS}  # one variant, which does what its rows ask for
EmptyCall = tuple[str, dict[str, Any]]  # name of a program in `Programs`, arguments beside params and store


def empty_calls(
    config: ModelConfig, shapes: Shapes, sizes: Sizes, slots: int, tiles: int, tag_tokens: int = 0
) -> list[EmptyCall]:
    """One call for each size of each program.

    Args:
        config: of the model.
        shapes: a closed set.
        sizes: of calls.
        slots: requests that are decoded together.
        tiles: of one request; 0 = none is looked at.
        tag_tokens: of a tile's tag.
    """
    see = _sights(config.vision.image_size, tag_tokens) if tiles else ()
    return [*see, *_reads(config, shapes, sizes, slots), *_advances(config, shapes, sizes, slots)]


def _sights(size: int, tag_tokens: int) -> Iterator[EmptyCall]:
    for count in TILES_OF_CALL:
        tiles, zeros = np.zeros((count, size, size, 3), np.uint8), np.zeros(count, np.int32)
        tags = np.full((count, tag_tokens), -1, np.int32)
        yield "see", {"tiles": tiles, "tile_index": zeros, "tile_tags": tags, "places": zeros}


def _reads(config: ModelConfig, shapes: Shapes, sizes: Sizes, slots: int) -> Iterator[EmptyCall]:
    for size, (past, tiles) in itertools.product(PIECES, shapes.pairs):
        for rows in rows_read(size, sizes.call, slots, closed=True):
            how = {"tiles": cross_tiles([], rows, tiles, config), "draws": draws_of([], [], rows), **ANY_CHOICE}
            yield "read", {"piece": piece_of([], [], rows, size, past, config), **how}


def _advances(config: ModelConfig, shapes: Shapes, sizes: Sizes, slots: int) -> Iterator[EmptyCall]:
    for count, (room, tiles) in itertools.product(sorted(set(few_or(slots))), shapes.pairs):
        how = {"tiles": cross_tiles([], count, tiles, config), "draws": draws_of([], [], count), **ANY_CHOICE}
        yield "advance", {"rows": rows_of([], count, room, 0), "steps": sizes.steps, **how}
