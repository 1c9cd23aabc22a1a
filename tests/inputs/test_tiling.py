import doctest
import io
import pathlib
import random
import struct
import zlib
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from nvlm_jax.inputs import tags, tiling
from nvlm_jax.inputs.errors import ImageError
from nvlm_jax.inputs.tiling import choose_grid, cut_tiles, grids, image_size, open_image, tile_count

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "hf"


def test_grids_of_golden_sizes(golden):
    document = golden("tiling_visible.json")
    assert len(document["cases"]) == 150
    for case in document["cases"]:
        grid = choose_grid(case["width"], case["height"], case["max_tiles"], document["tile_size"])
        count = tile_count(grid, document["use_thumbnail"])
        assert (*grid, count, count > grid[0] * grid[1]) == (
            *(case["cols"], case["rows"]),
            *(case["n_tiles"], case["has_thumbnail"]),
        ), case


def test_tiles_of_golden_images_are_equal_bit_for_bit():
    data = np.load(GOLDENS / "tiles.npz")
    for i in range(len(data["params"])):
        image = Image.fromarray(data[f"image{i}"])
        grid = choose_grid(*image.size, 6, 56)
        assert grid == tuple(data[f"grid{i}"])
        np.testing.assert_array_equal(cut_tiles(image, grid, 56), data[f"tiles{i}"])


def by_the_rule(width, height, max_tiles, tile):
    """The rule in exact terms: of the grids whose difference, correctly rounded, is least, the first in order of tiles;
    or the last with fewer than twice the image's pixels, if there is one behind it."""
    candidates = [(c, r) for c in range(1, max_tiles + 1) for r in range(1, max_tiles + 1) if c * r <= max_tiles]
    candidates.sort(key=lambda g: g[0] * g[1])
    difference = {g: float(abs(Fraction(width / height) - Fraction(g[0] / g[1]))) for g in candidates}
    nearest = [g for g in candidates if difference[g] == min(difference.values())]
    large = [g for g in nearest[1:] if Fraction(tile * tile * g[0] * g[1], 2) < width * height]
    return large[-1] if large else nearest[0]


def test_choose_grid_is_the_rule():
    rng = random.Random(1)
    for _ in range(4000):
        tile, limit = rng.choice((56, 64, 448)), rng.randint(1, 12)
        if rng.random() < 0.5:  # ratios on a grid or midway between two of them, at sizes around the area limit
            (c, r), (c2, r2) = rng.choice(grids(limit)), rng.choice(grids(limit))
            ratio = (Fraction(c, r) + Fraction(c2, r2)) / 2
            scale = rng.randint(1, 2 * tile)
            width, height = ratio.numerator * scale, ratio.denominator * scale
        else:
            width, height = (round(2 ** rng.uniform(0, 12)) for _ in range(2))
        assert choose_grid(width, height, limit, tile) == by_the_rule(width, height, limit, tile), (
            width,
            height,
            limit,
        )


def test_the_area_rule_at_its_edge():
    # 2:2 is taken above half of (2 * 448)^2 pixels; 633^2 is below it, 634^2 above.
    assert choose_grid(633, 633) == (1, 1)
    assert choose_grid(634, 634) == (2, 2)


def test_order_within_a_tile_count_cannot_matter():
    """Two grids of one count with different ratios are never both nearest, so any order among them gives one result."""
    for limit in range(1, 25):
        ratios = {Fraction(c, r) for c, r in grids(limit)}
        for c, r in grids(limit):
            for c2, r2 in grids(limit):
                if c * r == c2 * r2 and c < c2:
                    middle = (Fraction(c, r) + Fraction(c2, r2)) / 2
                    assert min(abs(middle - x) for x in ratios) < Fraction(c2, r2) - middle


def test_all_14_grids_of_six_tiles_occur():
    found = {choose_grid(c * 448, r * 448) for c in range(1, 9) for r in range(1, 9)}
    assert len(grids(6)) == 14 and found == set(grids(6))


def test_docstring_examples():
    for module in (tiling, tags):
        failed, tried = doctest.testmod(module)
        assert tried and not failed


@pytest.mark.parametrize("arguments", [(0, 5), (5, 0), (5, 5, 0), (5, 5, 6, 0)])
def test_impossible_sizes_are_errors(arguments):
    with pytest.raises(ValueError, match="at least 1"):
        choose_grid(*arguments)


def test_tiles_are_cut_row_by_row_and_the_thumbnail_is_last():
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3).repeat(8, 0).repeat(8, 1)
    image = Image.fromarray(pixels).convert("RGB")
    tiles = cut_tiles(image, (3, 2), 8)
    assert tiles.shape == (7, 8, 8, 3) and tiles.dtype == np.uint8
    assert [int(tile[0, 0, 0]) for tile in tiles[:6]] == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(tiles[6], np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC)))
    assert cut_tiles(image, (3, 2), 8, thumbnail=False).shape[0] == 6
    assert cut_tiles(image, (1, 1), 8).shape[0] == 1


def encoded(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
GRAY = Image.fromarray(RAMP)
COLOUR = Image.fromarray(np.stack([RAMP, 255 - RAMP, RAMP // 2], -1))


def with_alpha() -> Image.Image:
    image = COLOUR.convert("RGBA")
    image.putalpha(Image.fromarray(np.where(RAMP > 100, 255, 0).astype(np.uint8)))
    return image


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_formats(format):
    options = {"lossless": True} if format == "WEBP" else {}
    np.testing.assert_array_equal(np.asarray(open_image(encoded(GRAY, format, **options)))[:, :, 0], RAMP)


def sixteen_bits() -> bytes:
    return encoded(Image.fromarray(RAMP.astype(np.uint16) * 256 + 77), "PNG")


def test_plain_files_come_back_as_they_are():
    np.testing.assert_array_equal(np.asarray(open_image(encoded(COLOUR, "PNG"))), np.asarray(COLOUR))
    np.testing.assert_array_equal(np.asarray(open_image(encoded(GRAY, "PNG")))[:, :, 1], RAMP)
    near = np.asarray(open_image(encoded(COLOUR.resize((64, 48)), "JPEG", quality=95))).astype(int)
    assert abs(near - np.asarray(COLOUR.resize((64, 48)))).mean() < 5


def test_sixteen_bits_keep_their_upper_eight():
    np.testing.assert_array_equal(np.asarray(open_image(sixteen_bits()))[:, :, 0], RAMP)


def test_cmyk_becomes_rgb():
    cmyk = Image.new("CMYK", (8, 6), (0, 255, 255, 0))
    red = np.asarray(open_image(encoded(cmyk, "JPEG", quality=95))).reshape(-1, 3).mean(0)
    assert red[0] > 230 and red[1:].max() < 30


def test_palettes_are_looked_up_and_their_transparent_colour_is_white():
    palette = COLOUR.quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(open_image(encoded(palette, "PNG"))), expected)
    seen = np.asarray(open_image(encoded(palette, "PNG", transparency=3)))
    clear = np.asarray(palette) == 3
    assert clear.any() and (seen[clear] == 255).all()
    np.testing.assert_array_equal(seen[~clear], expected[~clear])


def test_the_transparent_colour_of_an_rgb_file_is_white():
    clear = (0, 255, 0)  # that of the first pixel
    seen = np.asarray(open_image(encoded(COLOUR, "PNG", transparency=clear)))
    assert seen[0, 0].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(seen[1:], np.asarray(COLOUR)[1:])


def test_alpha_is_laid_on_white():
    seen = np.asarray(open_image(encoded(with_alpha(), "PNG")))
    np.testing.assert_array_equal(seen[RAMP > 100], np.asarray(COLOUR)[RAMP > 100])
    assert (seen[RAMP <= 100] == 255).all()
    half = Image.new("LA", (2, 2), (0, 128))
    assert abs(np.asarray(open_image(encoded(half, "PNG"))).astype(int) - 127).max() <= 1


def test_of_an_animation_the_first_frame_counts():
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)
    assert np.asarray(open_image(data))[2, 2].tolist() == [255, 0, 0]


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_pixels_and_size(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(COLOUR.resize((40, 24), 0), format, exif=exif)
    image = open_image(data)
    assert image.size == image_size(data) == ((24, 40) if orientation >= 5 else (40, 24))
    reference = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    np.testing.assert_array_equal(np.asarray(image), np.asarray(reference))


def test_an_icc_profile_changes_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()  # would turn all colours
    image = Image.fromarray(np.arange(3 * 64 * 48, dtype=np.uint8).reshape(48, 64, 3))
    for format in ("PNG", "JPEG", "TIFF"):
        plain, profiled = io.BytesIO(), io.BytesIO()
        image.save(plain, format)
        image.save(profiled, format, icc_profile=profile)
        assert Image.open(profiled).info["icc_profile"] == profile
        np.testing.assert_array_equal(open_image(profiled.getvalue()), open_image(plain.getvalue()))


@pytest.mark.parametrize("size", [(1, 500), (500, 1), (1, 1), (3, 2000)])
def test_extreme_shapes(size):
    data = encoded(Image.new("RGB", size, "gray"), "PNG")
    grid = choose_grid(*image_size(data), 6, 16)
    assert cut_tiles(open_image(data), grid, 16).shape[0] == tile_count(grid)


def test_size_is_read_from_the_header_alone():
    data = encoded(Image.new("RGB", (600, 400)), "PNG")
    head = data[:60]
    assert image_size(head) == (600, 400)
    with pytest.raises(ImageError):
        open_image(head)


def test_paths_and_pillow_images_are_taken(tmp_path):
    file = tmp_path / "page.png"
    file.write_bytes(encoded(COLOUR, "PNG"))
    for source in (file, str(file), COLOUR, with_alpha().convert("RGB")):
        np.testing.assert_array_equal(np.asarray(open_image(source)), np.asarray(COLOUR))


def truncated_jpeg() -> bytes:
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)), "JPEG")
    return data[: len(data) // 2]


def flipped_png() -> bytes:
    data = bytearray(encoded(COLOUR.resize((64, 64)), "PNG"))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


BROKEN = {
    "nothing": b"",
    "zeros": bytes(1000),
    "text": b"<html>404</html>",
    "truncated jpeg": truncated_jpeg(),
    "truncated png": encoded(COLOUR, "PNG")[:-30],
    "flipped byte": flipped_png(),
    "header only": b"\x89PNG\r\n\x1a\n",
    "other format": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_bytes_are_unreadable(name):
    with pytest.raises(ImageError, match="expected a whole image") as caught:
        open_image(BROKEN[name])
    assert caught.value.reason == "unreadable_image"


def png_that_claims(width, height) -> bytes:
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(9_500, 9_500), (60_000, 60_000)])
def test_bombs_are_refused_before_decoding(size):
    for function in (image_size, open_image):
        with pytest.raises(ImageError, match="pixels") as caught:
            function(png_that_claims(*size))
        assert caught.value.reason == "image_too_large"
    assert size[0] * size[1] > tiling.MAX_PIXELS


def test_floating_point_pixels_are_refused():
    data = encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(ImageError, match="8 or 16 bits") as caught:
        open_image(data)
    assert caught.value.reason == "unsupported_pixels"
