"""One sample -> one example: pieces become token ids, images become tiles, and every token knows its part.

An image of 2 tiles and thumbnail as the decoder holds it (`@@@@` = the N image tokens of a tile):

    d    <Image> <tile_1> @@@@ <tile_2> @@@@ <tile_global_thumbnail> @@@@ </Image>
    x    <Image> <tile_1> <tile_2> <tile_global_thumbnail> </Image>
    h    <Image> <tile_global_thumbnail> @@@@ </Image>

All three carry the same three tiles of pixels; what the decoder does not hold, the cross-attention reads. Ids are built
piece by piece: tokenizing the joined string would merge the `><` before the first tag (`joined_as_released_hf`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nvlm_jax.config import ConfigError, InputConfig, ModelConfig
from nvlm_jax.inputs import chat
from nvlm_jax.inputs.batch import Example, Message, Sample
from nvlm_jax.inputs.dense import dense_example, dense_size
from nvlm_jax.inputs.draft import UNTRAINED, Draft
from nvlm_jax.inputs.errors import BadSample, exceeds, too_long
from nvlm_jax.inputs.images import ImageBlocks, Picture
from nvlm_jax.inputs.own_template import OwnTemplate
from nvlm_jax.inputs.tiling import ImageSource
from nvlm_jax.inputs.tokenizer import Tokenizer


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
        self.images = ImageBlocks(inputs, model, self.tokenizer)
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
        return self.images.tag_tokens

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
        pictures = self.images.pictures(sample)
        if self.inputs.template == "dense":
            dense_size(sample, self.images, pictures, self.model, max_tokens, max_tiles)
            return dense_example(sample, self.images, pictures, self.model, self._groups), 0
        draft = self._draft(sample, pictures, max_tokens, max_tiles)
        tiles = self.images.tiles(sample.id, pictures[: draft.kept[1]])
        return draft.example(sample.id, pictures, self.images, tiles, trained=True), draft.dropped

    def measure(self, sample: Sample, max_tokens: int | None = None, max_tiles: int | None = None) -> tuple[int, int]:
        """Tokens and tiles that `build` would give, from the images' headers alone. Raises as `build`."""
        pictures = self.images.pictures(sample)
        if self.inputs.template == "dense":
            return dense_size(sample, self.images, pictures, self.model, max_tokens, max_tiles)
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
        pictures = self.images.pictures(sample)
        draft = self._draft(sample, pictures, None, None, prompt=True)
        if exceeds(tokens := draft.kept[0], max_tokens):
            raise BadSample("too_long", f"sample {sample.id!r}: a prompt of {tokens} tokens; at most {max_tokens}")
        tiles = self.images.tiles(sample.id, pictures[: draft.kept[1]])
        return draft.example(sample.id, pictures, self.images, tiles)

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
            tiles += sum(self.images.tile_count(picture) for picture in pictures[draft.kept[1] : len(draft.starts)])
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
                block = self.images.block(sample_id, picture)
                place, first_slot = len(draft.tokens), picture.first * self.model.tokens_per_tile
                draft.slots.append((place, np.where(block.slots >= 0, block.slots + first_slot, -1)))
                draft.tags.append((place, np.where(block.tags > 0, block.tags + picture.first, 0)))
                draft.add(block.tokens)
            elif following is not None and following.kind == "image":
                self._open_image(draft, sample_id, piece.text, pictures[following.image], pictures)
            else:
                self._add_text(draft, sample_id, piece, pictures, loss)
        if self.inputs.question_focus:
            draft.focus()

    def _add_text(
        self, draft: Draft, sample_id: str, piece: chat.Piece, pictures: Sequence[Picture], loss: int
    ) -> None:
        ids = self._fixed.get(piece.text)
        if ids is None:
            ids, offsets = self._encode(sample_id, piece.text)
            if not (piece.trained or piece.history):
                draft.tag_question(piece.text, offsets, pictures, self.images, self.inputs)
        draft.add(ids, loss)

    def _open_image(
        self, draft: Draft, sample_id: str, text: str, picture: Picture, pictures: Sequence[Picture]
    ) -> None:
        """Add a text that ends in `<Image>`, with the first tag behind it if that is to be tokenized jointly."""
        block = self.images.block(sample_id, picture)
        ids, offsets = self._encode(sample_id, text + block.prefix)
        draft.tag_question(text, offsets, pictures, self.images, self.inputs)
        start = next(i for i, (_, end) in enumerate(offsets) if end > len(text) - len(chat.IMAGE_OPEN))
        if block.prefix_tile:
            draft.tag(offsets, len(text), len(text + block.prefix), picture.first + block.prefix_tile)
        draft.starts.append(len(draft.tokens) + start)
        draft.add(ids)

    def _encode(self, sample_id: str, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        try:
            return self.tokenizer.encode_with_offsets(text)
        except TypeError as error:  # a lone surrogate
            raise BadSample("bad_text", f"sample {sample_id!r}: {text!r:.80} is no valid Unicode text") from error
