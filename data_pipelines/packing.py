"""Which samples share a row: best fit over a window, with two budgets.

With two budgets the worst row is one whose text is full and whose tiles are empty, or the other way round: nothing fits
it any more. So each row begins with the sample left in the window that leans most to one side, and takes, again and
again, the one after which least is left: five parts of the larger of what remains of the two budgets, less one of the
smaller, both as shares of the budget. When a row is nearly full it looks one sample further. All in whole numbers:
every machine gets the same rows.

Samples with one number of tiles stand on a shelf, by their tokens. The best of a shelf is one of the two next to what
would leave both budgets equal, so nobody looks at the others.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

import numpy as np

from data_pipelines.blend import permutation

NEARLY_FULL = 0.35  # of a row, what may be left of both budgets when it begins to look further
MOST = 1 << 62  # above every cost


class Packed(NamedTuple):
    """Rows of one window. Draws are numbered from the first of the window."""

    draws: np.ndarray  # int64 [n], row after row
    lengths: np.ndarray  # int64 [rows], draws of each row
    over: np.ndarray  # int64, draws that exceed a budget alone and are in no row

    def rows(self) -> list[np.ndarray]:
        """The draws of each row."""
        return np.split(self.draws, np.cumsum(self.lengths)[:-1]) if len(self.lengths) else []


def pack(tokens: np.ndarray, tiles: np.ndarray, tokens_per_row: int, tiles_per_row: int, seed: int) -> Packed:
    """Share the draws of a window out among rows, and shuffle the rows: they come out from odd samples to plain ones.

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
    shelves = _Shelves(tokens, tiles, most_tokens, most_tiles)
    rows = []
    for first in shelves.by_leaning():
        key, row = shelves.key_if_left(first), []
        free_tokens, free_tiles = most_tokens, most_tiles
        while key >= 0:
            place, used_tokens, used_tiles = shelves.remove(key)
            row.append(place)
            free_tokens -= used_tokens
            free_tiles -= used_tiles
            key = shelves.choose(free_tokens, free_tiles)
        if row:
            rows.append(row)
    return rows


class _Shelves:
    """The samples left in a window. A sample is one integer, its tokens and then its place in the window: its key.

    A share of a budget is a whole number of parts of `most_tokens * most_tiles`.
    """

    def __init__(self, tokens: np.ndarray, tiles: np.ndarray, most_tokens: int, most_tiles: int):
        self._per_tile, self._per_token = most_tokens, max(most_tiles, 1)
        self._look = int(NEARLY_FULL * 4 * self._per_tile * self._per_token)
        self._tokens, self._tiles = tokens.astype(np.int64), tiles.astype(np.int64)
        self._bits = len(tokens).bit_length()
        self._mask = (1 << self._bits) - 1
        keys = (self._tokens << self._bits) | np.arange(len(tokens))
        self._key, self._tiles_of = keys.tolist(), tiles.tolist()
        # From many tiles to few: where the cost of the tiles alone exceeds the least so far, no later shelf is better.
        self._shelves = {t: np.sort(keys[tiles == t]).tolist() for t in np.unique(tiles)[::-1].tolist()}

    def by_leaning(self) -> list[int]:
        """The places of the window, from samples that need far more of one budget than of the other."""
        shares = np.stack([self._tokens * self._per_token, self._tiles * self._per_tile])
        leaning = 5 * shares.max(axis=0) - 4 * shares.min(axis=0)
        return np.argsort(-leaning, kind="stable").tolist()

    def key_if_left(self, place: int) -> int:
        """The key of the sample at this place, -1 where it is in a row."""
        return self._key[place]

    def remove(self, key: int) -> tuple[int, int, int]:
        """Take the sample from its shelf; its place, tokens and tiles."""
        place = key & self._mask
        tiles = self._tiles_of[place]
        shelf = self._shelves[tiles]
        del shelf[bisect_left(shelf, key)]
        self._key[place] = -1
        return place, key >> self._bits, tiles

    def choose(self, free_tokens: int, free_tiles: int) -> int:
        """The key of the sample that leaves least, -1 where none fits."""
        bits, per_token, per_tile = self._bits, self._per_token, self._per_tile
        tokens_share, tiles_share = free_tokens * per_token, free_tiles * per_tile
        look = 5 * max(tokens_share, tiles_share) - min(tokens_share, tiles_share) < self._look
        end, chosen, least = (free_tokens + 1) << bits, -1, MOST
        for tiles, shelf in self._shelves.items():
            if tiles > free_tiles:
                continue
            tiles_left = (free_tiles - tiles) * per_tile
            if not look and 4 * tiles_left >= least:
                break
            balanced = free_tokens - tiles_left // per_token
            place = bisect_left(shelf, balanced << bits) if balanced > 0 else 0
            for key in shelf[max(place - 1, 0) : place + 1]:
                if key < end:
                    rest = free_tokens - (key >> bits)
                    left = rest * per_token
                    cost = 5 * left - tiles_left if left > tiles_left else 5 * tiles_left - left
                    if look and cost:
                        cost = self._least_after_one_more(rest, free_tiles - tiles, min(cost, least), key)
                    if cost < least:
                        chosen, least = key, cost
            if not least:
                break
        return chosen

    def _least_after_one_more(self, free_tokens: int, free_tiles: int, least: int, taken: int) -> int:
        """The cost after the best sample but `taken`, if that is below `least`, else `least`."""
        bits, per_token, per_tile = self._bits, self._per_token, self._per_tile
        end = (free_tokens + 1) << bits
        for tiles, shelf in self._shelves.items():
            if tiles > free_tiles:
                continue
            tiles_left = (free_tiles - tiles) * per_tile
            if 4 * tiles_left >= least:
                break
            balanced = free_tokens - tiles_left // per_token
            place = bisect_left(shelf, balanced << bits) if balanced > 0 else 0
            for key in shelf[max(place - 1, 0) : place + 1]:
                if key < end and key != taken:
                    left = (free_tokens - (key >> bits)) * per_token
                    cost = 5 * left - tiles_left if left > tiles_left else 5 * tiles_left - left
                    least = min(cost, least)
        return least
