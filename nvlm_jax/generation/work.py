"""A request on its way, and the arrays that describe several of them to the compiled programs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from nvlm_jax.config import ModelConfig
from nvlm_jax.generation.programs import Piece, Rows, Tiles
from nvlm_jax.generation.request import Request
from nvlm_jax.generation.store import PAGE, pages_for
from nvlm_jax.inputs.batch import THUMBNAIL

PIECES = (32, 128, 512)  # tokens of a prompt that are read in one call


@dataclasses.dataclass
class Work:
    """A request on its way."""

    id: int
    request: Request
    tile_keys: list[bytes]
    page_keys: list[bytes]  # of the prompt's whole pages
    pages: list[int] = dataclasses.field(default_factory=list)  # in the store, with room for the answer
    tiles: list[int] = dataclasses.field(default_factory=list)  # in the store; 0 = not needed
    length: int = 0  # tokens in the cache
    chosen: list[int] = dataclasses.field(default_factory=list)
    finish: str = ""

    @property
    def tokens(self) -> np.ndarray:
        return self.request.example.tokens

    @property
    def size(self) -> int:
        """Pages that it needs."""
        return pages_for(len(self.tokens) + self.request.max_new_tokens)

    @property
    def answering(self) -> bool:
        """Whether its prompt is read."""
        return self.length >= len(self.tokens)

    @property
    def piece(self) -> int:
        """Tokens of the call that reads the next piece of its prompt."""
        left = len(self.tokens) - self.length
        # One that at least three quarters of are needed, or several smaller ones: little is padding.
        above = next((size for size in PIECES if size >= left), PIECES[-1])
        return above if 4 * left >= 3 * above else max((size for size in PIECES if size <= left), default=PIECES[0])


def longest_first(works: Iterable[Work]) -> Iterator[Work]:
    """By the length of their prompts, for the rows of a call are as long as the longest of them.

    Neighbours that have half of a prompt in common, as questions on one page, stay together: it is read once for them.
    """
    runs: list[list[Work]] = []
    for work in works:
        if runs and _alike(runs[-1][-1], work):
            runs[-1].append(work)
        else:
            runs.append([work])
    runs.sort(key=lambda run: -max(len(work.tokens) for work in run))
    return itertools.chain.from_iterable(runs)


def _alike(one: Work, other: Work) -> bool:
    half = (max(len(one.page_keys), len(other.page_keys)) + 1) // 2
    # A key stands for all that is before it, too.
    return half > 0 and one.page_keys[half - 1 : half] == other.page_keys[half - 1 : half]


def tiles_needed(work: Work, config: ModelConfig) -> list[bool]:
    """The decoder's tiles only where their tokens have still to be read; those of the cross-attention always."""
    example = work.request.example
    slots = example.image_slots[work.length :]
    held = set(np.unique(slots[slots >= 0] // config.tokens_per_tile).tolist())
    return [number in held or _crossed(index, config) for number, index in enumerate(example.tile_index)]


def piece_of(
    works: Sequence[Work], lengths: Sequence[int], rows: int, size: int, past: int, config: ModelConfig
) -> Piece:
    """The next `lengths` tokens of some prompts, in `rows` rows of `size`, with `past` pages before them."""
    piece = Piece(
        tokens=np.zeros((rows, size), np.int32),
        slots=np.full((rows, size), -1, np.int32),
        tag_tile=np.zeros((rows, size), np.int32),
        start=np.zeros(rows, np.int32),
        length=np.zeros(rows, np.int32),
        past=np.zeros((rows, past), np.int32),
        written=np.zeros((rows, size // PAGE), np.int32),
    )
    per_tile = config.tokens_per_tile
    for row, (work, length) in enumerate(zip(works, lengths, strict=True)):
        example, now = work.request.example, slice(work.length, work.length + length)
        slots = example.image_slots[now]
        if work.tiles:
            held = np.asarray(work.tiles)[np.maximum(slots, 0) // per_tile] * per_tile + slots % per_tile
            slots = np.where(slots >= 0, held, -1)
        piece.tokens[row, :length] = example.tokens[now]
        piece.slots[row, :length] = slots
        piece.tag_tile[row, :length] = example.tag_tile[now]
        piece.start[row], piece.length[row] = work.length, length
        first, last = work.length // PAGE, pages_for(work.length + length)
        piece.past[row, :first] = work.pages[:first]
        piece.written[row, : last - first] = work.pages[first:last]
    return piece


def rows_of(works: Sequence[Work], rows: int, room: int, least: int) -> Rows:
    """Requests that choose tokens, in `rows` rows with `room` pages, until no more than `least` of them go on."""
    found = Rows(*(np.zeros(rows, np.int32) for _ in range(3)), np.zeros((rows, room), np.int32), np.int32(least))
    for row, work in enumerate(works):
        found.token[row], found.length[row] = work.chosen[-1], work.length
        found.left[row] = work.request.max_new_tokens - len(work.chosen)
        used = work.pages[:room]
        found.pages[row, : len(used)] = used
    return found


def most_tiles(works: Sequence[Work], config: ModelConfig) -> int:
    """Tiles of each row that the cross-attention of these requests needs room for."""
    return 0 if config.cross_attention is None else max((len(work.tiles) for work in works), default=0)


def cross_tiles(works: Sequence[Work], rows: int, count: int, config: ModelConfig) -> Tiles:
    """The tiles that the cross-attention of each row reads, `count` of a row: for an answer those that its prompt's
    last token sees."""
    tiles = Tiles(*(np.zeros((rows, count), np.int32) for _ in Tiles._fields))
    for row, work in enumerate(works if count else ()):
        example = work.request.example
        read = [place if _crossed(i, config) else 0 for place, i in zip(work.tiles, example.tile_index, strict=True)]
        if work.answering and (only := example.tag_tile[-1]):
            read = [place if number == only else 0 for number, place in enumerate(read, 1)]
        tiles.places[row, : len(read)] = read
        tiles.starts[row, : len(read)] = example.tile_start
    return tiles


def _crossed(tile_index: int, config: ModelConfig) -> bool:
    """Whether the cross-attention reads such a tile."""
    return config.cross_attention is not None and not (config.arch == "h" and tile_index == THUMBNAIL)
