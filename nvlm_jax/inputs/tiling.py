"""Dynamic high resolution: an image of any size -> tiles of one size (paper, section 4.1; the rule is InternVL 1.5's).

encoded bytes -> open_image -> choose_grid -> cut_tiles -> uint8 [T, P, P, 3]
"""

from __future__ import annotations

import functools
import io
import os
import pathlib

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from nvlm_jax.inputs import fast_resize
from nvlm_jax.inputs.errors import ImageError, words

# Only these decoders run. Others that Pillow knows start programs (EPS) or are no single pictures.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
# Pixels of the largest image that is decoded: Pillow's own first limit. A few hundred bytes can claim more.
MAX_PIXELS = 89_478_485
# Bytes of tiles from which on compiled loops are worth the seconds that they take to compile or load.
LARGE = 2**19
NAMED = 200  # characters of a path, or of a decoder's words, in a message
# How to turn the stored picture into the one to look at, by EXIF orientation; from 5 on, width and height swap.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where a PNG's orientation may stand, in Pillow's words, and bytes of the largest such chunk that is read.
_PNG_METADATA = {"exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp"}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_METADATA = 1 << 20

ImageSource = bytes | str | pathlib.Path | Image.Image


@functools.cache
def grids(max_tiles: int) -> tuple[tuple[int, int], ...]:
    """Every grid (cols, rows) of 1 to `max_tiles` tiles, ordered by tile count."""
    sides = range(1, max_tiles + 1)
    found = [(cols, rows) for cols in sides for rows in sides if cols * rows <= max_tiles]
    return tuple(sorted(found, key=lambda grid: grid[0] * grid[1]))


@functools.lru_cache(maxsize=4096)
def choose_grid(width: int, height: int, max_tiles: int = 6, tile_size: int = 448) -> tuple[int, int]:
    """The grid (cols, rows) whose aspect ratio is nearest to the image's.

    Of equally near grids a later one (with more tiles) wins only if the image has more than half the grid's pixels.
    Ratios and their differences are double precision, and equal means equal there: a tie of exact numbers that
    rounding breaks is no tie, as in the code that trained the released model.

    >>> choose_grid(1600, 1200), choose_grid(800, 800), choose_grid(300, 300)
    ((3, 2), (2, 2), (1, 1))

    Raises:
        ValueError: a size or limit below 1.
    """
    if min(width, height, max_tiles, tile_size) < 1:
        got = f"width {width}, height {height}, max_tiles {max_tiles}, tile_size {tile_size}"
        raise ValueError(f"choose_grid: {got}; each must be at least 1")
    ratio = width / height
    best, best_difference = (1, 1), float("inf")
    for cols, rows in grids(max_tiles):
        difference = abs(ratio - cols / rows)
        large_enough = 2 * width * height > tile_size * tile_size * cols * rows
        if difference < best_difference or (difference == best_difference and large_enough):
            best, best_difference = (cols, rows), difference
    return best


def tile_count(grid: tuple[int, int], thumbnail: bool = True) -> int:
    """Tiles of an image on `grid`, with the thumbnail that an image of several tiles has."""
    regular = grid[0] * grid[1]
    return regular + (thumbnail and regular > 1)


def cut_tiles(
    image: Image.Image, grid: tuple[int, int], tile_size: int = 448, thumbnail: bool = True, resize: str = "pillow"
) -> np.ndarray:
    """Resize (bicubic, not keeping the ratio) to the grid's exact size and cut it row by row.

    Args:
        image: RGB, as `open_image` gives it.
        grid: (cols, rows).
        tile_size: P, pixels along a tile's side.
        thumbnail: append the whole image as one more tile if the grid has more than one.
        resize: pillow = the rule to the pixel | opencv = quicker, some levels off (`fast_resize.py`).

    Returns:
        uint8 [T, P, P, 3].
    """
    cols, rows = grid
    tiles = np.empty((tile_count(grid, thumbnail), tile_size, tile_size, 3), np.uint8)
    fast = resize == "opencv" and fast_resize.serves(image.size, cols * tile_size, rows * tile_size)
    pixels = fast_resize.pixels(image) if fast else None
    _fill(tiles[: rows * cols].reshape(rows, cols, *tiles.shape[1:]), image, pixels)
    if len(tiles) > rows * cols:
        _fill(tiles[None, -1:], image, pixels)
    return tiles


def _fill(tiles: np.ndarray, image: Image.Image, pixels: np.ndarray | None) -> None:
    """Resize the image, of which OpenCV may take the `pixels`, to all of `tiles`, uint8 [rows, cols, P, P, 3]."""
    rows, cols, size = tiles.shape[:3]
    if pixels is not None and fast_resize.serves(image.size, cols * size, rows * size):
        fast_resize.resize(pixels, tiles)
    elif tiles.size >= LARGE:
        from nvlm_jax.inputs import resample  # imports Numba, which small pictures do without

        resample.resize(image, tiles)
    else:
        whole = np.asarray(image.resize((cols * size, rows * size), Image.Resampling.BICUBIC))
        tiles[:] = whole.reshape(rows, size, cols, size, 3).swapaxes(1, 2)


def open_header(source: ImageSource) -> Image.Image:
    """The image with its header read and no pixel decoded.

    Raises:
        ImageError: `unreadable_image` or `image_too_large`.
    """
    if isinstance(source, Image.Image):
        image = source
    else:
        try:
            if not isinstance(source, bytes | str | os.PathLike):
                raise TypeError("bytes, a path or a Pillow image would be right")
            if not isinstance(source, bytes) and not pathlib.Path(source).is_file():  # a pipe would be waited for
                raise FileNotFoundError("no such file, or no regular one")
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            image = Image.open(file, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise ImageError("image_too_large", f"{_name(source)}: {words(error)}") from error
        except Exception as error:  # what a decoder throws at broken bytes is of any type
            raise _unreadable(source, error) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            "image_too_large", f"{_name(source)}: {width} x {height} pixels; at most {MAX_PIXELS:,} are decoded"
        )
    if min(width, height) < 1:
        raise ImageError("unreadable_image", f"{_name(source)}: {width} x {height} pixels; at least 1 x 1")
    return image


def oriented_size(image: Image.Image) -> tuple[int, int]:
    """Width and height after `open_image` has turned the image upright; decodes nothing."""
    width, height = image.size
    return (height, width) if _orientation(image) >= 5 and not _size_is_upright(image) else (width, height)


def image_size(source: ImageSource) -> tuple[int, int]:
    """Width and height of the image as `open_image` would return it, from its header alone.

    Raises:
        ImageError: as `open_header`.
    """
    return oriented_size(open_header(source))


def open_image(source: ImageSource) -> Image.Image:
    """Decode to an upright RGB picture of 8 bits.

    Its orientation is applied once (EXIF or XMP; Pillow does so for TIFF); of 16 bits the upper 8 are kept; transparent
    pixels are laid on white; of an animated image the first frame is taken.

    Args:
        source: encoded bytes, a path, or an image of Pillow (also one that `open_header` returned).

    Raises:
        ImageError: `unreadable_image`, `image_too_large` or `unsupported_pixels`.
    """
    image = open_header(source)
    try:
        orientation = 1 if image.format == "TIFF" else _orientation(image)  # Pillow turns TIFFs as it decodes them
        image.load()
        image = _to_rgb(image)
    except ImageError:
        raise
    except Exception as error:  # as in open_header
        raise _unreadable(source, error) from error
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        high = np.clip(np.asarray(image).astype(np.int32) >> 8, 0, 255)
        return Image.fromarray(high.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageError("unsupported_pixels", "floating-point pixels have no known range; store 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """Orientation 1 to 8 by EXIF, or by XMP where that says nothing, without decoding a pixel."""
    if image.format == "PNG" and not _PNG_METADATA & image.info.keys() and not _find_late_metadata(image):
        return 1  # Pillow would decode the whole file in search of it
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF is common in the wild and no reason to lose the picture
        return 1
    return value if value in TURNS else 1


def _size_is_upright(image: Image.Image) -> bool:
    """Whether Pillow swapped width and height when it read the header, as it does by a TIFF's own tag (not by XMP)."""
    return image.format == "TIFF" and image.tag_v2.get(ExifTags.Base.Orientation) in TURNS


def _find_late_metadata(image: Image.Image) -> bool:
    """Take up the EXIF and XMP that a PNG has behind its pixels, where tools that edit files put them."""
    file = getattr(image, "fp", None)
    if file is None:
        return False
    place = file.tell()
    try:
        file.seek(len(_PNG_SIGNATURE))
        while len(head := file.read(8)) == 8:
            size, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind == b"eXIf" and size <= _MAX_METADATA:
                image.info["exif"] = b"Exif\0\0" + file.read(size)
            elif kind == b"iTXt" and size <= _MAX_METADATA:
                keyword, _, rest = file.read(size).partition(b"\0")
                if keyword == b"XML:com.adobe.xmp" and rest[:1] == b"\0":  # not compressed
                    image.info["xmp"] = rest
            else:
                file.seek(size, io.SEEK_CUR)
            file.seek(4, io.SEEK_CUR)  # the checksum
    except (OSError, ValueError):
        return False
    finally:
        file.seek(place)
    return bool(_PNG_METADATA & image.info.keys())


def _unreadable(source: ImageSource, error: Exception) -> ImageError:
    unidentified = isinstance(error, UnidentifiedImageError)  # Pillow would name its file object
    what = "cannot identify image file" if unidentified else words(error)[:NAMED]
    expected = f"expected a whole image in one of {', '.join(FORMATS)}"
    return ImageError("unreadable_image", f"{_name(source)}: {what}; {expected}")


def _name(source: ImageSource) -> str:
    if isinstance(source, bytes):
        return f"image of {len(source)} bytes"
    if isinstance(source, Image.Image):
        return f"{source.format or 'Pillow'} image of {source.width} x {source.height} pixels"
    if isinstance(source, str | os.PathLike):
        return str(source)[:NAMED]  # a data URI may have been taken for a path
    return f"image of type {type(source).__name__}"
