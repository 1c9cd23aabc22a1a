"""Which samples share a row: best fit over a window, with two budgets.

Each row begins with the largest sample left in the window and takes, again and again, the one that fits and goes
furthest along what is left of both budgets (dot-product best fit). Of the samples with the same number of tiles that is
always the longest that fits, so a sorted shelf for each number of tiles finds it without looking at the others.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

import numpy as np

from data_pipelines.blend import permutation


class Packed(NamedTuple):
    """Rows of one window. Draws are numbered from the first of the window."""

    draws: np.ndarray  # int64 [n], row after row
    lengths: np.ndarray  # int64 [rows], draws of each row
    over: np.ndarray  # int64, draws that exceed a budget alone and are in no row

    def rows(self) -> list[np.ndarray]:
        """The draws of each row."""
        return np.split(self.draws, np.cumsum(self.lengths)[:-1]) if len(self.lengths) else []


def pack(tokens: np.ndarray, tiles: np.ndarray, tokens_per_row: int, tiles_per_row: int, seed: int) -> Packed:
    """Share the draws of a window out among rows, and shuffle the rows: they come out from large samples to small ones.

    Args:
        tokens: int [n], of each draw; 0 for a sample known to be bad.
        tiles: int [n].
        tokens_per_row: budget S.
        tiles_per_row: budget T.
        seed: of the shuffle.
    """
    fits = (tokens <= tokens_per_row) & (tiles <= tiles_per_row)
    sized = np.flatnonzero(fits & (tokens > 0))
    # Draws of no length are bad samples: spread, for a row full of them would look like a share far too high.
    empty = np.flatnonzero(fits & (tokens <= 0))
    rows = _best_fit(tokens[sized], tiles[sized], tokens_per_row, tiles_per_row)
    rows = rows or [[]] * (len(empty) > 0)
    order = permutation(len(rows), seed, "rows", 0)
    rows = [rows[row] for row in order.tolist()]
    lengths = np.array([len(row) for row in rows], np.int64)
    draws = sized[np.array([place for row in rows for place in row], np.int64)]
    if len(empty):
        row_of = np.repeat(np.arange(len(rows)), lengths)
        row_of_empty = np.arange(len(empty)) % len(rows)
        merged = np.argsort(np.concatenate([row_of, row_of_empty]), kind="stable")
        draws = np.concatenate([draws, empty])[merged]
        lengths += np.bincount(row_of_empty, minlength=len(rows))
    return Packed(draws, lengths, np.flatnonzero(~fits))


def _best_fit(tokens: np.ndarray, tiles: np.ndarray, most_tokens: int, most_tiles: int) -> list[list[int]]:
    """Rows of a window of samples that fit alone, each a list of places in it."""
    count, tile_scale = len(tokens), max(most_tiles, 1)
    largest = np.maximum(tokens / most_tokens, tiles / tile_scale)
    # On a shelf a sample is one integer: its tokens, then its place counted backwards, so that of equally long ones the
    # first is found.
    bits = count.bit_length()
    mask = (1 << bits) - 1
    keys = (tokens.astype(np.int64) << bits) | (mask - np.arange(count))
    by_tiles = {t: np.sort(keys[tiles == t]).tolist() for t in np.unique(tiles).tolist()}
    shelves = [(t, t / tile_scale, shelf) for t, shelf in by_tiles.items()]
    key_of, tiles_of, left = keys.tolist(), tiles.tolist(), bytearray(b"\1") * count
    rows = []
    for first in np.argsort(-largest, kind="stable").tolist():
        if not left[first]:
            continue
        key, t = key_of[first], tiles_of[first]
        free_tokens, free_tiles, row = most_tokens, most_tiles, []
        while key:
            shelf = by_tiles[t]
            del shelf[bisect_left(shelf, key)]
            place = mask - (key & mask)
            left[place] = 0
            row.append(place)
            free_tokens -= key >> bits
            free_tiles -= t
            token_share, tile_share = free_tokens / most_tokens, free_tiles / tile_scale
            limit, key, best = (free_tokens + 1) << bits, 0, -1.0
            for shelf_tiles, scaled, shelf in shelves:
                if shelf_tiles > free_tiles:
                    break
                if i := bisect_left(shelf, limit):
                    candidate = shelf[i - 1]
                    along = (candidate >> bits) / most_tokens * token_share + scaled * tile_share
                    if along > best or (along == best and candidate & mask > key & mask):
                        key, t, best = candidate, shelf_tiles, along
        rows.append(row)
    return rows
