"""What stands on a generated page and where: the layout, with no pixels.

A page for grid (cols, rows) is cols x rows tiles of 4 x 4 cells, one glyph a cell, and no element leaves its tile:

    word     1 line:  [k] F O X      boxed lower-case label, then printed capitals
    number   1 line:  [m] 3 7 2      boxed label, then handwritten digits
    table    2 lines: A . 3 B        ruled, printed letters and digits, no label
    bar      2 columns of all 4 lines, two bars to a tile:  4 7 / body / body / [p] .

Each cell has one symbol: A-Z, 0-9, a-z (a boxed label), '.' (blank), '#' (a bar's body). `described` gives a tile as
its 16 symbols row by row; `dense` adds to each cell the symbols of the element that it belongs to, and those that are
read before and after its own.
"""

from __future__ import annotations

import dataclasses
import random
import re
import string
from collections.abc import Iterator, Sequence

from data_pipelines.generated import glyphs

CELLS = 4  # along each side of a tile
# Every grid (cols, rows) that dynamic high resolution may choose with at most 6 tiles.
GRIDS = ((1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (4, 1), (5, 1), (6, 1))
BLANK, BODY, THUMBNAIL = ".", "#", "~"
FULL_BAR = 100  # the value whose bar would fill both of its rows
# Printed O and 0, I and 1 look alike in some fonts; only in a table could either stand, so it has no O and no I.
TABLE_SYMBOLS = "".join(c for c in string.ascii_uppercase if c not in "OI") * 2 + string.digits * 3
# Table rows never spell what could be a held-out word, number or value.
_SPELLS = re.compile("[A-Z]{3}|[0-9]{2}")

BAR_TILES = 0.25  # share of tiles that are bar charts
TABLE_TILES = 0.3  # share of the other tiles with a table


@dataclasses.dataclass(frozen=True)
class Element:
    """One thing on a page. `tile`, `row` and `column` count from 0; the last two are its first cell in the tile."""

    kind: str  # word | number | bar | table
    tile: int
    row: int
    column: int
    text: str  # what a reader would read; of a table its 8 symbols
    label: str = ""
    scans: tuple[int, ...] = ()  # the handwritten digits used

    def cells(self) -> Iterator[tuple[int, int, str, str]]:
        """Row and column in the tile, own symbol, and the 6 symbols that place it, of each of its cells.

        The 6 are the element's 4 and those that are read before and after this one: `kFOX` is read k, F, O, X.
        """
        if self.kind in ("word", "number"):
            rows, summaries = [self.label + self.text], [self.label + self.text]
        elif self.kind == "table":
            rows = summaries = [self.text[:CELLS], self.text[CELLS:]]
        else:
            upper = BODY if 2 * int(self.text) > FULL_BAR else BLANK  # does the bar reach into the upper row
            rows = [self.text, upper * 2, BODY * 2, self.label + BLANK]
            summaries = [self.label + self.text + BLANK] * CELLS
        order = [[1, 2], [None] * 2, [None] * 2, [0, None]] if self.kind == "bar" else [range(CELLS)] * 2
        for row, (symbols, summary) in enumerate(zip(rows, summaries, strict=True)):
            for column, symbol in enumerate(symbols):
                context = summary + _neighbours(summary, order[row][column])
                yield self.row + row, self.column + column, symbol, context


@dataclasses.dataclass(frozen=True)
class Page:
    """A grid (cols, rows) and its elements in reading order: tile by tile, line by line."""

    grid: tuple[int, int]
    elements: tuple[Element, ...]

    @property
    def tiles(self) -> int:
        return self.grid[0] * self.grid[1]

    def described(self) -> list[str]:
        """Each tile's 16 symbols, then the thumbnail's, which only a page of several tiles has.

        >>> Page((1, 2), (Element("word", 0, 1, 0, "FOX", "k"),)).described()
        ['....kFOX........', '................', '~~~~~~~~~~~~~~~~']
        """
        return ["".join(cell[0] for cell in tile) for tile in self.dense()]

    def dense(self) -> list[list[str]]:
        """As `described`, with 7 symbols a cell: its own, the 4 of its element, those read before and after its own.

        >>> Page((1, 1), (Element("word", 0, 1, 0, "FOX", "k"),)).dense()[0][3:7]
        ['.......', 'kkFOX.F', 'FkFOXkO', 'OkFOXFX']
        """
        tiles = [[BLANK * 7] * CELLS**2 for _ in range(self.tiles)]
        for element in self.elements:
            for row, column, symbol, summary in element.cells():
                tiles[element.tile][row * CELLS + column] = symbol + summary
        return tiles + [[THUMBNAIL * 7] * CELLS**2] * (self.tiles > 1)


def _neighbours(summary: str, place: int | None) -> str:
    """What is read before and after the symbol at `place` of an element's text; None for what is not read."""
    if place is None:
        return BLANK * 2
    padded = BLANK + summary + BLANK
    return padded[place] + padded[place + 2]


def layout(rng: random.Random, split: str, grids: Sequence[tuple[int, int]] = GRIDS) -> Page:
    """A page of a split, on one of `grids`, with at least two labelled elements."""
    cols, rows = rng.choice(grids)
    labels = rng.sample(string.ascii_lowercase, 26)
    blank_lines = rng.choice((0.1, 0.3, 0.5))
    word_lines = rng.choice((0.25, 0.5, 0.75))
    elements: list[Element] = []
    for tile in range(cols * rows):
        if rng.random() < BAR_TILES:
            elements += [_bar(rng, split, tile, column, labels.pop()) for column in (0, 2)]
        else:
            elements += _lines(rng, split, tile, labels, blank_lines, word_lines)
    if sum(bool(element.label) for element in elements) < 2:
        return layout(rng, split, ((cols, rows),))
    return Page((cols, rows), tuple(elements))


def scrambled(rng: random.Random, page: Page, share: float) -> Page:
    """`page` with that share of its words and numbers replaced by three random capitals and digits, none held out.

    A decoder that is asked for these has to copy: nothing in them can be known by heart.
    """
    elements = (
        dataclasses.replace(element, text=_scramble(rng), scans=())
        if element.kind in ("word", "number") and rng.random() < share
        else element
        for element in page.elements
    )
    return dataclasses.replace(page, elements=tuple(elements))


def _scramble(rng: random.Random) -> str:
    while True:
        text = "".join(rng.choice(string.ascii_uppercase + string.digits) for _ in range(3))
        if text not in glyphs.words("test") and text not in glyphs.numbers("test"):
            return text


def _lines(
    rng: random.Random, split: str, tile: int, labels: list[str], blank_lines: float, word_lines: float
) -> Iterator[Element]:
    table_row = rng.randrange(CELLS - 1) if rng.random() < TABLE_TILES else None
    row = 0
    while row < CELLS:
        if row == table_row:
            yield Element("table", tile, row, 0, _table_row(rng) + _table_row(rng))
            row += 2
            continue
        if rng.random() >= blank_lines:
            if rng.random() < word_lines:
                yield Element("word", tile, row, 0, rng.choice(glyphs.words(split)), labels.pop())
            else:
                number = rng.choice(glyphs.numbers(split))
                chosen = tuple(rng.choice(glyphs.scans(split)[digit]) for digit in number)
                yield Element("number", tile, row, 0, number, labels.pop(), chosen)
        row += 1


def _bar(rng: random.Random, split: str, tile: int, column: int, label: str) -> Element:
    return Element("bar", tile, 0, column, rng.choice(glyphs.values(split)), label)


def _table_row(rng: random.Random) -> str:
    while True:
        row = "".join(BLANK if rng.random() < 0.25 else rng.choice(TABLE_SYMBOLS) for _ in range(CELLS))
        if row != BLANK * CELLS and not _SPELLS.search(row):
            return row
