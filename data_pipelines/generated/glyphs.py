"""What generated pages are made of, split once and for all into `train` and `test`, and how it looks.

A held-out page must not be answerable from memory, so each word, three-digit number, two-digit bar value and
handwritten digit belongs to exactly one split, by a hash of itself (about 80 / 20). A word shares the split of its
reversal, because text-only samples ask for words spelled backwards.

Drawn things are grey masks, uint8 [h, w], 255 = full ink; `printed` and `handwritten` cache them by pixel size.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import string

import numpy as np
from PIL import Image, ImageFont

SPLITS = ("train", "test")
VOWELS = "AEIOU"
CONSONANTS = "".join(c for c in string.ascii_uppercase if c not in VOWELS)
# One string per place of a word: consonant-vowel-consonant and three shapes more, 5,460 words in all.
WORD_SHAPES = (
    (CONSONANTS, VOWELS, CONSONANTS),
    (VOWELS, CONSONANTS, VOWELS),
    (CONSONANTS, VOWELS, VOWELS),
    (VOWELS, CONSONANTS, CONSONANTS),
)
# Text faces that stay legible at 10 pixels, all from the files that matplotlib ships.
FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralBol.ttf",
    "cmb10.ttf",
    "cmr10.ttf",
    "cmss10.ttf",
    "cmtt10.ttf",
)
LABEL_FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSansMono-Bold.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSans.ttf")


def split_of(kind: str, key: str) -> str:
    """The split that owns `key`; `kind` only keeps the hashes of different things apart."""
    return "test" if hashlib.sha256(f"{kind}:{key}".encode()).digest()[0] % 5 == 0 else "train"


@functools.cache
def words(split: str) -> tuple[str, ...]:
    """The three-letter upper-case words of a split."""
    every = ("".join(letters) for shape in WORD_SHAPES for letters in itertools.product(*shape))
    return tuple(word for word in every if split_of("word", min(word, word[::-1])) == split)


@functools.cache
def numbers(split: str) -> tuple[str, ...]:
    """The numbers from 100 to 999 of a split."""
    return tuple(n for n in map(str, range(100, 1000)) if split_of("number", n) == split)


@functools.cache
def values(split: str) -> tuple[str, ...]:
    """The bar values from 10 to 99 of a split."""
    return tuple(v for v in map(str, range(10, 100)) if split_of("bar value", v) == split)


@functools.cache
def scans(split: str) -> dict[str, tuple[int, ...]]:
    """For each digit, the indices of a split's handwritten scans of it."""
    found: dict[str, list[int]] = {digit: [] for digit in string.digits}
    for index, digit in enumerate(_digits()[1]):
        if split_of("scan", str(index)) == split:
            found[str(digit)].append(index)
    return {digit: tuple(indices) for digit, indices in found.items()}


@functools.cache
def printed(font: str, character: str, height: int, limit: int) -> np.ndarray:
    """A printed character whose font's capitals are `height` pixels high; smaller if it would exceed `limit` pixels."""
    size = _size_of_capitals(font, height)
    while size > 4:
        mask, _ = _font(font, size).getmask2(character, mode="L")
        width, rows = mask.size
        if width <= limit and rows <= limit:
            return np.asarray(mask, np.uint8).reshape(rows, width)
        size -= 1
    raise ValueError(f"{character!r} in {font} does not fit into {limit} pixels; use larger tiles")


@functools.cache
def handwritten(index: int, height: int) -> np.ndarray:
    """Scan `index` of scikit-learn's digits (8 x 8), enlarged smoothly to `height` pixels a side."""
    scan = Image.fromarray((_digits()[0][index] * (255 / 16)).astype(np.uint8))
    enlarged = np.asarray(scan.resize((height, height), Image.Resampling.BICUBIC), np.float32)
    return np.clip(enlarged * 1.25, 0, 255).astype(np.uint8)


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # a second to import, and described pages never draw

    digits = load_digits()
    return digits.images, digits.target


@functools.cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", name), size)


@functools.cache
def _size_of_capitals(font: str, height: int) -> int:
    _, top, _, bottom = _font(font, 100).getbbox("H")
    return max(5, round(height * 100 / (bottom - top)))
