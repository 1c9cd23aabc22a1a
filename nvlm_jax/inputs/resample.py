"""Pillow's bicubic resize, to the pixel, with loops that the processor's vector units can take.

Pillow resizes in two passes, each rounded to 8 bits, with weights of 22 bits after the point (its file
src/libImaging/Resample.c). Integer sums have one result however they are ordered, so the same weights give the same
pixels. Pillow goes pixel by pixel; here whole rows are multiplied by one weight, and for the pass across a strip of
rows is first laid on its side. Compiled by Numba when first called on a machine, and kept on disk from then on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numba
import numpy as np
import PIL
from PIL import Image

from nvlm_jax.inputs.memory import rgbx

SUPPORT = 2.0  # pixels that the bicubic kernel reaches to each side
POINT = 22  # bits of a weight after the binary point: 32, less 8 of a pixel and 2 for sums beyond its range
HALF = 1 << (POINT - 1)
STRIP = 32  # rows laid on their side at a time: a few vector registers of sums
# Pillow 13 goes down first where that takes away far more rows than going across takes away columns.
DOWN_FIRST = int(PIL.__version__.split(".")[0]) >= 13

Weights = tuple[np.ndarray, np.ndarray, np.ndarray]


def resize(image: Image.Image, tiles: np.ndarray) -> None:
    """Fill `tiles` with the image as Pillow's `resize(..., Resampling.BICUBIC)` makes it, cut.

    Args:
        image: RGB.
        tiles: uint8 [rows, cols, height, width, 3], contiguous; the image is resized to `cols * width` times
            `rows * height` pixels.
    """
    rows, cols, height, width, _ = tiles.shape
    fewer_rows, fewer_columns = image.height - rows * height, image.width - cols * width
    pixels = rgbx(image).view(np.uint32)[..., 0]
    if DOWN_FIRST and fewer_rows > 2 * max(fewer_columns, 0):
        whole = _across(_down(pixels, rows * height), cols * width)
        tiles[:] = whole.reshape(rows, height, cols, width, 3).swapaxes(1, 2)
    else:
        _down_to(_across(pixels, cols * width), tiles.reshape(rows, cols, height, 3 * width))


def _across(image: np.ndarray, width: int) -> np.ndarray:
    """uint32 [h, w] -> uint8 [h, width, 3]."""
    resized = np.empty((len(image), width, 3), np.uint8)
    _resize_across(image, *weights(image.shape[1], width), resized)
    return resized


def _down(image: np.ndarray, height: int) -> np.ndarray:
    """uint32 [h, w] -> uint32 [height, w]."""
    resized = np.empty((height, image.shape[1]), np.uint32)
    _down_to(image, resized.view(np.uint8)[None, None])
    return resized


def _down_to(image: np.ndarray, lines: np.ndarray) -> None:
    """[h, ...] to uint8 [rows, cols, height, bytes]."""
    flat = image.reshape(len(image), -1).view(np.uint8)
    _resize_down(flat, *weights(len(image), lines.shape[0] * lines.shape[2]), lines)


@functools.lru_cache(maxsize=4096)
def weights(size: int, resized: int) -> Weights:
    """Which pixels of a line of `size` make each pixel of a line of `resized`, and by what weights.

    Every operation is double precision and in Pillow's order: a weight that rounds the other way is another pixel.

    Returns:
        first: int32 [resized], the first pixel that counts.
        number: int32 [resized], how many do.
        weight: int32 [resized, most], in 1 / 2**22; 0 from `number` on.
    """
    scale = size / resized
    stretch = max(scale, 1.0)
    support = SUPPORT * stretch
    centre = (np.arange(resized) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int32), 0)
    number = np.minimum((centre + support + 0.5).astype(np.int32), size) - first
    tap = np.arange(math.ceil(support) * 2 + 1)
    weight = _bicubic((tap + first[:, None] - centre[:, None] + 0.5) * (1.0 / stretch))
    weight[tap >= number[:, None]] = 0.0
    weight /= np.cumsum(weight, axis=1)[:, -1:]  # a cumulative sum adds in order, np.sum does not
    rounded = (weight * (1 << POINT) + np.where(weight < 0, -0.5, 0.5)).astype(np.int32)
    return first, number, rounded


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Keys's cubic kernel with a = -0.5."""
    x, a = np.abs(x), -0.5
    inner = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, inner, np.where(x < 2.0, outer, 0.0))


def _compiled(function: Callable) -> Callable:
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no directory that can be written to: compiled anew by each process
        return numba.njit(nogil=True)(function)


@_compiled
def _resize_across(image, first, number, weight, out):  # pragma: no cover, compiled
    """uint32 [h, w] -> `out`, uint8 [h, width, 3]."""
    side = np.zeros((image.shape[1], STRIP), np.uint32)
    lines = side.view(np.uint8)
    total, column = np.empty(STRIP * 4, np.int32), np.empty(STRIP * 4, np.uint8)
    for top in range(0, image.shape[0], STRIP):
        rows = min(STRIP, image.shape[0] - top)
        for row in range(rows):
            for x in range(image.shape[1]):
                side[x, row] = image[top + row, x]
        for x in range(out.shape[1]):
            _sum(lines, first[x], number[x], weight[x], total)
            _round(total, column)
            for row in range(rows):
                for colour in range(3):
                    out[top + row, x, colour] = column[4 * row + colour]


@_compiled
def _resize_down(image, first, number, weight, out):  # pragma: no cover, compiled
    """uint8 [h, cols * width * 3] -> `out`, uint8 [rows, cols, height, width * 3]."""
    total = np.empty(image.shape[1], np.int32)
    rows, cols, height, width = out.shape
    for row in range(rows):
        for y in range(height):
            line = row * height + y
            _sum(image, first[line], number[line], weight[line], total)
            for col in range(cols):
                _round(total[col * width : (col + 1) * width], out[row, col, y])


@_compiled
def _sum(lines, first, number, weight, total):  # pragma: no cover, compiled
    """`total`, int32 [n]: the weighted sum of `number` lines, uint8 [..., n], from line `first` on."""
    total[:] = np.int32(HALF)
    for tap in range(number):
        line, scale = lines[first + tap], weight[tap]
        for i in range(len(total)):
            total[i] += scale * np.int32(line[i])


@_compiled
def _round(total, pixels):  # pragma: no cover, compiled
    """`total`, int32 [n] in 1 / 2**22, as `pixels`, uint8 [n]."""
    for i in range(len(total)):
        pixels[i] = min(max(total[i] >> np.int32(POINT), np.int32(0)), np.int32(255))
