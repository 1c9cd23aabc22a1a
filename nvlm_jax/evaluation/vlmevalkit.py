"""VLMEvalKit's tables: tab-separated, pictures in base64, an index for each row."""

from __future__ import annotations

import base64
import binascii
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from nvlm_jax.evaluation.cells import listed
from nvlm_jax.evaluation.files import BenchmarkError, Record, outcomes, read_table, resumable

_REFERENCE = 64  # characters; a shorter image cell names the row that has the picture


@resumable
def read_vlmevalkit(path: pathlib.Path, columns: Sequence[str]) -> Iterator[Record | BenchmarkError]:
    """Rows of a VLMEvalKit table; `images` of each holds its pictures.

    A cell of `image` holds a picture in base64, a list of such, or the index of the row that holds it.

    Raises:
        BenchmarkError: a column is missing, or a picture cannot be decoded or is not there.
    """
    columns = ("index", "image", *columns)
    shared = {row["image"] for row in _good_rows(path, columns) if 0 < len(row["image"]) <= _REFERENCE}
    rows = _good_rows(path, columns) if shared else ()
    pictures = {row["index"]: row["image"] for row in rows if row["index"] in shared}
    for row in outcomes(read_table(path, columns)):
        if isinstance(row, BenchmarkError):
            yield row
        elif row["image"]:  # VLMEvalKit leaves rows without any out too
            yield _with_pictures(row, pictures, f"{path}, index {row['index']}")


def _good_rows(path: pathlib.Path, columns: Sequence[str]) -> Iterator[Record]:
    return (row for row in outcomes(read_table(path, columns)) if isinstance(row, Record))


def _with_pictures(row: Record, pictures: Mapping[str, str], where: str) -> Record | BenchmarkError:
    cell = row["image"]
    if len(cell) <= _REFERENCE:
        if len(pictures.get(cell, "")) <= _REFERENCE:
            return BenchmarkError(f"{where}: its image {cell!r} is neither base64 nor the index of a row with one")
        cell = pictures[cell]
    try:
        texts = listed(cell, where, "image") if cell.startswith("[") else [cell]
        return Record(row | {"images": [_decoded(text, where) for text in texts]}, where)
    except BenchmarkError as error:
        return error


def _decoded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BenchmarkError(f"{where}: its image is not base64: {error}") from error
