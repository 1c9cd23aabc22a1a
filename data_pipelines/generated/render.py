"""Draws a page so that it looks scanned: size, fonts, offsets, colours, light and noise differ from page to page.

The page's size is chosen so that dynamic high resolution at the given tile size cuts it into exactly the page's grid:

- The aspect ratio strays from the grid's by at most 4 %; half the way to the next is 8 % between 5:1 and 6:1.
- 1:1 and 2:2 have the same ratio, and the larger grid wins above half its area, at 1.41 tiles a side. With between 0.85
  and 1.35 pixels on the page for one of the grid's, a 1:1 page stays below that and a 2:2 page above.

Ink is drawn on one grey canvas, 0 to 255, and coloured by a palette at the end, which also keeps the PNG small.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import random

import numpy as np
from PIL import Image

from data_pipelines.generated import glyphs
from data_pipelines.generated.pages import CELLS, FULL_BAR, Element, Page

SCALE = (0.85, 1.35)  # pixels of the page for one of the tile grid
ASPECT = 0.04
# Shares of a cell.
CAPITALS = (0.58, 0.74)  # height of printed capitals
SCAN = (0.8, 1.0)  # side of a handwritten digit, whose ink fills about four fifths of it
BOX = (0.82, 0.96)  # side of a label's box
LABEL = 0.56  # height of its font's capitals
OFFSET = 0.08  # a glyph's way from the middle of its cell


def render_png(rng: random.Random, page: Page, tile: int) -> bytes:
    """The page as an encoded palette image."""
    image = Image.fromarray(_scanned(rng, draw(rng, page, tile)))
    image.putpalette(_palette(rng))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def draw(rng: random.Random, page: Page, tile: int) -> np.ndarray:
    """The page's ink, uint8 [height, width], 0 where there is none."""
    cols, rows = page.grid
    scale, stretch = rng.uniform(*SCALE), math.exp(rng.uniform(-ASPECT, ASPECT) / 2)
    width, height = round(cols * tile * scale * stretch), round(rows * tile * scale / stretch)
    canvas = _Canvas(np.zeros((height, width), np.uint8), _edges(cols, width), _edges(rows, height))
    for element in page.elements:
        style = _Style(rng, canvas)
        top, left = element.tile // cols * CELLS + element.row, element.tile % cols * CELLS + element.column
        if element.kind == "table":
            _draw_rules(rng, canvas, top, left)
        if element.kind == "bar":
            _draw_bar(rng, canvas, top, left, int(element.text))
        _draw_cells(rng, canvas, style, element, top, left)
    return canvas.ink


@dataclasses.dataclass(frozen=True)
class _Canvas:
    """Ink, and where its cells begin: cell (r, c) is ink[ys[r]:ys[r+1], xs[c]:xs[c+1]]."""

    ink: np.ndarray
    xs: list[int]
    ys: list[int]

    @property
    def unit(self) -> float:
        return min(self.xs[-1] / (len(self.xs) - 1), self.ys[-1] / (len(self.ys) - 1))

    def stamp(self, mask: np.ndarray, row: int, column: int, across: float, down: float) -> None:
        """Add a mask to the middle of a cell, moved by so many pixels but never out of it."""
        height, width = mask.shape
        y = _clamp(self.ys[row], self.ys[row + 1] - height, down)
        x = _clamp(self.xs[column], self.xs[column + 1] - width, across)
        area = self.ink[y : y + height, x : x + width]
        np.maximum(area, mask, out=area)


class _Style:
    """How one element is drawn: fonts, and sizes in pixels."""

    def __init__(self, rng: random.Random, canvas: _Canvas):
        unit = canvas.unit
        self.limit = int(unit)
        self.font = rng.choice(glyphs.FONTS)
        self.capitals = round(unit * rng.uniform(*CAPITALS))
        self.scan = min(self.limit, round(unit * rng.uniform(*SCAN)))
        self.label_font = rng.choice(glyphs.LABEL_FONTS)
        self.box = min(self.limit, round(unit * rng.uniform(*BOX)))


def _draw_cells(rng: random.Random, canvas: _Canvas, style: _Style, element: Element, top: int, left: int) -> None:
    offset = OFFSET * canvas.unit
    scans = iter(element.scans)
    for row, column, symbol, _ in element.cells():
        row, column = row - element.row + top, column - element.column + left
        if symbol.islower():
            mask = _box(style.label_font, symbol, style.box, round(LABEL * canvas.unit))
        elif not symbol.isalnum():
            continue
        elif element.kind == "number":
            mask = glyphs.handwritten(next(scans), style.scan)
        else:
            mask = glyphs.printed(style.font, symbol, style.capitals, style.limit)
        canvas.stamp(mask, row, column, rng.uniform(-offset, offset), rng.uniform(-offset, offset))


def _draw_rules(rng: random.Random, canvas: _Canvas, top: int, left: int) -> None:
    """A table's lines, two rows by four columns."""
    level = rng.randrange(70, 150)
    table = canvas.ink[canvas.ys[top] : canvas.ys[top + 2], canvas.xs[left] : canvas.xs[left + CELLS]]
    for y in (0, canvas.ys[top + 1] - canvas.ys[top], -1):
        table[y] = level
    for x in (0, *(x - canvas.xs[left] for x in canvas.xs[left + 1 : left + CELLS]), -1):
        table[:, x] = level


def _draw_bar(rng: random.Random, canvas: _Canvas, top: int, left: int, value: int) -> None:
    """One bar's body, its stretch of the base line and of two grid lines, and the chart's upright axis."""
    ys, (x0, x1) = canvas.ys, (canvas.xs[left], canvas.xs[left + 2])
    canvas.ink[ys[top + 1], x0:x1] = canvas.ink[ys[top + 2], x0:x1] = 40
    base = ys[top + 3] - 1
    margin = round(rng.uniform(0.15, 0.4) * canvas.unit)
    # Row by row, as rows may differ by a pixel and the body must reach the upper one exactly if the symbols say so.
    shares = [min(max(2 * value / FULL_BAR - row, 0), 1) for row in (0, 1)]
    tall = sum(math.ceil(share * (ys[top + 3 - row] - ys[top + 2 - row])) for row, share in enumerate(shares))
    body = canvas.ink[base + 1 - tall : base + 1, x0 + margin : x1 - margin]
    body[:] = rng.randrange(100, 220)
    body[0] = body[:, 0] = body[:, -1] = 230
    canvas.ink[base, x0:x1] = 230
    if left % CELLS == 0:
        canvas.ink[ys[top + 1] : base + 1, x0] = 180


@functools.cache
def _box(font: str, letter: str, side: int, capitals: int) -> np.ndarray:
    """A dark box with a light letter in its middle."""
    glyph = glyphs.printed(font, letter, capitals, side - 2)
    box = np.full((side, side), 255, np.uint8)
    y, x = (side - glyph.shape[0]) // 2, (side - glyph.shape[1]) // 2
    box[y : y + glyph.shape[0], x : x + glyph.shape[1]] -= glyph
    return box


def _scanned(rng: random.Random, ink: np.ndarray) -> np.ndarray:
    """Ink with the scanner's contrast, uneven light and noise, as palette indices."""
    height, width = ink.shape
    noise = _noise_field()
    y, x = rng.randrange(noise.shape[0] // 2), rng.randrange(noise.shape[1] // 2)
    rows, cols = np.arange(y, y + height) % noise.shape[0], np.arange(x, x + width) % noise.shape[1]
    light = np.linspace(0, rng.uniform(-16, 16), width)[None] + np.linspace(0, rng.uniform(-16, 16), height)[:, None]
    contrast, strength = rng.uniform(0.72, 0.88), rng.uniform(1, 7)
    page = ink * np.float32(contrast) + noise[rows][:, cols] * np.float32(strength) + light.astype(np.float32)
    return np.clip(page + 24, 0, 255).astype(np.uint8)


@functools.cache
def _noise_field() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((512, 512), np.float32)


def _palette(rng: random.Random) -> list[int]:
    """Colours from the paper's at 0 to the ink's at 255."""
    paper = [rng.randrange(222, 256) for _ in range(3)]
    ink = [rng.randrange(0, 80) for _ in range(3)]
    ramp = np.linspace(paper, ink, 256)
    return ramp.round().astype(int).ravel().tolist()


def _edges(tiles: int, pixels: int) -> list[int]:
    cells = tiles * CELLS
    return [round(cell * pixels / cells) for cell in range(cells + 1)]


def _clamp(low: int, high: int, shift: float) -> int:
    return max(low, min(high, round((low + high) / 2 + shift)))
