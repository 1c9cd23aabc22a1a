"""`inputs.resize=opencv`: near the rule where it enlarges, the rule itself where it would shrink by much."""

import sys

import numpy as np
import pytest
from PIL import Image

from nvlm_jax.config import ConfigError
from nvlm_jax.inputs import fast_resize
from nvlm_jax.inputs.tiling import cut_tiles


def picture(width: int, height: int) -> Image.Image:
    """Smooth shapes with some edges, as photographs have."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = [np.sin(20 * x + 9 * y), np.cos(31 * y - 5 * x), np.sign(np.sin(12 * x * y + 3 * x))]
    return Image.fromarray(np.uint8(np.stack(waves, -1) * 90 + 128))


def levels_off(image: Image.Image, grid: tuple[int, int], tile: int) -> np.ndarray:
    exact, fast = (cut_tiles(image, grid, tile, True, way).astype(int) for way in ("pillow", "opencv"))
    assert exact.shape == fast.shape == (7, tile, tile, 3)
    return np.abs(exact - fast)


def test_an_enlarged_picture_is_a_few_levels_off():
    off = levels_off(picture(500, 375), (3, 2), 448)
    assert 0 < off.max() <= 25 and (off <= 1).mean() > 0.9


def test_what_shrinks_by_much_is_the_rules_own():
    off = levels_off(picture(640, 400), (3, 2), 256)
    assert off[:-1].any() and not off[-1].any()  # tiles are enlarged, the thumbnail is not
    assert not levels_off(picture(1500, 900), (3, 2), 64).any()


def test_tiles_do_not_share_memory_with_those_of_the_next_picture():
    first = cut_tiles(picture(100, 80), (3, 2), 64, True, "opencv")
    before = first.copy()
    cut_tiles(picture(80, 100), (3, 2), 64, True, "opencv")
    assert np.array_equal(first, before)


def test_a_flat_picture_stays_flat_up_to_its_edges():
    flat = Image.new("RGB", (3, 70), (77, 78, 79))
    assert (cut_tiles(flat, (1, 6), 64, True, "opencv") == (77, 78, 79)).all()


def test_without_opencv_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match=r"inputs\.resize=opencv needs OpenCV: pip install opencv-python-headless=="):
        fast_resize.require()
