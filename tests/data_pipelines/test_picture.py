import dataclasses
import random

import numpy as np
import pytest
from PIL import Image

from data_pipelines import picture
from data_pipelines.generated.samples import generate
from nvlm_jax.config import InputConfig
from nvlm_jax.inputs.tiling import cut_tiles, open_image


def enlarged(tile: np.ndarray) -> np.ndarray:
    times = picture.SIDE // 64
    return tile.repeat(times, axis=0).repeat(times, axis=1)


def holds(canvas: np.ndarray, pixels: np.ndarray) -> bool:
    """Whether `pixels` stands somewhere in the canvas."""
    height, width = pixels.shape[:2]
    rows, columns = np.nonzero((canvas[: 1 - height, : 1 - width] == pixels[0, 0]).all(axis=2))
    places = zip(rows.tolist(), columns.tolist(), strict=True)
    return any((canvas[y : y + height, x : x + width] == pixels).all() for y, x in places)


@pytest.mark.parametrize("grid", [(1, 1), (2, 3)])
def test_the_picture_shows_every_tile_of_the_page(grid):
    sample = generate("qa", "train", 0, 3, grids=(grid,))
    drawn = np.asarray(picture.page_tiles(sample, InputConfig(), 64))
    tiles = cut_tiles(open_image(sample.images[0]), grid, 64)
    assert len(tiles) == grid[0] * grid[1] + (grid != (1, 1))
    assert all(holds(drawn, enlarged(tile)) for tile in tiles)
    absent = np.random.default_rng(0).permuted(enlarged(tiles[0]), axis=0)
    assert not holds(drawn, absent)


@pytest.mark.parametrize("style", ["1d", "box", "none"])
def test_tags_of_every_style_are_drawn(style):
    sample = generate("qa", "train", 0, 3, grids=((2, 1),))
    none, drawn = (
        np.asarray(picture.page_tiles(sample, dataclasses.replace(InputConfig(), tile_tags=tags), 64))
        for tags in ("none", style)
    )
    changed = np.nonzero((none != drawn).any(axis=2))[0]
    assert (len(changed) > 0) == (style != "none")
    below = picture.MARGIN + picture.CAPTION + picture.SIDE
    assert all(below < y < below + picture.CAPTION + 2 for y in changed)


def test_the_written_picture_is_small_and_always_the_same(tmp_path):
    random.seed(1)
    picture.write_picture(tmp_path / "images" / "one.png", InputConfig(), 64)
    random.seed(2)
    picture.write_picture(tmp_path / "two.png", InputConfig(), 64)
    one, two = (tmp_path / "images" / "one.png").read_bytes(), (tmp_path / "two.png").read_bytes()
    assert one == two and len(one) < 150_000
    assert Image.open(tmp_path / "two.png").width > 5 * picture.SIDE
