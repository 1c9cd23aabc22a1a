"""Pictures stored turned: all tags, in all formats that carry one, come out as a viewer shows them, turned once."""

import io
import os
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from nvlm_jax.inputs import tiling
from nvlm_jax.inputs.errors import ImageError
from nvlm_jax.inputs.tiling import choose_grid, cut_tiles, image_size, open_header, open_image, oriented_size

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "images"
STORE = {6: 8, 8: 6}  # to store what a tag turns upright, it is turned by the inverse; the other turns are their own
FORMATS = {
    "JPEG": {"quality": 95},
    "MPO": {"quality": 95},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "TIFF lzw": {"compression": "tiff_lzw"},
    "TIFF jpeg": {"compression": "jpeg"},
}


def upright(width=96, height=32) -> Image.Image:
    """Four corners of four colours."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 255)
    return Image.fromarray(pixels)


def stored(tag: int, image: Image.Image | None = None) -> Image.Image:
    image = image or upright()
    return image.transpose(tiling.TURNS[STORE.get(tag, tag)]) if tag > 1 else image


def exif(tag: int) -> Image.Exif:
    held = Image.Exif()
    held[0x0112] = tag
    return held


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def xmp(tag: int) -> bytes:
    return (f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="{tag}"/></x:xmpmeta>').encode()


def assert_upright(data: bytes, image: Image.Image | None = None) -> None:
    image = image or upright()
    header = open_header(data)
    assert image_size(data) == oriented_size(header) == image.size
    for opened in (open_image(data), open_image(header)):
        assert opened.size == image.size
        assert abs(np.asarray(opened).astype(int) - np.asarray(image).astype(int)).mean() < 6


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("tag", range(1, 9))
def test_every_tag_in_every_format(kind, tag):
    assert_upright(encoded(stored(tag), kind.split()[0], exif=exif(tag), **FORMATS[kind]))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("tag", [3, 6, 7])
def test_xmp_counts_where_exif_says_nothing(kind, tag):
    options = {"xmp": xmp(tag)} | {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    if kind == "TIFF":
        options = {"tiffinfo": {700: xmp(tag)}}
    if kind == "PNG":
        data = with_chunk(encoded(stored(tag), kind), b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(tag), early=True)
        assert_upright(data)
        return
    assert_upright(encoded(stored(tag), kind, **options))


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("chunk", ["exif", "xmp"])
def test_a_png_may_say_it_behind_its_pixels(tag, chunk):
    if chunk == "exif":
        data = with_chunk(encoded(stored(tag), "PNG"), b"eXIf", exif(tag).tobytes().removeprefix(b"Exif\0\0"))
    else:
        data = with_chunk(encoded(stored(tag), "PNG"), b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(tag))
    assert_upright(data)


def with_chunk(png: bytes, kind: bytes, data: bytes, early: bool = False) -> bytes:
    """The PNG with one chunk more: behind its header, or before its end."""
    place = 33 if early else len(png) - 12
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return png[:place] + chunk + png[place:]


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "I;16", "1", "LA"])
@pytest.mark.parametrize("tag", [2, 6])
def test_tiffs_of_other_pixels(mode, tag):
    image = Image.fromarray(np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[:, None], 8, 1))  # 8 wide, 24 high
    if mode == "I;16":
        turned = Image.fromarray(np.asarray(stored(tag, image)).astype(np.uint16) << 8)
    else:
        turned = stored(tag, image.convert(mode) if mode != "CMYK" else image.convert("RGB").convert("CMYK"))
    expected = image if mode == "I;16" else turned.transpose(tiling.TURNS[tag]).convert("L")
    assert_upright(encoded(turned, "TIFF", exif=exif(tag)), expected.convert("RGB"))


def test_the_planned_tiles_are_those_that_are_cut():
    for tag in range(1, 9):
        for kind in FORMATS:
            data = encoded(stored(tag), kind.split()[0], exif=exif(tag), **FORMATS[kind])
            grid = choose_grid(*image_size(data), 6, 16)
            assert grid == (3, 1)
            tiles = cut_tiles(open_image(data), grid, 16)
            assert tiles.shape[0] == 4 and tiles[0, 2, 2].argmax() == 0 and tiles[2, 2, -2].argmax() == 1


def test_a_tiff_of_another_maker():
    data = (GOLDENS / "orientation6.tif").read_bytes()
    image = open_image(data)
    assert image.size == image_size(data) == (40, 60)
    once = Image.open(io.BytesIO(data))
    assert once.tag_v2[0x0112] == 6
    once.load()  # Pillow turns it itself
    np.testing.assert_array_equal(np.asarray(image), np.asarray(once.convert("RGB")))


@pytest.mark.parametrize("tag", [0, 9, 65535])
def test_tags_that_mean_nothing_turn_nothing(tag):
    for kind in ("JPEG", "PNG", "TIFF"):
        assert image_size(encoded(upright(), kind, exif=exif(tag))) == (96, 32)


def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ImageError, match="no regular one"):
        open_header(tmp_path / "a.png")
