"""Token ids and tiles that were made elsewhere -> an Example, as `ExampleBuilder` would have made it."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

from nvlm_jax.config import InputConfig, ModelConfig
from nvlm_jax.inputs.batch import THUMBNAIL, Example
from nvlm_jax.inputs.chat import IMAGE_OPEN
from nvlm_jax.inputs.tags import tile_tags
from nvlm_jax.inputs.tokenizer import Tokenizer


def example_from_tokens(
    tokens: Sequence[int] | np.ndarray,
    tiles: np.ndarray | None,
    model: ModelConfig,
    inputs: InputConfig,
    tokenizer: Tokenizer | None = None,
    image_token: int | None = None,
) -> Example:
    """A prompt from its ids and the tiles of its images.

    Where each image stands: NVLM-D holds every tile's N image tokens, NVLM-H the thumbnail's, NVLM-X none. X and H take
    one image here, for which tokens belong to which of several is not in the ids. Its tags are found by their ids, so a
    question's `<tile_k>` is seen as one only where it is tokenized as the image block's own.

    Args:
        tokens: int [S], the image token repeated where image tokens go.
        tiles: uint8 [T, P, P, 3], the thumbnail last; None = text only.
        model: its architecture, tile size and tokens a tile.
        inputs: names of the tags and of the image token.
        tokenizer: None = X and H show every tile to every token.
        image_token: its id; None = by the tokenizer, or without one inferred, see `infer_image_token`.

    Raises:
        ValueError: tokens or tiles of the wrong shape, dtype or range, or another number of image tokens than of tiles.
    """
    tokens = _checked_tokens(tokens, model)
    tiles = _checked_tiles(tiles, model)
    count = len(tiles)
    if image_token is None and tokenizer is not None:
        image_token = tokenizer.special(inputs.image_token)
    held = {"d": range(count), "x": range(0), "h": range(count - 1, count)}[model.arch] if count else range(0)
    slots = _image_slots(tokens, held, model.tokens_per_tile, image_token)
    tag_tile, start = np.zeros(len(tokens), np.int32), 0
    if model.arch != "d" and count and tokenizer is not None:
        tag_tile, start = _visibility(tokens, count, inputs, tokenizer)
    return Example(
        id="given",
        tokens=tokens,
        targets=np.zeros_like(tokens),
        loss_weights=np.zeros(len(tokens), np.float32),
        loss_groups=np.zeros(len(tokens), np.int32),
        tiles=tiles,
        tile_index=np.array([*range(1, count), THUMBNAIL] if count else [], np.int32),
        tile_start=np.full(count, start, np.int32),
        image_slots=slots,
        tag_tile=tag_tile,
    )


def _visibility(tokens: np.ndarray, count: int, inputs: InputConfig, tokenizer: Tokenizer) -> tuple[np.ndarray, int]:
    """`tag_tile` [S] and the place of the first token of `<Image>`, from which on tiles are seen."""
    end = bisect.bisect_left(range(len(tokens)), True, key=lambda i: IMAGE_OPEN in tokenizer.decode(tokens[: i + 1]))
    start = min(end, len(tokens) - 1)
    while start and IMAGE_OPEN not in tokenizer.decode(tokens[start : end + 1]):
        start -= 1
    tag_tile = np.zeros(len(tokens), np.int32)
    style = inputs.tile_tags if inputs.tile_tags in ("1d", "none") else "none"  # others depend on the grid
    for tile, tag in enumerate(tile_tags(max(count - 1, 1), 1, style, inputs.thumbnail_tag)):
        ids = tokenizer.encode(tag)
        for i in _find(tokens, ids):
            tag_tile[i : i + len(ids)] = 1 + tile
    return tag_tile, start


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


def _find(tokens: np.ndarray, tag: Sequence[int]) -> list[int]:
    """Where the ids of `tag` begin."""
    if not len(tag) or len(tag) > len(tokens):
        return []
    windows = np.lib.stride_tricks.sliding_window_view(tokens, len(tag))
    return np.flatnonzero((windows == np.asarray(tag)).all(axis=1)).tolist()


def _runs(places: np.ndarray) -> list[np.ndarray]:
    return np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
