"""Lengths from an index alone, before a model's own tokenizer, template and tags have measured them.

A rule of thumb for planning: texts as the index counts them (a token for four characters where it does not), and the
paper's tags and tiles. What training packs by is measured (`data_pipelines/index.py`).
"""

from __future__ import annotations

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.records import DatasetError

TEMPLATE = 24  # tokens of the system turn and of one question and answer around their texts
IMAGE = 6  # `<Image>` and `</Image>`
TAG = 5  # `<tile_1>`
TILE = 256  # image tokens
CHARACTERS = 4  # of a token


def decoder_tokens(text: np.ndarray, images: np.ndarray, tiles: np.ndarray, arch: str) -> np.ndarray:
    """Tokens of samples in the decoder, int32 [n].

    Args:
        text: tokens of the texts, int [n].
        images: how many, int [n].
        tiles: of all of a sample's images together, thumbnails too, int [n].
        arch: d holds every tile in its sequence, x their tags alone, h the thumbnails.
    """
    held = {"d": tiles * (TAG + TILE), "x": tiles * TAG, "h": images * (TAG + TILE)}[arch]
    return (TEMPLATE + text + images * IMAGE + held).astype(np.int32)


def read_lengths(file: str | pathlib.Path, arch: str, rows: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and tiles of the first `rows` samples (default: all) of an index, int32 [n] each, read piece by piece.

    Args:
        file: Parquet with `tiles` (of each image: a list; or of all: a number) and with `prompt_tokens` and
            `answer_tokens`, `tokens`, or `prompt_chars` and `answer_chars`.
        arch: d, x or h.
        rows: how many.

    Raises:
        DatasetError: there is no such file, or it lacks these columns.
    """
    try:
        index = pq.ParquetFile(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise DatasetError(f"{file}: not a readable Parquet file: {error}") from error
    columns = set(index.schema_arrow.names)
    texts = [("prompt_tokens", "answer_tokens"), ("tokens",), ("prompt_chars", "answer_chars")]
    known = [names for names in texts if columns.issuperset(names)]
    if "tiles" not in columns or not known:
        raise DatasetError(f"{file}: columns {sorted(columns)}; it needs `tiles`, and `prompt_tokens`, `answer_tokens`")
    wanted = ["tiles", *(name for names in known for name in names)]
    parts, left = [], index.metadata.num_rows if rows is None else rows
    for batch in index.iter_batches(1 << 16, columns=wanted):
        if left <= 0:
            break
        parts.append(_lengths(batch[:left], known, arch))
        left -= len(batch)
    if not parts:
        raise DatasetError(f"{file}: no samples")
    tokens, tiles = (np.concatenate(column) for column in zip(*parts, strict=True))
    return tokens, tiles


def _lengths(batch: pa.RecordBatch, known: list[tuple[str, ...]], arch: str) -> tuple[np.ndarray, np.ndarray]:
    tiles = batch["tiles"]
    if pa.types.is_list(tiles.type) or pa.types.is_large_list(tiles.type):
        offsets = tiles.offsets.to_numpy()
        flat = np.concatenate(
            [[0], np.cumsum(tiles.flatten().cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False))]
        )
        # Offsets of a slice count from the first sample of the whole.
        images, total = np.diff(offsets), np.diff(flat[offsets - offsets[0]])
    else:
        total = tiles.fill_null(0).to_numpy(zero_copy_only=False)
        images = (total > 0).astype(np.int32)
    return decoder_tokens(_text(batch, known), images, total, arch), total.astype(np.int32)


def _text(batch: pa.RecordBatch, known: list[tuple[str, ...]]) -> np.ndarray:
    """Of the columns that count text the first whose values are not null."""
    for names in known:
        found = [batch[name] for name in names]
        if all(column.null_count == 0 for column in found):
            break
    total = sum(pc.fill_null(column, 0).to_numpy(zero_copy_only=False).astype(np.int64) for column in found)
    return total // CHARACTERS if names[0].endswith("chars") else total
