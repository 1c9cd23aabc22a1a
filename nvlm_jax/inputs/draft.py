"""An example in the making, and the rules by which its tokens see tiles: one place for all who lay examples out."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from nvlm_jax.config import InputConfig
from nvlm_jax.inputs.batch import Example
from nvlm_jax.inputs.images import ImageBlocks, Picture

Offsets = Sequence[tuple[int, int]]  # of each token, the characters [start, end) that it stands for

UNTRAINED = -1


@dataclasses.dataclass
class Draft:
    """An example while turns are added to it. Ranges are (place of the first token, values)."""

    tokens: list[int] = dataclasses.field(default_factory=list)
    runs: list[tuple[int, int]] = dataclasses.field(default_factory=list)  # (tokens, UNTRAINED or their loss group)
    slots: list[tuple[int, np.ndarray]] = dataclasses.field(default_factory=list)
    tags: list[tuple[int, np.ndarray]] = dataclasses.field(default_factory=list)
    named: list[tuple[int, int]] = dataclasses.field(default_factory=list)  # this turn's questions: (place, tag value)
    starts: list[int] = dataclasses.field(default_factory=list)  # place of each image's `<Image>`
    kept: tuple[int, int, int] = (0, 0, 0)  # tokens, images and tiles of the turns that fit
    dropped: int = 0  # turns that did not

    def add(self, tokens: Sequence[int], loss: int = UNTRAINED) -> None:
        """Append tokens of one piece."""
        self.tokens.extend(tokens)
        self.runs.append((len(tokens), loss))

    def is_trained(self) -> bool:
        """Whether a token of the turns that fit is trained on."""
        ends = itertools.accumulate(count for count, _ in self.runs)
        return any(loss != UNTRAINED and end <= self.kept[0] for end, (_, loss) in zip(ends, self.runs, strict=True))

    def spread(self, ranges: Iterable[tuple[int, np.ndarray]], fill: int) -> np.ndarray:
        """int32 [s]: each range at its place, `fill` elsewhere."""
        out = np.full(self.kept[0], fill, np.int32)
        for place, values in ranges:
            out[place : place + len(values)] = values[: max(len(out) - place, 0)]
        return out

    def focus(self) -> None:
        """Let all tokens of a turn behind its question's tag read the tag's tile alone, if it names one tile only."""
        if len({value for _, value in self.named}) == 1 and self.named[0][0] > self.starts[-1]:
            place, value = self.named[0]
            self.tags.append((place, np.full(len(self.tokens) - place, value, np.int32)))

    def tag_question(
        self,
        text: str,
        offsets: Offsets,
        pictures: Sequence[Picture],
        images: ImageBlocks,
        inputs: InputConfig,
        start: int = 0,
        end: int | None = None,
    ) -> None:
        """Let the tags that a user's text names read their tile of the image before it.

        Args:
            text: about to be added.
            offsets: of its tokens.
            pictures: of the conversation.
            images: knows the pictures' tags.
            inputs: whether questions' tags are read.
            start: where in `text` the user's words begin.
            end: and end; None = at its end.
        """
        if not (inputs.question_tags and self.starts):
            return
        picture = pictures[len(self.starts) - 1]
        for tile, first, last in images.find_tags(picture, text[start:end]):
            self.tag(offsets, start + first, start + last, picture.first + 1 + tile)
            self.named.append((self.tags[-1][0], picture.first + 1 + tile))

    def tag(self, offsets: Offsets, start: int, end: int, value: int) -> None:
        """Give `value` to the tokens of a text about to be added that touch its characters [start, end)."""
        touching = [i for i, (first, last) in enumerate(offsets) if first < end and last > start]
        place = len(self.tokens) + touching[0]
        self.tags.append((place, np.full(touching[-1] - touching[0] + 1, value, np.int32)))

    def example(
        self, sample_id: str, pictures: Sequence[Picture], images: ImageBlocks, tiles: np.ndarray, trained: bool = False
    ) -> Example:
        """What was kept, as an example.

        Args:
            sample_id: its id.
            pictures: of the conversation.
            images: knows their tiles.
            tiles: uint8 [t, P, P, 3], of the pictures that were kept.
            trained: whether it has targets.
        """
        length, count, _ = self.kept
        pictures = pictures[:count]
        tokens = np.array(self.tokens[:length], np.int32)
        counts, losses = np.array(self.runs, np.int32).T
        loss = np.full(length, UNTRAINED, np.int32)  # of predicting the next token
        if trained:
            loss[:-1] = np.repeat(losses, counts)[1:length]
        indices = [index for picture in pictures for index in images.tile_indices(picture)]
        counts = [images.tile_count(picture) for picture in pictures]
        return Example(
            id=sample_id,
            tokens=tokens,
            targets=np.append(tokens[1:], np.int32(0)) if trained else np.zeros_like(tokens),
            loss_weights=(loss >= 0).astype(np.float32),
            loss_groups=np.maximum(loss, 0),
            tiles=tiles,
            tile_index=np.array(indices, np.int32),
            tile_start=np.repeat(np.array(self.starts[:count], np.int32), counts),
            image_slots=self.spread(self.slots, -1),
            tag_tile=self.spread(self.tags, 0),
            tile_tags=images.tile_tags(pictures),
        )
