"""A picture of what dynamic high resolution does: a generated page, its tiles, the thumbnail, and their tags.

    page_tiles(sample, inputs, tile_size) -> Pillow image      write_picture(path, inputs, tile_size)
"""

from __future__ import annotations

import pathlib

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipelines.generated.samples import generate
from nvlm_jax.config import InputConfig
from nvlm_jax.inputs.batch import Sample
from nvlm_jax.inputs.tags import tile_tags
from nvlm_jax.inputs.tiling import choose_grid, cut_tiles, open_image

PAGE = ("qa", "train", 0, 127)  # variant, split, seed and index of the page that `write_picture` draws
GRID = (3, 2)
COLOURS = 64  # of the PNG
SIDE, GAP, CAPTION, MARGIN = 192, 16, 26, 24  # pixels: a tile as drawn, between tiles, under one, around all
INK, SOFT, CUT, BACK = "#1d2733", "#5c6b7a", "#c2570c", "#ffffff"
FONT = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def write_picture(path: pathlib.Path, inputs: InputConfig, tile_size: int) -> None:
    """Draw the same generated page at any call and write it as a small PNG."""
    picture = page_tiles(generate(*PAGE, grids=(GRID,), tile=tile_size), inputs, tile_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, "PNG", optimize=True)


def page_tiles(sample: Sample, inputs: InputConfig, tile_size: int) -> Image.Image:
    """The sample's first image with the lines that it is cut along, then its tiles and thumbnail over their tags."""
    page = open_image(sample.images[0])
    cols, rows = grid = choose_grid(*page.size, inputs.max_tiles, tile_size)
    tiles = cut_tiles(page, grid, tile_size, inputs.thumbnail, inputs.resize)
    tags = tile_tags(*grid, inputs.tile_tags, inputs.thumbnail_tag, tile_size, inputs.thumbnail)
    step, height = SIDE + GAP, rows * (SIDE + CAPTION + GAP) - GAP
    tiles_left = MARGIN + cols * SIDE + 4 * GAP
    whole_left = tiles_left + cols * step + 2 * GAP
    shown_whole = len(tiles) > cols * rows
    width = (whole_left + SIDE if shown_whole else whole_left - 3 * GAP) + MARGIN
    canvas = Image.new("RGB", (width, 2 * MARGIN + CAPTION + height), BACK)
    draw = ImageDraw.Draw(canvas)

    top = MARGIN + CAPTION
    _head(draw, MARGIN, f"page, {page.width} x {page.height} pixels")
    _head(draw, tiles_left, f"{cols} x {rows} tiles of {tile_size} x {tile_size} pixels")
    _place(canvas, page, MARGIN, top, cols * SIDE, rows * SIDE)
    _cuts(draw, MARGIN, top, cols, rows)
    for i in range(cols * rows):
        left, upper = tiles_left + i % cols * step, top + i // cols * (SIDE + CAPTION + GAP)
        _tile(canvas, tiles[i], tags[i], left, upper)
    if shown_whole:
        _head(draw, whole_left, "thumbnail")
        _tile(canvas, tiles[-1], tags[-1], whole_left, top)
    return canvas


def _head(draw: ImageDraw.ImageDraw, left: int, text: str) -> None:
    draw.text((left, MARGIN - 4), text, SOFT, ImageFont.truetype(FONT / "DejaVuSans.ttf", 15))


def _tile(canvas: Image.Image, pixels: np.ndarray, tag: str, left: int, top: int) -> None:
    _place(canvas, Image.fromarray(pixels), left, top, SIDE, SIDE)
    fonts = (ImageFont.truetype(FONT / "DejaVuSansMono.ttf", size) for size in range(15, 6, -1))
    font = next(font for font in fonts if font.getlength(tag) <= SIDE or font.size == 7)
    ImageDraw.Draw(canvas).text((left + SIDE / 2, top + SIDE + CAPTION / 2 + 2), tag, INK, font, anchor="mm")


def _place(canvas: Image.Image, image: Image.Image, left: int, top: int, width: int, height: int) -> None:
    canvas.paste(image.resize((width, height), Image.Resampling.NEAREST), (left, top))
    ImageDraw.Draw(canvas).rectangle((left - 1, top - 1, left + width, top + height), outline=SOFT)


def _cuts(draw: ImageDraw.ImageDraw, left: int, top: int, cols: int, rows: int) -> None:
    right, bottom = left + cols * SIDE, top + rows * SIDE
    for x in range(left + SIDE, right, SIDE):
        for y in range(top, bottom, 12):
            draw.line((x, y, x, min(y + 6, bottom)), CUT, 2)
    for y in range(top + SIDE, bottom, SIDE):
        for x in range(left, right, 12):
            draw.line((x, y, min(x + 6, right), y), CUT, 2)
