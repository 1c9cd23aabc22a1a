"""Which sizes calls have: each one more is a program more, compiled when it is first needed.

Open, sizes double as requests grow. Closed, they are a few that are known before the first request, so that all of
their programs can be made ready and none is compiled later.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from nvlm_jax.generation.store import pages_for

# Sizes begin here: to read this much is nothing beside a real model's weights.
LEAST_PAGES = 8
LEAST_TILES = 8
STEP = 8  # from one size of a closed set to the next


class Sizes(NamedTuple):
    """How much work a call is given, and a round."""

    steps: int  # tokens of a request that are chosen in one call: the host waits for each call
    call: int  # tokens of all prompts that are read in one call
    round: int  # tokens that are read in a round, before those who answer go on


SIZES = {"cpu": Sizes(16, 2048, 8192)}
LARGE = Sizes(32, 8192, 65536)  # of accelerators
TILES_OF_CALL = (4, 32)  # numbers of tiles that are looked at in one call


class Limits(NamedTuple):
    """What one request may be at most, where sizes are closed."""

    tokens: int  # of its prompt and its answer together
    tiles: int

    def check(self, name: str, tokens: int, tiles: int) -> None:
        """Raise ValueError where a request is more than that."""
        if tokens > self.tokens or tiles > self.tiles:
            most = f"at most {self.tokens} and {self.tiles}"
            raise ValueError(f"example {name!r}: {tokens} tokens with those to come, and {tiles} tiles; {most}")


@dataclasses.dataclass(frozen=True)
class Shapes:
    """How much a call reads of the past, in pages, and how many tiles: (pages, tiles) by size; empty = any."""

    pairs: tuple[tuple[int, int], ...] = ()

    def past(self, pages: int, tiles: int) -> tuple[int, int]:
        """Sizes for pages before pieces of prompts, at least one, so that there is an array; and for tiles."""
        if self.pairs:
            return self._least(pages, tiles)
        return rounded(max(pages, 1), LEAST_PAGES), rounded(tiles, LEAST_TILES, 4)

    def room(self, pages: int, tiles: int) -> tuple[int, int]:
        """Sizes for pages of rows that choose tokens, and for tiles."""
        if self.pairs:
            return self._least(pages, tiles)
        return finely_rounded(pages, LEAST_PAGES), rounded(tiles, LEAST_TILES, 4)

    def _least(self, pages: int, tiles: int) -> tuple[int, int]:
        return next((p, t) for p, t in self.pairs if p >= pages and t >= tiles)


OPEN = Shapes()


def closed(limits: Limits, steps: int, cross: bool) -> Shapes:
    """The few sizes for requests within limits.

    With cross-attention there is room for the tiles of a picture in all of them, and for more in the largest alone:
    each size has to be compiled before the first request, and most requests have one picture or none.

    Args:
        limits: of one request.
        steps: tokens that are chosen in one call, for which there is room behind the longest request.
        cross: the model has cross-attention; others read no tiles there.
    """
    longest = pages_for(limits.tokens + steps)
    steps_up = itertools.takewhile(lambda size: 4 * size <= longest, (LEAST_PAGES * STEP**i for i in itertools.count()))
    pages = (*steps_up, max(LEAST_PAGES, longest))
    tiles = min(LEAST_TILES, limits.tiles) if cross else 0
    more = ((pages[-1], limits.tiles),) if cross and limits.tiles > tiles else ()
    return Shapes((*((size, tiles) for size in pages), *more))


def rounded(count: int, least: int, factor: int = 2) -> int:
    """The smallest of 0, least, least * factor, least * factor**2 ... that is not below `count`."""
    size = least if count else 0
    while size < count:
        size *= factor
    return size


def finely_rounded(count: int, least: int) -> int:
    """The smallest of least, 1.5 * least, 2 * least, 3 * least, 4 * least ... that is not below `count`."""
    size = rounded(count, least)
    return 3 * size // 4 if size > least and 4 * count <= 3 * size else size


def few_or(most: int) -> tuple[int, int]:
    """The two numbers of rows that calls have: an eighth of the most, and the most."""
    return max(1, most // 8), most


def rows_read(size: int, call: int, slots: int, closed: bool = False) -> tuple[int, ...]:
    """Numbers of prompts of which pieces of `size` tokens are read in one call of up to `call` tokens.

    In a closed set there is one, a quarter of the most: little is padding for one prompt, and it serves many well.
    """
    most = min(max(1, call // size), slots)
    return (max(1, min(call // (4 * size), slots)),) if closed else few_or(most)


def part_of(count: int, sizes: Sequence[int]) -> int:
    """Size of the next call when `count` are to be done: one that is at least half used, the smallest one aside."""
    above = next((size for size in sizes if size >= count), sizes[-1])
    if count >= above or 2 * count > above or above == sizes[0]:
        return above
    return max(size for size in sizes if size <= count)
