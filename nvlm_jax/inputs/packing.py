"""Examples -> rows of fixed size -> Batch. Which examples share a row is planned elsewhere; this places them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nvlm_jax.inputs.batch import Batch, Example


def pack_row(
    examples: Sequence[Example],
    tokens_per_row: int,
    tiles_per_row: int,
    tile_size: int,
    tokens_per_tile: int,
    tag_tokens: int | None = None,
) -> Batch:
    """Place examples one after the other in a row and pad the rest.

    Args:
        examples: in order; the first becomes segment 1. None at all gives a row of padding.
        tokens_per_row: S.
        tiles_per_row: T.
        tile_size: P.
        tokens_per_tile: N.
        tag_tokens: K, `ExampleBuilder.tag_tokens`; None = what these examples need.

    Returns:
        A `Batch` whose arrays lack the leading axis B.

    Raises:
        ValueError: the examples exceed the row's tokens or tiles, or have tiles of another size or longer tags.
    """
    return _row(pack_batch([examples], tokens_per_row, tiles_per_row, tile_size, tokens_per_tile, tag_tokens), 0)


def weigh(example: Example, loss_per: str) -> Example:
    """The example with its loss weights by `data.loss_per`.

    Its n trained tokens together weigh n (`token`), 1 (`sample`), or the square root of n (`sqrt`).
    """
    trained = np.count_nonzero(example.loss_weights)
    if loss_per == "token" or not trained:
        return example
    weights = example.loss_weights * trained ** {"sample": -1.0, "sqrt": -0.5}[loss_per]
    return example._replace(loss_weights=weights.astype(np.float32))


def stack_rows(rows: Sequence[Batch]) -> Batch:
    """Rows from `pack_row` -> a batch with leading axis B."""
    return Batch(*(np.stack(values) for values in zip(*rows, strict=True)))


def pack_batch(
    rows: Sequence[Sequence[Example]],
    tokens_per_row: int,
    tiles_per_row: int,
    tile_size: int,
    tokens_per_tile: int,
    tag_tokens: int | None = None,
) -> Batch:
    """One row for each list of examples. Arguments and errors as `pack_row`."""
    if tag_tokens is None:
        tags = [x.tile_tags for examples in rows for x in examples if x.tile_tags is not None]
        tag_tokens = max((tag.shape[1] for tag in tags), default=0)
    batch = _empty(len(rows), tokens_per_row, tiles_per_row, tile_size, tag_tokens)
    for i, examples in enumerate(rows):
        _fill(_row(batch, i), examples, tokens_per_tile)
    return batch


def _empty(b: int, s: int, t: int, p: int, k: int) -> Batch:
    return Batch(
        tokens=np.zeros((b, s), np.int32),
        targets=np.zeros((b, s), np.int32),
        loss_weights=np.zeros((b, s), np.float32),
        loss_groups=np.zeros((b, s), np.int32),
        segment_ids=np.zeros((b, s), np.int32),
        positions=np.zeros((b, s), np.int32),
        tiles=np.zeros((b, t, p, p, 3), np.uint8),
        tile_segment_ids=np.zeros((b, t), np.int32),
        tile_index=np.zeros((b, t), np.int32),
        tile_start=np.zeros((b, t), np.int32),
        image_slots=np.full((b, s), -1, np.int32),
        tag_tile=np.zeros((b, s), np.int32),
        tile_tags=np.full((b, t, k), -1, np.int32),
    )


def _row(batch: Batch, row: int) -> Batch:
    """Views of one row: what is written to them is written to the batch."""
    return Batch(*(array[row] for array in batch))


def _fill(row: Batch, examples: Sequence[Example], tokens_per_tile: int) -> None:
    _check(row, examples)
    token, tile = 0, 0
    for segment, example in enumerate(examples, start=1):
        s = slice(token, token + len(example.tokens))
        t = slice(tile, tile + len(example.tiles))
        row.tokens[s] = example.tokens
        row.targets[s] = example.targets
        row.loss_weights[s] = example.loss_weights
        row.loss_groups[s] = example.loss_groups
        row.segment_ids[s] = segment
        row.positions[s] = np.arange(len(example.tokens))
        row.image_slots[s] = np.where(example.image_slots >= 0, example.image_slots + tile * tokens_per_tile, -1)
        row.tag_tile[s] = np.where(example.tag_tile > 0, example.tag_tile + tile, 0)
        row.tiles[t] = example.tiles
        row.tile_segment_ids[t] = segment
        row.tile_index[t] = example.tile_index
        row.tile_start[t] = example.tile_start + token
        if example.tile_tags is not None:
            row.tile_tags[t, : example.tile_tags.shape[1]] = example.tile_tags
        token, tile = s.stop, t.stop


def _check(row: Batch, examples: Sequence[Example]) -> None:
    limits = (len(row.tokens), len(row.tiles))
    used = (sum(len(x.tokens) for x in examples), sum(len(x.tiles) for x in examples))
    if used[0] > limits[0] or used[1] > limits[1]:
        raise ValueError(
            f"row of samples {[x.id for x in examples]}: {used[0]} tokens and {used[1]} tiles; data.tokens_per_row "
            f"{limits[0]} and data.tiles_per_row {limits[1]} must hold them"
        )
    room = row.tile_tags.shape[1]
    for example in examples:
        if example.tile_tags is not None and example.tile_tags.shape[1] > room:
            raise ValueError(
                f"sample {example.id!r}: tags of up to {example.tile_tags.shape[1]} tokens; the row has room for "
                f"{room}, and tag_tokens should be the builder's"
            )
        if len(example.tiles) and example.tiles.shape[1:] != row.tiles.shape[1:]:
            raise ValueError(
                f"sample {example.id!r}: tiles of {example.tiles.shape[1:]}; the row's are {row.tiles.shape[1:]}"
            )
