import numpy as np
import PIL
import pyarrow
import pytest
from PIL import Image

from nvlm_jax.inputs import resample, tiling
from nvlm_jax.inputs.tiling import cut_tiles

# Larger, smaller, one of each, down first (Pillow 13), one line, one pixel, sides that stay.
SIZES = [
    (500, 375),
    (1500, 900),
    (300, 1200),
    (1000, 40),
    (90, 2000),
    (700, 1),
    (1, 700),
    (1, 1),
    (448, 900),
    (896, 448),
]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def by_pillow(image: Image.Image, cols: int, rows: int, size: int) -> np.ndarray:
    """uint8 [T, size, size, 3]: resized as a whole, each tile cropped from it."""
    whole = image.resize((cols * size, rows * size), Image.Resampling.BICUBIC)
    corners = [(x * size, y * size) for y in range(rows) for x in range(cols)]
    return np.stack([np.asarray(whole.crop((x, y, x + size, y + size))) for x, y in corners])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("grid", [(1, 1), (3, 2), (1, 6)])
def test_every_pixel_is_pillows(size, grid):
    image, cols, rows = noise(*size), *grid
    tiles = np.empty((rows, cols, 448, 448, 3), np.uint8)
    resample.resize(image, tiles)
    assert np.array_equal(tiles.reshape(-1, 448, 448, 3), by_pillow(image, cols, rows, 448))


def test_every_pixel_is_pillows_at_any_size():
    random = np.random.default_rng(1)
    for seed in range(150):
        width, height, size = (int(random.integers(1, 300)) for _ in range(3))
        image = noise(width, height, seed)
        tiles = np.empty((1, 1, size, size, 3), np.uint8)
        resample.resize(image, tiles)
        assert np.array_equal(tiles[0], by_pillow(image, 1, 1, size)), (width, height, size)


@pytest.mark.parametrize("down_first", [True, False])
def test_the_order_of_the_passes_shows_in_the_pixels(monkeypatch, down_first):
    monkeypatch.setattr(resample, "DOWN_FIRST", down_first)
    image, tiles = noise(90, 2000), np.empty((1, 1, 448, 448, 3), np.uint8)
    resample.resize(image, tiles)
    pillow_goes_down_first = int(PIL.__version__.split(".")[0]) >= 13
    assert np.array_equal(tiles[0], by_pillow(image, 1, 1, 448)) == (down_first == pillow_goes_down_first)


def test_a_large_image_whose_memory_is_of_several_pieces_is_read_too():
    image, tiles = noise(2500, 2000), np.empty((2, 3, 448, 448, 3), np.uint8)
    with pytest.raises(ValueError, match="not contiguous"):
        pyarrow.array(image)
    resample.resize(image, tiles)
    assert np.array_equal(tiles.reshape(-1, 448, 448, 3), by_pillow(image, 3, 2, 448))


def test_tiles_of_either_way_are_the_same(monkeypatch):
    image, made = noise(640, 480), []
    for large in (0, 10**9):
        monkeypatch.setattr(tiling, "LARGE", large)
        made.append(cut_tiles(image, (3, 2), 56))
    assert made[0].shape == (7, 56, 56, 3) and np.array_equal(*made)


def test_weights_of_a_pixel_add_to_one():
    for size, resized in ((375, 896), (2200, 448), (448, 448), (1, 7)):
        first, number, weight = resample.weights(size, resized)
        assert (first >= 0).all() and (first + number <= size).all()
        np.testing.assert_allclose(weight.sum(1) / 2.0**resample.POINT, 1, atol=1e-5)  # each rounded to 2**-22
