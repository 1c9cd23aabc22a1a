"""The images of a sample: their tiles, and the tokens that stand for them in the decoder's sequence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from nvlm_jax.config import InputConfig, ModelConfig
from nvlm_jax.inputs import fast_resize
from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER, THUMBNAIL, Sample
from nvlm_jax.inputs.chat import count_placeholders
from nvlm_jax.inputs.errors import BadSample, ImageError
from nvlm_jax.inputs.tags import pad_tags, tag_ids, tag_room, tile_indices, tile_tags
from nvlm_jax.inputs.tiling import choose_grid, cut_tiles, open_header, open_image, oriented_size, tile_count
from nvlm_jax.inputs.tokenizer import Tokenizer


class Picture(NamedTuple):
    """One image of a sample: its header, or the symbols that stand for its tiles."""

    grid: tuple[int, int]  # cols, rows
    first: int  # index of its first tile within the example
    image: Image.Image | None = None  # not decoded yet
    described: Sequence[str] = ()  # N characters for each tile
    own: bool = False  # opened here: its pixels are let go of once its tiles are cut


class Block(NamedTuple):
    """The tokens of an image between `<Image>` and `</Image>`; indices count from the image's own first tile."""

    tokens: list[int]
    slots: np.ndarray  # int32, as Example.image_slots
    tags: np.ndarray  # int32, as Example.tag_tile
    prefix: str = ""  # the first tag, where it is to be tokenized together with `<Image>`
    prefix_tile: int = 0  # 1 + index of its tile


class ImageBlocks:
    """Images -> tiles and token blocks, for one model."""

    def __init__(self, inputs: InputConfig, model: ModelConfig, tokenizer: Tokenizer):
        if inputs.resize == "opencv":
            fast_resize.require()
        self._inputs, self._model, self._tokenizer = inputs, model, tokenizer
        self._tile_size, self._n = model.vision.image_size, model.tokens_per_tile
        self._image_token = tokenizer.special(inputs.image_token)
        self._blocks: dict[tuple[int, int], Block] = {}
        self._tags: dict[tuple[int, int], list[list[int]]] = {}
        self._patterns: dict[tuple[int, int], tuple[re.Pattern[str], list[str]]] = {}
        self._symbols: dict[str, int] = {}
        self.tag_tokens = tag_room(inputs, model, tokenizer)

    def pictures(self, sample: Sample) -> list[Picture]:
        """The sample's images, from their headers alone.

        Raises:
            BadSample: an image is unusable, or their number is not that of the placeholders.
        """
        described = sample.meta.get("described")
        count = len(sample.images if described is None else described)
        if count > self._inputs.max_images:
            limit = self._inputs.max_images
            raise BadSample("too_many_images", f"sample {sample.id!r}: {count} images; inputs.max_images is {limit}")
        if self._inputs.template != "dense":
            _check_placeholders(sample, count)
        if described is not None:
            return [self._described(sample, i) for i in range(count)]
        pictures, first = [], 0
        for i, source in enumerate(sample.images):
            try:
                image = open_header(source)
            except ImageError as error:
                raise _of_sample(error, sample.id, i) from error
            grid = choose_grid(*oriented_size(image), self._inputs.max_tiles, self._tile_size)
            pictures.append(Picture(grid, first, image, own=not isinstance(source, Image.Image)))
            first += tile_count(grid, self._inputs.thumbnail)
        return pictures

    def _described(self, sample: Sample, i: int) -> Picture:
        tiles = sample.meta["described"][i]
        where = f"sample {sample.id!r}, described image {i}"
        if sample.images or not tiles or any(len(tile) != self._n for tile in tiles):
            message = f"{where}: expected a string of {self._n} characters for each tile, and no encoded images"
            raise BadSample("bad_described", message)
        regular = len(tiles) - 1 if len(tiles) > 1 and self._inputs.thumbnail else len(tiles)
        grid = (regular, 1)
        if self._inputs.tile_tags in ("grid", "box"):  # the other styles need not know how the tiles lie
            grid = tuple(sample.meta.get("grid", ()))
            if len(grid) != 2 or grid[0] * grid[1] != regular:
                message = f"{where}: meta 'grid' is {list(grid)}; expected [cols, rows] of {regular} regular tiles"
                raise BadSample("bad_described", message)
        return Picture(grid, 0, described=tiles)

    def tile_count(self, picture: Picture) -> int:
        """Tiles of pixels of the picture."""
        return 0 if picture.described else tile_count(picture.grid, self._inputs.thumbnail)

    def tile_indices(self, picture: Picture) -> list[int]:
        """The `tile_index` of each of its tiles."""
        return [] if picture.described else tile_indices(*picture.grid, self._inputs.thumbnail)

    def tile_tags(self, pictures: Sequence[Picture]) -> np.ndarray:
        """Int32 [t, K]: the token ids of each tile's tag as the cross-attention reads it, -1 behind them.

        A thumbnail has none: it is in the decoder, and its tag with it. K = `tag_tokens`.
        """
        rows = [row for picture in pictures if not picture.described for row in self._tag_ids(picture.grid)]
        return pad_tags(rows, self.tag_tokens)

    def _tag_ids(self, grid: tuple[int, int]) -> list[list[int]]:
        if grid not in self._tags:
            self._tags[grid] = tag_ids(grid, self._inputs, self._model, self._tokenizer)
        return self._tags[grid]

    def tiles(self, sample_id: str, pictures: Sequence[Picture]) -> np.ndarray:
        """Decode and cut: uint8 [t, P, P, 3].

        Raises:
            BadSample: an image turns out broken.
        """
        cut = [np.zeros((0, self._tile_size, self._tile_size, 3), np.uint8)]
        for i, picture in enumerate(pictures):
            if picture.image is None:
                continue
            try:
                image = open_image(picture.image)
                cut.append(cut_tiles(image, picture.grid, self._tile_size, self._inputs.thumbnail, self._inputs.resize))
            except ImageError as error:
                raise _of_sample(error, sample_id, i) from error
            finally:
                if picture.own:
                    picture.image.close()  # or all of a sample's pixels would be held at once
        return cut[1] if len(cut) == 2 else np.concatenate(cut)

    def names(self, grid: tuple[int, int]) -> list[str]:
        """The tag of each tile."""
        x = self._inputs
        return tile_tags(*grid, x.tile_tags, x.thumbnail_tag, self._tile_size, x.thumbnail)

    def find_tags(self, picture: Picture, text: str) -> list[tuple[int, int, int]]:
        """Where `text` names tiles of the picture by their tags: (index of the picture's tile, start, end)."""
        if "<" not in text or picture.described or self._inputs.tile_tags == "none":
            return []
        if picture.grid not in self._patterns:
            names = self.names(picture.grid)
            self._patterns[picture.grid] = re.compile("|".join(map(re.escape, names))), names
        pattern, names = self._patterns[picture.grid]
        return [(names.index(match.group()), *match.span()) for match in pattern.finditer(text)]

    def block(self, sample_id: str, picture: Picture) -> Block:
        """The picture's token block.

        Raises:
            BadSample: `bad_described`, a symbol is not one token.
        """
        if picture.described:
            symbols = [self.symbol_ids(sample_id, tile, "bad_described") for tile in picture.described]
            return self._make_block(picture.grid, symbols)
        if picture.grid not in self._blocks:
            self._blocks[picture.grid] = self._make_block(picture.grid)
        return self._blocks[picture.grid]

    def _make_block(self, grid: tuple[int, int], described: list[list[int]] | None = None) -> Block:
        """For `described` the layout is D's, whatever the architecture: text has nothing to attend across to."""
        arch = "d" if described else self._model.arch
        tokens, slots, tags = [], [], []
        prefix, prefix_tile = "", 0
        indices = tile_indices(*grid, self._inputs.thumbnail)
        for i, (name, index) in enumerate(zip(self.names(grid), indices, strict=True)):
            if arch == "h" and index != THUMBNAIL:
                continue
            tag = self._tokenizer.encode(name)
            if self._inputs.joined_as_released_hf and name and not prefix:
                prefix, prefix_tile, tag = name, 0 if described else i + 1, []
            if described:
                held, held_slots = described[i], [-1] * self._n
            else:
                held = [] if arch == "x" else [self._image_token] * self._n
                held_slots = range(i * self._n, i * self._n + len(held))
            tokens += [*tag, *held]
            slots += [-1] * len(tag) + [*held_slots]
            tags += [0 if described else i + 1] * len(tag) + [0] * len(held)
        return Block(tokens, np.array(slots, np.int32), np.array(tags, np.int32), prefix, prefix_tile)

    def symbol_ids(self, sample_id: str, text: str, reason: str) -> list[int]:
        """The token of each character.

        Raises:
            BadSample: with `reason`, a character is not exactly one token.
        """
        try:
            return [self._symbols[symbol] for symbol in text]
        except KeyError:
            for symbol in text:
                ids = self._tokenizer.encode(symbol)
                if len(ids) != 1:
                    message = f"sample {sample_id!r}: symbol {symbol!r} is {len(ids)} tokens; each must be exactly one"
                    raise BadSample(reason, message) from None
                self._symbols[symbol] = ids[0]
            return [self._symbols[symbol] for symbol in text]


def _check_placeholders(sample: Sample, images: int) -> None:
    placeholders = count_placeholders(sample.messages)
    if placeholders != images:
        reason = "extra_placeholder" if placeholders > images else "missing_placeholder"
        raise BadSample(
            reason,
            f"sample {sample.id!r}: {placeholders} placeholders {IMAGE_PLACEHOLDER} in the user's messages, {images} "
            "images; there must be one for each image",
        )


def _of_sample(error: ImageError, sample_id: str, image: int) -> BadSample:
    return BadSample(error.reason, f"sample {sample_id!r}, image {image}: {error}")
