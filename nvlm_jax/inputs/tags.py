"""Tile tags: the text that tells the decoder which tile the image tokens behind it belong to (paper, section 4.2).

    1d     <tile_1> <tile_2> ...                             the default, the best of the paper's ablation
    grid   <tile_x0_y0> <tile_x1_y0> ...                     column, row
    box    <box> (0, 0), (448, 448) </box> ...               left, top, right, bottom
    none   no tag at all

In every style but `none` the thumbnail has a tag of its own, and an image of one tile has that tag alone. Tags are
plain text for the decoder's own tokenizer. They depend on the tile's place only, never on the limit of tiles: raising
the limit at evaluation must not rename what the model was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nvlm_jax.config import TILE_TAGS, InputConfig, ModelConfig
from nvlm_jax.inputs.batch import THUMBNAIL
from nvlm_jax.inputs.tiling import grids
from nvlm_jax.inputs.tokenizer import Tokenizer

THUMBNAIL_TAG = "<tile_global_thumbnail>"
# Tokens of the longest tag at 6 tiles with Qwen2's tokenizer.
QWEN2_ROOM = {"none": 0, "1d": 5, "grid": 10, "box": 32}


def tile_tags(
    cols: int,
    rows: int,
    style: str = "1d",
    thumbnail_tag: str = THUMBNAIL_TAG,
    tile_size: int = 448,
    thumbnail: bool = True,
) -> list[str]:
    """One tag for each tile, row by row, the thumbnail's last; empty strings for style `none`.

    The coordinates of `box` are pixels of the image resized to the grid, right and bottom excluded. (The paper says
    "within the whole image"; that the resized one is meant is our inference: it makes them whole numbers.)

    >>> tile_tags(2, 1)
    ['<tile_1>', '<tile_2>', '<tile_global_thumbnail>']
    >>> tile_tags(1, 1, "box")
    ['<tile_global_thumbnail>']

    Args:
        cols: of the grid.
        rows: of the grid.
        style: none | 1d | grid | box.
        thumbnail_tag: the thumbnail's tag, which differs by backbone.
        tile_size: P, pixels along a tile's side.
        thumbnail: whether an image of several tiles has one.

    Raises:
        ValueError: an unknown style.
    """
    if style not in TILE_TAGS:
        raise ValueError(f"inputs.tile_tags: {style!r} is none of {', '.join(TILE_TAGS)}")
    places = [(x, y) for y in range(rows) for x in range(cols)]
    if len(places) == 1:
        tags = [thumbnail_tag]
    elif style == "grid":
        tags = [f"<tile_x{x}_y{y}>" for x, y in places]
    elif style == "box":
        p = tile_size
        tags = [f"<box> ({x * p}, {y * p}), ({(x + 1) * p}, {(y + 1) * p}) </box>" for x, y in places]
    else:
        tags = [f"<tile_{k + 1}>" for k in range(len(places))]
    if len(places) > 1 and thumbnail:
        tags.append(thumbnail_tag)
    return [""] * len(tags) if style == "none" else tags


def tile_indices(cols: int, rows: int, thumbnail: bool = True) -> list[int]:
    """The `tile_index` of each tile: 1, 2, ... row by row, THUMBNAIL for the last one or an only one."""
    if cols * rows == 1:
        return [THUMBNAIL]
    return [*range(1, cols * rows + 1), *([THUMBNAIL] if thumbnail else [])]


def reads_tags(model: ModelConfig) -> bool:
    """Whether the cross-attention is told the tags of its tiles (`CrossAttentionConfig.tile_tags`)."""
    return model.cross_attention is not None and bool(model.cross_attention.tile_tags)


def tag_ids(grid: tuple[int, int], inputs: InputConfig, model: ModelConfig, tokenizer: Tokenizer) -> list[list[int]]:
    """The token ids of each tile's tag as the cross-attention is told it; none of a thumbnail, whose tag is text.

    Args:
        grid: (cols, rows).
        inputs: the tags' style.
        model: whether its cross-attention reads tags at all, and its tile size.
        tokenizer: the decoder's.
    """
    indices = tile_indices(*grid, inputs.thumbnail)
    if not reads_tags(model):
        return [[] for _ in indices]
    names = tile_tags(*grid, inputs.tile_tags, inputs.thumbnail_tag, model.vision.image_size, inputs.thumbnail)
    return [[] if i == THUMBNAIL else tokenizer.encode(name) for name, i in zip(names, indices, strict=True)]


def tag_room(inputs: InputConfig, model: ModelConfig, tokenizer: Tokenizer | None) -> int:
    """K: tokens of the longest tag of any grid of at most `inputs.max_tiles` tiles, 0 where no tag is read.

    Args:
        inputs: the tags' style.
        model: as for `tag_ids`.
        tokenizer: the decoder's; None = by the lengths of Qwen2's, for a plan on a machine that has none.
    """
    if not reads_tags(model):
        return 0
    if tokenizer is None:
        return QWEN2_ROOM[inputs.tile_tags]
    every = (tag_ids(grid, inputs, model, tokenizer) for grid in grids(inputs.max_tiles))
    return max(len(ids) for tags in every for ids in tags)


def tag_room_of(inputs: InputConfig, model: ModelConfig) -> int:
    """`tag_room` by the tokenizer that the settings name, where it is there and where it matters."""
    if not reads_tags(model):
        return 0
    try:
        return tag_room(inputs, model, Tokenizer(inputs.tokenizer))
    except FileNotFoundError:
        return tag_room(inputs, model, None)


def pad_tags(ids: Sequence[Sequence[int]], room: int) -> np.ndarray:
    """Int32 [t, room]: token ids of each tile's tag, then -1."""
    out = np.full((len(ids), room), -1, np.int32)
    for row, tag in zip(out, ids, strict=True):
        row[: len(tag)] = tag
    return out
