"""Template `dense`: labels for each image token, to pretrain a vision encoder. There is no text.

`sample.meta["dense"]` holds, for each image, tile and cell (one image token), a string of J symbols. The example asks
for them one by one: for cell `c` of all its tiles and label `j`

    tokens = j    image_slots = c    targets = the token of symbol j    loss_weights = 1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nvlm_jax.config import ModelConfig
from nvlm_jax.inputs.batch import Example, Sample
from nvlm_jax.inputs.errors import BadSample, exceeds, too_long
from nvlm_jax.inputs.images import ImageBlocks, Picture

GROUP = "dense"


def dense_size(
    sample: Sample,
    images: ImageBlocks,
    pictures: Sequence[Picture],
    model: ModelConfig,
    max_tokens: int | None,
    max_tiles: int | None,
) -> tuple[int, int]:
    """Tokens and tiles of the example.

    Raises:
        BadSample: `bad_dense`, the labels do not fit the tiles; `too_long`.
    """
    labels = sample.meta.get("dense", ())
    counts = [images.tile_count(picture) for picture in pictures]
    n, j = model.tokens_per_tile, model.dense_labels
    fits = [len(image) for image in labels] == counts and all(
        len(tile) == n and all(len(cell) == j for cell in tile) for image in labels for tile in image
    )
    if not fits or not counts:
        raise BadSample(
            "bad_dense",
            f"sample {sample.id!r}: meta 'dense' must hold {n} strings of {j} symbols a tile, for {counts} tiles",
        )
    tokens, tiles = sum(counts) * n * j, sum(counts)
    if exceeds(tokens, max_tokens) or exceeds(tiles, max_tiles):
        raise too_long(sample.id, "it", tokens, tiles, max_tokens, max_tiles)
    return tokens, tiles


def dense_example(
    sample: Sample, images: ImageBlocks, pictures: Sequence[Picture], model: ModelConfig, groups: Mapping[str, int]
) -> Example:
    """The example of a sample that `dense_size` has checked.

    Raises:
        BadSample: `bad_dense`, a symbol is not one token; or an image turns out broken.
    """
    symbols = "".join(cell for image in sample.meta["dense"] for tile in image for cell in tile)
    per_tile = model.tokens_per_tile * model.dense_labels
    counts = [images.tile_count(picture) for picture in pictures]
    tiles = sum(counts)
    starts = np.array([picture.first * per_tile for picture in pictures], np.int32)
    return Example(
        id=sample.id,
        tokens=np.tile(np.arange(model.dense_labels, dtype=np.int32), tiles * model.tokens_per_tile),
        targets=np.array(images.symbol_ids(sample.id, symbols, "bad_dense"), np.int32),
        loss_weights=np.ones(tiles * per_tile, np.float32),
        loss_groups=np.full(tiles * per_tile, groups.get(GROUP, 0), np.int32),
        tiles=images.tiles(sample.id, pictures),
        tile_index=np.array([i for picture in pictures for i in images.tile_indices(picture)], np.int32),
        tile_start=np.repeat(starts, counts),
        image_slots=np.repeat(np.arange(tiles * model.tokens_per_tile, dtype=np.int32), model.dense_labels),
        tag_tile=np.zeros(tiles * per_tile, np.int32),
    )
