"""Samples of a dataset that repeat each other: in full, in their images nearly, or in their texts nearly.

Near ones are found by sorting: sketches that begin alike come to lie beside each other, once for each place to begin
at, and each is compared with its next NEIGHBOURS. That takes n log n and finds nearly all; what is counted is so, what
is missed is not counted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data_pipelines.sketches import MINIMA, NEAR_BITS, SAME_MINIMA, distance, text_sketch
from nvlm_jax.inputs.batch import Sample

NEIGHBOURS = 8
EXAMPLES = 20


@dataclasses.dataclass
class Sketches:
    """Of the samples of a shard, in order."""

    whole: list[int] = dataclasses.field(default_factory=list)  # a hash of texts and images, one a sample
    images: list[np.ndarray] = dataclasses.field(default_factory=list)
    image_of: list[int] = dataclasses.field(default_factory=list)  # the sample that shows it
    texts: list[np.ndarray] = dataclasses.field(default_factory=list)  # of samples without images
    text_of: list[int] = dataclasses.field(default_factory=list)

    def add(self, sample: Sample, hashes: Sequence[np.ndarray | None]) -> None:
        """Take up a sample; `hashes` are `image_hash` of its images."""
        number = len(self.whole)
        digest = hashlib.blake2b(digest_size=8)
        for part in (*(f"{m.role}\0{m.content}\0".encode() for m in sample.messages), *sample.images):
            digest.update(part)
        self.whole.append(int.from_bytes(digest.digest(), "little"))
        for found in hashes:
            if found is not None:
                self.images.append(found)
                self.image_of.append(number)
        if not sample.images:
            self.texts.append(text_sketch(" ".join(m.content for m in sample.messages)))
            self.text_of.append(number)

    def save(self, file: pathlib.Path) -> None:
        """Write as .npz."""
        np.savez(
            file,
            whole=np.array(self.whole, np.uint64),
            images=np.array(self.images, np.uint64).reshape(-1, 4),
            image_of=np.array(self.image_of, np.int64),
            texts=np.array(self.texts, np.uint32).reshape(-1, MINIMA),
            text_of=np.array(self.text_of, np.int64),
        )


def find(files: Sequence[pathlib.Path], ids: Sequence[str]) -> dict[str, Any]:
    """What repeats, as the report has it: of each kind how many samples repeat an earlier one, and EXAMPLES groups.

    Args:
        files: each shard's saved sketches, in order.
        ids: of every sample, in order.
    """
    parts, first = [], 0
    for file in files:
        with np.load(file, allow_pickle=False) as held:
            part = {name: held[name] for name in held.files}
        part["image_of"], part["text_of"] = part["image_of"] + first, part["text_of"] + first
        parts.append(part)
        first += len(part["whole"])
    whole, images, image_of, texts, text_of = (
        np.concatenate([part[name] for part in parts]) for name in ("whole", "images", "image_of", "texts", "text_of")
    )
    return {
        "same_id": _told(_same(np.array(ids, np.str_)), ids),
        "same_sample": _told(_same(whole), ids),
        "near_image": _told(near_images(images, image_of, len(whole)), ids),
        "near_text": _told(near_texts(texts, text_of, len(whole)), ids),
    }


def near_images(hashes: np.ndarray, owners: np.ndarray, samples: int) -> np.ndarray:
    """The first sample of each sample's group: int [samples]. `hashes` is uint64 [m, 4], `owners` int [m]."""

    def near(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return distance(hashes[a], hashes[b]) <= NEAR_BITS

    return _groups(hashes, range(32), near, owners, samples)


def near_texts(sketches: np.ndarray, owners: np.ndarray, samples: int) -> np.ndarray:
    """As `near_images`, of uint32 [m, MINIMA] sketches."""

    def near(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (sketches[a] == sketches[b]).sum(1) >= SAME_MINIMA

    return _groups(sketches, range(0, 4 * MINIMA, 4), near, owners, samples)


def _groups(
    keys: np.ndarray,
    starts: range,
    near: Callable[[np.ndarray, np.ndarray], np.ndarray],
    owners: np.ndarray,
    samples: int,
) -> np.ndarray:
    """The first sample of each sample's group: int [samples].

    Args:
        keys: rows of numbers.
        starts: which byte of a row to begin at; rows are sorted by the 8 bytes from there on.
        near: which of the rows a[i] and b[i] are near each other.
        owners: the sample of each row.
        samples: how many there are.
    """
    first = np.arange(samples)
    row_bytes = np.ascontiguousarray(keys).view(np.uint8).reshape(len(keys), keys.shape[1] * keys.itemsize)
    for start in starts:
        leading = row_bytes[:, (start + np.arange(8)) % row_bytes.shape[1]]
        numbers = np.ascontiguousarray(leading).view(">u8").ravel().astype(np.uint64)  # native ones sort fast
        order = np.argsort(numbers, kind="stable")
        for step in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
            a, b = order[:-step], order[step:]
            met = near(a, b) & (owners[a] != owners[b])
            for one, other in zip(owners[a[met]].tolist(), owners[b[met]].tolist(), strict=True):
                _join(first, one, other)
    return np.array([_root(first, i) for i in range(samples)], np.int64)


def _root(first: np.ndarray, i: int) -> int:
    while first[i] != i:
        first[i] = first[first[i]]
        i = int(first[i])
    return i


def _join(first: np.ndarray, one: int, other: int) -> None:
    low, high = sorted((_root(first, one), _root(first, other)))
    first[high] = low


def _same(values: np.ndarray) -> np.ndarray:
    _, firsts, inverse = np.unique(values, return_index=True, return_inverse=True)
    return firsts[inverse]


def _told(first: np.ndarray, ids: Sequence[str]) -> dict[str, Any]:
    later = np.nonzero(first != np.arange(len(first)))[0]
    groups: dict[int, list[str]] = {}
    for i in later:
        lead = int(first[i])
        if lead in groups or len(groups) < EXAMPLES:
            groups.setdefault(lead, [str(ids[lead])]).append(str(ids[int(i)]))
    examples = [members[:EXAMPLES] for members in groups.values()]
    return {"count": len(later), "groups": len(np.unique(first[later])), "examples": examples}
