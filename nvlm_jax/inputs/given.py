"""Token ids and tiles that were made elsewhere -> the `Example` that `ExampleBuilder` makes of their conversation.

The ids are read back as text: whose words are whose, where images stand, which tile each tag names. From there on the
builder's own rules apply (`draft.py`). Where the ids do not tell, the error says what is missing; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nvlm_jax.config import InputConfig, ModelConfig
from nvlm_jax.inputs.batch import THUMBNAIL, Example
from nvlm_jax.inputs.chat import IMAGE_OPEN
from nvlm_jax.inputs.draft import Draft
from nvlm_jax.inputs.given_text import Block, Stretch, Text, find_blocks, place_images, stretches
from nvlm_jax.inputs.images import ImageBlocks, Picture
from nvlm_jax.inputs.tags import pad_tags, reads_tags, tag_room
from nvlm_jax.inputs.tiling import tile_count
from nvlm_jax.inputs.tokenizer import Tokenizer

Grid = tuple[int, int]


def example_from_tokens(
    tokens: Sequence[int] | np.ndarray,
    tiles: np.ndarray | None,
    model: ModelConfig,
    inputs: InputConfig,
    tokenizer: Tokenizer | None = None,
    image_token: int | None = None,
    grids: Sequence[Grid] | None = None,
    images: ImageBlocks | None = None,
) -> Example:
    """A prompt from its ids and the tiles of its images, equal to the one that `ExampleBuilder.prompt` makes.

    Where each image stands: NVLM-D holds every tile's N image tokens, NVLM-H the thumbnail's, NVLM-X none, between
    `<Image>`, the tags and `</Image>`.

    Args:
        tokens: int [S], the image token repeated where image tokens go.
        tiles: uint8 [T, P, P, 3], of each image the thumbnail last; None = text only.
        model: its architecture, tile size and tokens a tile.
        inputs: tags, template, and what a question's tags do.
        tokenizer: None = X and H show every tile to every token, and H's tiles have no tags.
        image_token: its id; None = by the tokenizer, or without one inferred, see `infer_image_token`.
        grids: (cols, rows) of each image; None = as the ids say. X's and D's tags say it; H's ids hold the thumbnail's
            tag alone, which says nothing of a second image's number of tiles, nor of the grid that `grid` and `box`
            tags are made of.
        images: of these settings, where it is at hand.

    Raises:
        ValueError: tokens or tiles of the wrong shape, dtype or range, another number of image tokens than of tiles, or
            ids that do not tell what X or H must know.
    """
    tokens = _checked_tokens(tokens, model)
    tiles = _checked_tiles(tiles, model)
    if image_token is None and tokenizer is not None:
        image_token = tokenizer.special(inputs.image_token)
    if tokenizer is None:
        return _without_text(tokens, tiles, model, inputs, image_token)
    if not len(tiles):
        example = _without_text(tokens, tiles, model, inputs, image_token)
        return example._replace(tile_tags=pad_tags([()] * len(tiles), tag_room(inputs, model, tokenizer)))
    if model.arch != "h":
        _image_slots(tokens, range(len(tiles) if model.arch == "d" else 0), model.tokens_per_tile, image_token)
    images = images or ImageBlocks(inputs, model, tokenizer)
    try:
        return _read(tokens, tiles, model, inputs, tokenizer, image_token, grids, images)
    except ValueError:
        if model.arch != "d" or grids is not None:
            raise
        return _without_text(tokens, tiles, model, inputs, image_token)  # D looks at its image tokens alone


def _read(
    tokens: np.ndarray,
    tiles: np.ndarray,
    model: ModelConfig,
    inputs: InputConfig,
    tokenizer: Tokenizer,
    image_token: int,
    grids: Sequence[Grid] | None,
    images: ImageBlocks,
) -> Example:
    text = Text(tokens, tokenizer, image_token)
    parts = stretches(text, inputs, tokenizer)
    blocks = find_blocks(text, parts, model, inputs, len(tiles))
    chosen = place_images(blocks, len(tiles), inputs.thumbnail, grids)
    pictures, first = [], 0
    for _, grid in chosen:
        pictures.append(Picture(grid, first))
        first += tile_count(grid, inputs.thumbnail)
    draft, waiting = Draft(), [block for block, _ in chosen]
    for part in parts:
        if part.opens_turn:
            if inputs.question_focus:
                draft.focus()
            draft.named.clear()
        here = [block for block in waiting if part.start <= block.start < part.end]
        _add(draft, text, part, here, pictures, images, inputs, model.tokens_per_tile)
    if inputs.question_focus:
        draft.focus()
    draft.kept = (len(tokens), len(pictures), len(tiles))
    example = draft.example("given", pictures, images, tiles)
    held, count = int((example.image_slots >= 0).sum()), int((tokens == image_token).sum())
    if held != count:
        raise ValueError(
            f"tokens: the image token {image_token} stands {count} times; expected {held}, {model.tokens_per_tile} for "
            f"each tile that the decoder holds of {len(pictures)} images, between <Image> and </Image>"
        )
    return example


def _add(
    draft: Draft,
    text: Text,
    part: Stretch,
    blocks: Sequence[Block],
    pictures: Sequence[Picture],
    images: ImageBlocks,
    inputs: InputConfig,
    per_tile: int,
) -> None:
    """Lay out a stretch of the ids: what its tags and its images' tokens see."""
    offsets = text.offsets[part.first : part.last]

    def words(start: int, end: int) -> None:
        if part.whose == "user":
            draft.tag_question(text.text, offsets, pictures, images, inputs, start, end)
        elif part.whose == "unknown":
            _refuse_tags(draft, text.text[start:end], pictures, images, inputs)

    at = part.start
    for block in blocks:
        words(at, block.start + len(IMAGE_OPEN))
        picture = pictures[len(draft.starts)]
        begin = next(i for i, (_, end) in enumerate(offsets) if end > block.start)
        draft.starts.append(part.first + begin)
        for tile, (start, end) in block.tags(picture.grid):
            draft.tag(offsets, start, end, picture.first + 1 + tile)
        for tile, place in block.held(picture.grid):
            slots = (picture.first + tile) * per_tile + np.arange(per_tile, dtype=np.int32)
            draft.slots.append((text.token_at(place), slots))
        at = block.end
    words(at, part.end)
    draft.add(text.tokens[part.first : part.last].tolist())


def _refuse_tags(
    draft: Draft, text: str, pictures: Sequence[Picture], images: ImageBlocks, inputs: InputConfig
) -> None:
    if not (inputs.question_tags and draft.starts):
        return
    if found := images.find_tags(pictures[len(draft.starts) - 1], text):
        _, start, end = found[0]
        raise ValueError(
            f"tokens: {text[start:end]} stands in text that may be a question, whose tags read their tile, or an "
            f"answer, whose tags do not; ids of template {inputs.template!r} do not tell. Give the messages instead"
        )


def _without_text(
    tokens: np.ndarray, tiles: np.ndarray, model: ModelConfig, inputs: InputConfig, image_token: int | None
) -> Example:
    """One image of all tiles, seen by all tokens."""
    count = len(tiles)
    if count > 1 and reads_tags(model):
        raise ValueError(
            "tokens: without a tokenizer nothing says which ids the tags of NVLM-H's tiles have; the checkpoint needs "
            "its tokenizer.json"
        )
    held = {"d": range(count), "x": range(0), "h": range(count - 1, count)}[model.arch] if count else range(0)
    regular = count - 1 if count and (inputs.thumbnail or count == 1) else count
    return Example(
        id="given",
        tokens=tokens,
        targets=np.zeros_like(tokens),
        loss_weights=np.zeros(len(tokens), np.float32),
        loss_groups=np.zeros(len(tokens), np.int32),
        tiles=tiles,
        tile_index=np.array([*range(1, regular + 1), *([THUMBNAIL] * (count - regular))], np.int32),
        tile_start=np.zeros(count, np.int32),
        image_slots=_image_slots(tokens, held, model.tokens_per_tile, image_token),
        tag_tile=np.zeros(len(tokens), np.int32),
        tile_tags=pad_tags([()] * count, 0),
    )


def infer_image_token(tokens: np.ndarray, tiles: int, tokens_per_tile: int) -> int:
    """The one id that can be the image token: it occurs tiles * N times, in runs of whole tiles.

    For checkpoints without a tokenizer, whose config.json has no key for it.

    Raises:
        ValueError: no id fits, or several do.
    """
    ids, counts = np.unique(tokens, return_counts=True)
    fitting = [
        int(i)
        for i in ids[counts == tiles * tokens_per_tile]
        if all(len(run) % tokens_per_tile == 0 for run in _runs(np.flatnonzero(tokens == i)))
    ]
    if len(fitting) != 1:
        found = f"{fitting} do" if fitting else "none does"
        raise ValueError(
            f"tokens: one id should stand {tiles} * {tokens_per_tile} times for {tiles} tiles in runs of "
            f"{tokens_per_tile}; {found}. Give image_token_id"
        )
    return fitting[0]


def _image_slots(tokens: np.ndarray, held: range, n: int, image_token: int | None) -> np.ndarray:
    slots = np.full(len(tokens), -1, np.int32)
    if image_token is None and not held:
        return slots
    if image_token is None:
        image_token = infer_image_token(tokens, len(held), n)
    places = np.flatnonzero(tokens == image_token)
    if len(places) != len(held) * n:
        raise ValueError(
            f"tokens: the image token {image_token} stands {len(places)} times; expected {len(held) * n}, "
            f"{n} for each of {len(held)} tiles that the decoder holds"
        )
    slots[places] = np.arange(len(places)) + (held.start * n if held else 0)
    return slots


def _checked_tokens(tokens: Sequence[int] | np.ndarray, model: ModelConfig) -> np.ndarray:
    array = np.asarray(tokens)
    if array.ndim != 1 or not len(array) or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"tokens: expected int [S] with S at least 1, got {array.dtype} {list(array.shape)}")
    vocabulary = model.decoder.vocab_size
    if array.min() < 0 or array.max() >= vocabulary:
        raise ValueError(f"tokens: ids from {array.min()} to {array.max()}; expected 0 to {vocabulary - 1}")
    return array.astype(np.int32)


def _checked_tiles(tiles: np.ndarray | None, model: ModelConfig) -> np.ndarray:
    p = model.vision.image_size
    if tiles is None:
        return np.zeros((0, p, p, 3), np.uint8)
    array = np.asarray(tiles)
    if array.shape[1:] != (p, p, 3) or array.dtype != np.uint8:
        raise ValueError(f"tiles: expected uint8 [T, {p}, {p}, 3], got {array.dtype} {list(array.shape)}")
    return array


def _runs(places: np.ndarray) -> list[np.ndarray]:
    return np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
