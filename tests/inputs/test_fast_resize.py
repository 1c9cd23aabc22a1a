"""`inputs.resize=opencv`: near the rule where it enlarges, the rule itself where it would shrink by much."""

import dataclasses
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.nvlm import get_config
from nvlm_jax.config import ConfigError, RunConfig, from_mapping
from nvlm_jax.inputs import fast_resize
from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER, Message, Sample
from nvlm_jax.inputs.example import ExampleBuilder
from nvlm_jax.inputs.tiling import choose_grid, cut_tiles


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


def test_what_shrinks_a_little_is_resized_here_too():
    off = levels_off(picture(500, 375), (3, 2), 401)[-1]
    assert 0 < off.max() <= 40 and (off <= 3).mean() > 0.9
    assert not levels_off(picture(502, 375), (3, 2), 401)[-1].any()


def test_samples_are_cut_as_the_config_says():
    config, tiles = from_mapping(RunConfig, get_config("arch=d,size=tiny,stage=sft").to_dict()), {}
    page, encoded = picture(60, 50), io.BytesIO()
    page.save(encoded, "PNG")
    messages = (Message("user", f"{IMAGE_PLACEHOLDER}\nWhat?"), Message("assistant", "A"))
    for way in ("pillow", "opencv"):
        builder = ExampleBuilder(dataclasses.replace(config.inputs, resize=way), config.model)
        tiles[way] = builder.build(Sample("s", messages, (encoded.getvalue(),))).tiles
        grid = choose_grid(*page.size, config.inputs.max_tiles, 64)
        assert np.array_equal(tiles[way], cut_tiles(page, grid, 64, config.inputs.thumbnail, way))
    assert not np.array_equal(tiles["pillow"], tiles["opencv"])


def test_the_version_named_is_the_one_that_is_tested():
    assert f"opencv-python-headless=={fast_resize.VERSION}\n" in Path("requirements-test.txt").read_text()


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
    fast_resize.require.cache_clear()
    with pytest.raises(ConfigError, match=r"inputs\.resize=opencv needs OpenCV: pip install opencv-python-headless=="):
        fast_resize.require()
