import sys

import numpy as np
import pytest
from PIL import Image

from nvlm_jax.inputs import fast_resize
from nvlm_jax.inputs.tiling import cut_tiles


def picture(width, height):
    """Smooth shapes with some edges, as photographs have."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = [np.sin(20 * x + 9 * y), np.cos(31 * y - 5 * x), np.sign(np.sin(12 * x * y + 3 * x))]
    return Image.fromarray(np.uint8(np.stack(waves, -1) * 90 + 128))


@pytest.mark.parametrize(
    ("size", "out", "most", "within_1"),
    [((500, 375), (1344, 896), 25, 0.9), ((1500, 900), (448, 448), 12, 0.95), ((300, 1200), (448, 448), 25, 0.9)],
)
def test_it_is_near_pillow_larger_smaller_and_both_at_once(size, out, most, within_1):
    image = picture(*size)
    off = np.abs(
        np.asarray(image.resize(out, Image.Resampling.BICUBIC), np.int16) - fast_resize.resize(np.asarray(image), *out)
    )
    assert off.max() <= most and (off <= 1).mean() > within_1


def test_a_flat_picture_stays_flat_up_to_its_edges():
    flat = np.full((3, 700, 3), 77, np.uint8)
    assert (fast_resize.resize(flat, 448, 448) == 77).all()
    assert (fast_resize.resize(flat[:1, :1], 64, 64) == 77).all()


def test_tiles_are_cut_alike_whichever_way():
    image = picture(640, 400)
    exact, fast = (cut_tiles(image, (3, 2), 64, True, way) for way in ("pillow", "opencv"))
    assert exact.shape == fast.shape == (7, 64, 64, 3) and exact.dtype == fast.dtype == np.uint8
    assert np.abs(exact.astype(int) - fast).mean() < 1 and not np.array_equal(exact, fast)


def test_without_opencv_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"inputs\.resize=opencv needs OpenCV: pip install opencv-python-headless=="):
        fast_resize.resize(np.zeros((4, 4, 3), np.uint8), 8, 8)
