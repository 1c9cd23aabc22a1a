"""Rows filled with samples of one kind, for measuring a step where no dataset is at hand."""

from __future__ import annotations

import numpy as np

from nvlm_jax.config import RunConfig
from nvlm_jax.inputs.batch import THUMBNAIL, Batch, Example
from nvlm_jax.inputs.packing import pack_batch
from nvlm_jax.inputs.tags import tag_room_of


def synthetic_batch(config: RunConfig, text: int, tiles: int, seed: int = 0) -> tuple[Batch, int]:
    """As many samples a row as its budgets hold, each an image and `text` tokens behind it, half of them trained.

    Args:
        config: of the run; the architecture says where the image goes.
        text: tokens of a sample that are neither image tokens nor tags; at least 2.
        tiles: of its image, thumbnail included; 0 for text alone.
        seed: of the random tokens and pixels.

    Returns:
        The global batch and the number of samples in it.
    """
    random = np.random.default_rng(seed)
    data, model, rows = config.data, config.model, config.train.batch_rows
    one = synthetic_example(config, text, tiles, random)
    count = data.tokens_per_row // len(one.tokens)
    if tiles:
        count = min(count, data.tiles_per_row // tiles)
    if not count:
        raise ValueError(
            f"a sample of {len(one.tokens)} tokens and {tiles} tiles does not fit a row of {data.tokens_per_row} and "
            f"{data.tiles_per_row}"
        )
    made = [[one] + [synthetic_example(config, text, tiles, random) for _ in range(count - 1)] for _ in range(rows)]
    room = one.tile_tags.shape[1]
    sizes = (data.tokens_per_row, data.tiles_per_row, model.vision.image_size, model.tokens_per_tile, room)
    return pack_batch(made, *sizes), rows * count


def synthetic_example(config: RunConfig, text: int, tiles: int, random: np.random.Generator) -> Example:
    """One sample: for each tile a tag token and, where the decoder shows it, its image tokens; then the text."""
    model = config.model
    side, per_tile = model.vision.image_size, model.tokens_per_tile
    shown = {"d": tiles, "x": 0, "h": min(tiles, 1)}[model.arch]
    slots: list[int] = []
    tags: list[int] = []
    for tile in range(tiles):
        if model.arch == "h" and tile < tiles - 1:
            continue
        slots.append(-1)
        tags.append(tile + 1)
        if tile >= tiles - shown:
            slots += range(tile * per_tile, (tile + 1) * per_tile)
            tags += [0] * per_tile
    slots, tags = slots + [-1] * text, tags + [0] * text
    length = len(slots)
    tokens = random.integers(1, model.decoder.vocab_size, length + 1).astype(np.int32)
    weights = np.zeros(length, np.float32)
    weights[length - text // 2 :] = 1
    index = np.arange(1, tiles + 1, dtype=np.int32)
    index[-1:] = THUMBNAIL
    names = random.integers(1, model.decoder.vocab_size, (tiles, tag_room_of(config.inputs, model))).astype(np.int32)
    return Example(
        id="synthetic",
        tokens=tokens[:-1],
        targets=tokens[1:],
        loss_weights=weights,
        loss_groups=np.zeros(length, np.int32),
        tiles=random.integers(0, 256, (tiles, side, side, 3)).astype(np.uint8),
        tile_index=index,
        tile_start=np.zeros(tiles, np.int32),
        image_slots=np.array(slots, np.int32),
        tag_tile=np.array(tags, np.int32),
        tile_tags=np.where(index[:, None] == THUMBNAIL, -1, names),
    )
