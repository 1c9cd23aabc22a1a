"""Short numbers that stay near when texts or images do: word n-grams, MinHash, and a perceptual hash.

All are NumPy, and the same on every machine and in every run.
"""

from __future__ import annotations

import re
import zlib

import numpy as np
from PIL import Image

# Words; of scripts written without spaces, each character.
_WORDS = re.compile(r"[^\W\u3040-\u9fff\uac00-\ud7af]+|[\u3040-\u9fff\uac00-\ud7af]")
_MIX = np.uint64(0x9E3779B97F4A7C15)

GRAM = 5  # words of a shingle
MINIMA = 16  # numbers of a text's sketch
SAME_MINIMA = 12  # equal numbers from which on two texts count as near: about 3 of 4 shingles in common
_SALTS = (np.arange(1, MINIMA + 1, dtype=np.uint64) * _MIX) | np.uint64(1)

BITS = 256  # of an image's hash
NEAR_BITS = 32  # bits that two hashes of one picture may differ in; docs/data.md has what was measured
_SIDE, _LOW = 64, 16  # pixels of the reduced image's side, frequencies kept along each axis
_FLAT = 2.0  # levels of standard deviation below which an image has no structure to compare
_n, _k = np.arange(_SIDE), np.arange(_LOW)
_DCT = np.cos(np.pi * (2 * _n[None, :] + 1) * _k[:, None] / (2 * _SIDE)).astype(np.float32)


def word_hashes(text: str) -> np.ndarray:
    """uint64, one for each word, letters lower-cased and punctuation left out."""
    found = [zlib.crc32(word.encode(errors="surrogatepass")) for word in _WORDS.findall(text.lower())]
    return _mixed(np.array(found, np.uint64))


def grams(words: np.ndarray, n: int) -> np.ndarray:
    """uint64, one for each run of `n` words; none if there are fewer."""
    count = len(words) - n + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    total = np.zeros(count, np.uint64)
    for i in range(n):  # the place within the run counts; sums wrap around
        total = total * np.uint64(0x100000001B3) + words[i : i + count]
    return _mixed(total)


def text_sketch(text: str) -> np.ndarray:
    """MinHash of the text's shingles: uint32 [MINIMA]; of a text shorter than a shingle, of the whole."""
    words = word_hashes(text)
    found = grams(words, min(GRAM, max(len(words), 1)))
    if not len(found):
        return np.zeros(MINIMA, np.uint32)
    mixed = _mixed(found[:, None] * _SALTS[None, :])
    return (mixed.min(0) >> np.uint64(32)).astype(np.uint32)


def image_hash(image: Image.Image) -> np.ndarray | None:
    """The signs of the low frequencies of its brightness, against their median: uint64 [4]; None of a flat image.

    Size, compression, small changes of colour and brightness hardly change it; cropping and turning do.
    """
    image = image.reduce(max(min(image.size) // (2 * _SIDE), 1))  # whole factors are fast
    pixels = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)
    if pixels.std() < _FLAT:
        return None
    low = (_DCT @ pixels @ _DCT.T).ravel()
    low[0] = np.median(low[1:])  # the mean brightness says nothing
    return np.packbits(low > np.median(low)).view(np.uint64)


def distance(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Bits in which hashes differ: int [...] for uint64 [..., 4]."""
    counts = np.bitwise_count(one ^ others).astype(np.int64)
    return counts[..., 0] + counts[..., 1] + counts[..., 2] + counts[..., 3]  # faster than a sum over so short an axis


def _mixed(values: np.ndarray) -> np.ndarray:
    """Spread each number over all 64 bits (the finalizer of splitmix64)."""
    values = values + _MIX
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
