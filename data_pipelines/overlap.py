"""Decontamination: does a training sample hold what a benchmark asks, or shows?

text     NGRAM consecutive words of a benchmark's prompt; a shorter prompt counts whole, from WHOLE words on.
         What stands in more than COMMON different prompts is how benchmarks ask, not what, and does not count.
images   a perceptual hash within NEAR_BITS of one of the benchmark's images
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from data_pipelines.records import RecordSource
from data_pipelines.sketches import NEAR_BITS, distance, grams, image_hash, word_hashes
from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER, Message, Sample
from nvlm_jax.inputs.errors import BadSample, ImageError
from nvlm_jax.inputs.tiling import open_image

NGRAM = 13
WHOLE = 8
COMMON = 5


@dataclasses.dataclass(frozen=True)
class Benchmarks:
    """Hashes of all benchmarks together, and of each the id of a sample that it is from."""

    grams: np.ndarray  # uint64 [g], sorted
    gram_ids: np.ndarray  # str [g]
    images: np.ndarray  # uint64 [m, 4]
    image_ids: np.ndarray  # str [m]

    def check(self, sample_id: str, messages: Iterable[Message], hashes: Sequence[np.ndarray | None]) -> None:
        """
        Args:
            sample_id: of the training sample.
            messages: its texts; answers count as well as questions.
            hashes: `image_hash` of each of its images.

        Raises:
            BadSample: `contaminated_text` or `contaminated_image`; the message names the benchmark's sample.
        """
        for message in messages:
            if (place := self._text(message.content)) is not None:
                met = f"sample {sample_id!r} holds the prompt of benchmark sample {self.gram_ids[place]}"
                raise BadSample("contaminated_text", met)
        for found in hashes:
            if found is None or not len(self.images):
                continue
            apart = distance(found, self.images)
            nearest = int(apart.argmin())
            if apart[nearest] <= NEAR_BITS:
                met = f"sample {sample_id!r} shows the image of benchmark sample {self.image_ids[nearest]}"
                raise BadSample("contaminated_image", f"{met}: {apart[nearest]} of 256 bits differ")

    def _text(self, text: str) -> int | None:
        words = word_hashes(text.replace(IMAGE_PLACEHOLDER, " "))
        for n in range(WHOLE, NGRAM + 1) if len(self.grams) else ():
            found = grams(words, n)
            places = np.searchsorted(self.grams, found).clip(max=len(self.grams) - 1)
            met = np.nonzero(self.grams[places] == found)[0]
            if len(met):
                return int(places[met[0]])
        return None

    def save(self, file: pathlib.Path) -> None:
        """Write as .npz."""
        np.savez(file, **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    @classmethod
    def load(cls, file: str | pathlib.Path) -> Benchmarks:
        """Read what `save` wrote."""
        with np.load(file, allow_pickle=False) as held:
            return cls(*(held[field.name] for field in dataclasses.fields(cls)))


def gather(paths: Sequence[str | pathlib.Path]) -> Benchmarks:
    """The hashes of benchmarks, each a dataset of this project's format.

    Raises:
        DatasetError: one of them is none.
    """
    named = ((source.path.name, sample) for source in map(RecordSource, paths) for sample in _readable(source))
    return from_samples((f"{name}/{sample.id}", sample) for name, sample in named)


def from_samples(samples: Iterable[tuple[str, Sample]]) -> Benchmarks:
    """The hashes of benchmark samples, given with their names."""
    ids: dict[int, str] = {}
    prompts: Counter[int] = Counter()
    images, image_ids, seen = [], [], set()
    for name, sample in samples:
        for message in sample.messages:
            text = message.content.replace(IMAGE_PLACEHOLDER, " ")
            if message.role == "user" and text not in seen:
                seen.add(text)
                found = set(_prompt_grams(text).tolist())
                prompts.update(found)
                ids.update(dict.fromkeys(found - ids.keys(), name))
        for data in sample.images:
            if (found := _hash(data)) is not None:
                images.append(found)
                image_ids.append(name)
    kept = sorted(gram for gram, count in prompts.items() if count <= COMMON)
    return Benchmarks(
        np.array(kept, np.uint64),
        np.array([ids[gram] for gram in kept], np.str_),
        np.array(images, np.uint64).reshape(-1, 4),
        np.array(image_ids, np.str_),
    )


def _prompt_grams(text: str) -> np.ndarray:
    words = word_hashes(text)
    return grams(words, min(NGRAM, len(words))) if len(words) >= WHOLE else np.zeros(0, np.uint64)


def _hash(data: bytes) -> np.ndarray | None:
    try:
        return image_hash(open_image(data))
    except ImageError:
        return None


def _readable(source: RecordSource) -> Iterable[Sample]:
    for i in range(len(source)):
        try:
            yield source[i]
        except BadSample:
            continue


def hashes_of(pixels: Iterable[Image.Image]) -> list[np.ndarray | None]:
    """`image_hash` of each image."""
    return [image_hash(image) for image in pixels]
