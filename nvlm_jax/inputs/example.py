"""One sample -> one example: pieces become token ids, images become tiles, and every token knows its part.

An image of 2 tiles and thumbnail as the decoder holds it (`@@@@` = the N image tokens of a tile):

    d    <Image> <tile_1> @@@@ <tile_2> @@@@ <tile_global_thumbnail> @@@@ </Image>
    x    <Image> <tile_1> <tile_2> <tile_global_thumbnail> </Image>
    h    <Image> <tile_global_thumbnail> @@@@ </Image>

All three carry the same three tiles of pixels; what the decoder does not hold, the cross-attention reads. Ids are built
piece by piece: tokenizing the joined string would merge the `><` before the first tag (`joined_as_released_hf`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from nvlm_jax.config import ConfigError, InputConfig, ModelConfig
from nvlm_jax.inputs import chat
from nvlm_jax.inputs.batch import Example, Message, Sample
from nvlm_jax.inputs.dense import dense_example, dense_size
from nvlm_jax.inputs.errors import BadSample, exceeds, too_long
from nvlm_jax.inputs.images import ImageBlocks, Picture
from nvlm_jax.inputs.own_template import OwnTemplate
from nvlm_jax.inputs.tiling import ImageSource
from nvlm_jax.inputs.tokenizer import Tokenizer

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


class ExampleBuilder:
    """Turns samples into examples for one model. The same sample always gives the same example.

    Args:
        inputs: how text and images become tokens and tiles.
        model: for its architecture, tile size, tokens a tile and dense labels.
        groups: names of the report groups; `loss_groups` is 1 + the index of an answer's group here, 0 for another.

    Raises:
        FileNotFoundError: there is no tokenizer.
        ValueError: the tokenizer lacks a token that the settings name.
        ConfigError: the tokenizer has more entries than the decoder's table, or lacks the template that is asked for.
    """

    def __init__(self, inputs: InputConfig, model: ModelConfig, groups: tuple[str, ...] = ()):
        self.inputs, self.model = inputs, model
        self.tokenizer = Tokenizer(inputs.tokenizer)
        if self.tokenizer.vocab_size > model.decoder.vocab_size:
            raise ConfigError(
                f"inputs.tokenizer: {inputs.tokenizer} has {self.tokenizer.vocab_size} entries, more than "
                f"model.decoder.vocab_size {model.decoder.vocab_size}; take the decoder's own tokenizer"
            )
        self._images = ImageBlocks(inputs, model, self.tokenizer)
        names = [inputs.end_token] + [chat.START_TOKEN] * (inputs.template == "chatml")
        self._special = {name: [self.tokenizer.special(name)] for name in names}
        self._own = OwnTemplate(self.tokenizer, inputs.date) if inputs.template == "checkpoint" else None
        if self._own is not None:
            self._special |= {name: [i] for name, i in self.tokenizer.added_tokens.items()}
        self._fixed = {text: self.tokenizer.encode(text) for text in (*chat.FIXED_TEXTS, inputs.system)}
        self._groups = {name: 1 + i for i, name in enumerate(groups)}

    @property
    def tag_tokens(self) -> int:
        """K: room that a batch's `tile_tags` needs for any image."""
        return self._images.tag_tokens

    def build(self, sample: Sample, max_tokens: int | None = None, max_tiles: int | None = None) -> Example:
        """The sample as an example of at most so many tokens and tiles. Details in `build_counted`."""
        return self.build_counted(sample, max_tokens, max_tiles)[0]

    def build_counted(
        self, sample: Sample, max_tokens: int | None = None, max_tiles: int | None = None
    ) -> tuple[Example, int]:
        """The example, and how many turns were dropped to make it fit.

        Turns (a question, its images and its answers) are dropped from the end, each as a whole.

        Raises:
            BadSample: the sample cannot be used. `reason` is one of bad_role, empty_text, empty_answer, no_answer,
                bad_text, missing_placeholder, extra_placeholder, too_many_images, unreadable_image, image_too_large,
                unsupported_pixels, bad_described, bad_dense, too_long (not even the first turn fits).
        """
        pictures = self._images.pictures(sample)
        if self.inputs.template == "dense":
            dense_size(sample, self._images, pictures, self.model, max_tokens, max_tiles)
            return dense_example(sample, self._images, pictures, self.model, self._groups), 0
        draft = self._draft(sample, pictures, max_tokens, max_tiles)
        return self._finish(sample.id, draft, pictures, trained=True), draft.dropped

    def measure(self, sample: Sample, max_tokens: int | None = None, max_tiles: int | None = None) -> tuple[int, int]:
        """Tokens and tiles that `build` would give, from the images' headers alone. Raises as `build`."""
        pictures = self._images.pictures(sample)
        if self.inputs.template == "dense":
            return dense_size(sample, self._images, pictures, self.model, max_tokens, max_tiles)
        tokens, _, tiles = self._draft(sample, pictures, max_tokens, max_tiles).kept
        return tokens, tiles

    def prompt(
        self,
        messages: Sequence[Message],
        images: Sequence[ImageSource] = (),
        meta: dict[str, Any] | None = None,
        max_tokens: int | None = None,
    ) -> Example:
        """A conversation that ends in a question, up to where its answer begins. Targets and weights are zero.

        Args:
            messages: the last one is a user's; earlier answers are history.
            images: encoded bytes, paths or Pillow images, one for each placeholder.
            meta: as a sample's; may hold `described` in place of images.
            max_tokens: more are refused, before any pixel is decoded.

        Raises:
            BadSample: as `build_counted`; `too_long` where the prompt has more than `max_tokens`.
            ValueError: the template is `dense`, which has no questions.
        """
        if self.inputs.template == "dense":
            raise ValueError("inputs.template: 'dense' has no prompts; use chatml or plain")
        sample = Sample("prompt", tuple(messages), tuple(images), meta or {})
        pictures = self._images.pictures(sample)
        draft = self._draft(sample, pictures, None, None, prompt=True)
        if exceeds(tokens := draft.kept[0], max_tokens):
            raise BadSample("too_long", f"sample {sample.id!r}: a prompt of {tokens} tokens; at most {max_tokens}")
        return self._finish(sample.id, draft, pictures, trained=False)

    def _draft(
        self,
        sample: Sample,
        pictures: Sequence[Picture],
        max_tokens: int | None,
        max_tiles: int | None,
        prompt: bool = False,
    ) -> Draft:
        x = self.inputs
        conversation = chat.turns(sample.id, sample.messages, x.template, prompt)
        draft, tiles = Draft(), 0
        if self._own is None:
            rendered = chat.render(conversation, x.template, x.system, x.end_token, prompt)
        else:
            rendered = self._own.render(sample.id, conversation, x.system, prompt)
        for number, pieces in enumerate(rendered):
            self._add_turn(draft, sample.id, pieces, pictures)
            tiles += sum(self._images.tile_count(picture) for picture in pictures[draft.kept[1] : len(draft.starts)])
            if exceeds(len(draft.tokens), max_tokens) or exceeds(tiles, max_tiles):
                draft.dropped = len(conversation) - number
                break
            draft.kept = (len(draft.tokens), len(draft.starts), tiles)
        if not draft.kept[0] or not (prompt or draft.is_trained()):  # cut before the first answer that is trained on
            raise too_long(sample.id, "its first turn", len(draft.tokens), tiles, max_tokens, max_tiles)
        return draft

    def _add_turn(
        self, draft: Draft, sample_id: str, pieces: Sequence[chat.Piece], pictures: Sequence[Picture]
    ) -> None:
        draft.named.clear()
        for piece, following in zip(pieces, [*pieces[1:], None], strict=True):
            loss = self._groups.get(piece.group, 0) if piece.trained else UNTRAINED
            if piece.kind == "special":
                draft.add(self._special[piece.text], loss)
            elif piece.kind == "image":
                picture = pictures[piece.image]
                block = self._images.block(sample_id, picture)
                place, first_slot = len(draft.tokens), picture.first * self.model.tokens_per_tile
                draft.slots.append((place, np.where(block.slots >= 0, block.slots + first_slot, -1)))
                draft.tags.append((place, np.where(block.tags > 0, block.tags + picture.first, 0)))
                draft.add(block.tokens)
            elif following is not None and following.kind == "image":
                self._open_image(draft, sample_id, piece.text, pictures[following.image], pictures)
            else:
                self._add_text(draft, sample_id, piece, pictures, loss)
        if self.inputs.question_focus:
            self._focus(draft)

    def _focus(self, draft: Draft) -> None:
        """Let all tokens of a turn behind its question's tag read the tag's tile alone, if it names one tile only."""
        if len({value for _, value in draft.named}) == 1 and draft.named[0][0] > draft.starts[-1]:
            place, value = draft.named[0]
            draft.tags.append((place, np.full(len(draft.tokens) - place, value, np.int32)))

    def _add_text(
        self, draft: Draft, sample_id: str, piece: chat.Piece, pictures: Sequence[Picture], loss: int
    ) -> None:
        ids = self._fixed.get(piece.text)
        if ids is None:
            ids, offsets = self._encode(sample_id, piece.text)
            if not piece.trained:
                self._tag_question(draft, piece.text, offsets, pictures)
        draft.add(ids, loss)

    def _open_image(
        self, draft: Draft, sample_id: str, text: str, picture: Picture, pictures: Sequence[Picture]
    ) -> None:
        """Add a text that ends in `<Image>`, with the first tag behind it if that is to be tokenized jointly."""
        block = self._images.block(sample_id, picture)
        ids, offsets = self._encode(sample_id, text + block.prefix)
        self._tag_question(draft, text, offsets, pictures)
        start = next(i for i, (_, end) in enumerate(offsets) if end > len(text) - len(chat.IMAGE_OPEN))
        if block.prefix_tile:
            self._tag(draft, offsets, len(text), len(text + block.prefix), picture.first + block.prefix_tile)
        draft.starts.append(len(draft.tokens) + start)
        draft.add(ids)

    def _tag_question(
        self, draft: Draft, text: str, offsets: Sequence[tuple[int, int]], pictures: Sequence[Picture]
    ) -> None:
        """Let the tags that a user's text names read their tile of the image before it."""
        if not (self.inputs.question_tags and draft.starts):
            return
        picture = pictures[len(draft.starts) - 1]
        for tile, start, end in self._images.find_tags(picture, text):
            self._tag(draft, offsets, start, end, picture.first + 1 + tile)
            draft.named.append((draft.tags[-1][0], picture.first + 1 + tile))

    def _tag(self, draft: Draft, offsets: Sequence[tuple[int, int]], start: int, end: int, value: int) -> None:
        """Give `value` to the tokens of a text about to be added that touch its characters [start, end)."""
        touching = [i for i, (first, last) in enumerate(offsets) if first < end and last > start]
        place = len(draft.tokens) + touching[0]
        draft.tags.append((place, np.full(touching[-1] - touching[0] + 1, value, np.int32)))

    def _encode(self, sample_id: str, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        try:
            return self.tokenizer.encode_with_offsets(text)
        except TypeError as error:  # a lone surrogate
            raise BadSample("bad_text", f"sample {sample_id!r}: {text!r:.80} is no valid Unicode text") from error

    def _finish(self, sample_id: str, draft: Draft, pictures: Sequence[Picture], trained: bool) -> Example:
        length, images, _ = draft.kept
        pictures = pictures[:images]
        tokens = np.array(draft.tokens[:length], np.int32)
        counts, losses = np.array(draft.runs, np.int32).T
        loss = np.full(length, UNTRAINED, np.int32)  # of predicting the next token
        if trained:
            loss[:-1] = np.repeat(losses, counts)[1:length]
        tile_index = [index for picture in pictures for index in self._images.tile_indices(picture)]
        counts = [self._images.tile_count(picture) for picture in pictures]
        return Example(
            id=sample_id,
            tokens=tokens,
            targets=np.append(tokens[1:], np.int32(0)) if trained else np.zeros_like(tokens),
            loss_weights=(loss >= 0).astype(np.float32),
            loss_groups=np.maximum(loss, 0),
            tiles=self._images.tiles(sample_id, pictures),
            tile_index=np.array(tile_index, np.int32),
            tile_start=np.repeat(np.array(draft.starts[:images], np.int32), counts),
            image_slots=draft.spread(draft.slots, -1),
            tag_tile=draft.spread(draft.tags, 0),
            tile_tags=self._images.tile_tags(pictures),
        )
