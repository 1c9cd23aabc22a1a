"""The files of public benchmarks: found, read row by row, and complained about by name.

A benchmark lists the layouts that it is published in, best first. `locate` takes the first one that is there:

    locate(data, "docvqa", ("docvqa", "DocVQA"), LAYOUTS, "hf download ...")

Rows are read as they are asked for, so a benchmark larger than the memory is no problem.
"""

from __future__ import annotations

import ast
import base64
import binascii
import csv
import dataclasses
import gzip
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow
import pyarrow.parquet

from nvlm_jax import json_text
from nvlm_jax.evaluation.question import Question

Row = Mapping[str, Any]
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\D)")
_BATCH = 64  # rows of a Parquet file in memory at once
_REFERENCE = 64  # characters; a shorter image cell of a VLMEvalKit file names the row that has the picture
csv.field_size_limit(2**31 - 1)  # an image in base64 is one field


class BenchmarkError(Exception):
    """A benchmark's files that cannot be used; the message names the file, what is wrong and what would be right."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """One published form: the files that make it and how they are read."""

    pattern: str  # glob inside the benchmark's folder
    read: Callable[[list[pathlib.Path]], Iterator[Question]]


def locate(
    data: pathlib.Path, name: str, folders: Sequence[str], layouts: Sequence[Layout], download: str
) -> Iterator[Question]:
    """Questions of the first layout that is there.

    Args:
        data: the directory of all benchmarks, or this one's own folder.
        name: of the benchmark, for messages.
        folders: names (in any case) that its folder in `data` may have.
        layouts: in order of preference.
        download: the command, or the page, that the files come from.

    Raises:
        BenchmarkError: none of the layouts is there, or a numbered Parquet file is missing.
    """
    wanted = [folder.lower() for folder in folders]
    for root in _roots(data, wanted):
        for layout in layouts:
            files = sorted(path for path in root.glob(layout.pattern) if path.is_file())
            # In the folder of all benchmarks, "*/test-*.parquet" would be another one's files.
            ours = not layout.pattern.startswith("*/") or root.name.lower() in wanted
            if files and ours:
                _check_shards(name, files)
                return layout.read(files)
    expected = "".join(f"\n  {data / folders[0] / layout.pattern}" for layout in layouts)
    raise BenchmarkError(f"{name}: no files in {data}; expected one of{expected}\nget them: {download}")


def _roots(data: pathlib.Path, wanted: Sequence[str]) -> list[pathlib.Path]:
    """The benchmark's own folders in `data`, then `data` itself."""
    inside = [path for path in data.iterdir() if path.is_dir()] if data.is_dir() else []
    named = [path for folder in wanted for path in inside if path.name.lower() == folder]
    return [*named, data]


def _check_shards(name: str, files: Sequence[pathlib.Path]) -> None:
    for path in files:
        if shard := _SHARD.search(path.name):
            for number in range(int(shard[2])):
                other = path.with_name(path.name[: shard.start()] + f"-{number:05}-of-{shard[2]}" + path.suffix)
                # Some repositories put a hash behind the numbers, so any name with them will do.
                if not any(path.parent.glob(f"{other.stem}*{path.suffix}")):
                    raise BenchmarkError(f"{name}: {other} is missing; there are {int(shard[2])} files of that kind")


# ---- readers of one file


def read_parquet(path: pathlib.Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Rows with `columns` and those of `optional` that the file has.

    Raises:
        BenchmarkError: not a Parquet file, or columns are missing.
    """
    try:
        file = pyarrow.parquet.ParquetFile(path)
        present = file.schema_arrow.names
        _check_columns(path, present, columns)
        wanted = [*columns, *(c for c in optional if c in present)]
        for batch in file.iter_batches(_BATCH, columns=wanted):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise BenchmarkError(f"{path}: cannot be read as Parquet: {error}; download it again") from error


def read_table(path: pathlib.Path, columns: Sequence[str] = (), names: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """Rows of a .tsv or .csv file; empty cells are empty strings.

    Args:
        path: the ending tells the separator.
        columns: that must be there.
        names: of the columns of a file without a header.

    Raises:
        BenchmarkError: columns are missing, a row has another number of cells, or the text is not UTF-8.
    """
    with path.open(encoding="utf-8", newline="") as file:
        try:
            rows = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            header = list(names) or next(rows, [])
            _check_columns(path, header, columns)
            for number, cells in enumerate(rows, 1 if names else 2):
                if len(cells) != len(header):
                    raise BenchmarkError(f"{path}, row {number}: {len(cells)} cells; the header has {len(header)}")
                yield dict(zip(header, cells, strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise BenchmarkError(f"{path}: cannot be read as a table: {error}") from error


def read_json(path: pathlib.Path) -> Any:
    """A JSON file's value. Raises BenchmarkError where it is absent or damaged."""
    try:
        return json_text.parse(json_text.read_bytes(path))
    except FileNotFoundError:
        raise BenchmarkError(f"{path}: is missing") from None
    except (json_text.JsonError, OSError) as error:
        raise BenchmarkError(f"{path}: not JSON: {error}; download it again") from error


def read_json_lines(path: pathlib.Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Objects of a .jsonl or .jsonl.gz file. Raises BenchmarkError for a damaged line or one without `columns`."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield checked(json_text.parse(line), columns, f"{path}, line {number}")
    except (ValueError, EOFError, OSError) as error:
        raise BenchmarkError(f"{path}: cannot be read as JSON lines: {error}; download it again") from error


def checked(row: Any, columns: Sequence[str], where: str) -> dict[str, Any]:
    """`row`, which must be an object with these keys. Raises BenchmarkError naming `where`."""
    if not isinstance(row, dict):
        raise BenchmarkError(f"{where}: expected an object with {', '.join(columns)}, got {type(row).__name__}")
    _check_columns(where, list(row), columns)
    return row


def _check_columns(where: object, present: Sequence[str], wanted: Sequence[str]) -> None:
    if missing := [column for column in wanted if column not in present]:
        raise BenchmarkError(f"{where}: no column {', '.join(missing)}; it has {', '.join(present) or 'none'}")


# ---- cells


def picture(cell: Any, where: str) -> bytes:
    """The encoded image of a Parquet cell, {"bytes": ..., "path": ...} as Hugging Face's `Image` feature stores it."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes) or not data:
        raise BenchmarkError(f'{where}: no picture; expected {{"bytes": the encoded image}}, got {str(cell)[:80]!r}')
    return data


def picture_file(path: pathlib.Path, where: str) -> pathlib.Path:
    """`path`, which must exist. Raises BenchmarkError naming `where`."""
    if not path.is_file():
        raise BenchmarkError(f"{where}: its image {path} is missing")
    return path


def listed(text: Any, where: str) -> list[Any]:
    """A list, or a text that is a Python or JSON list, as tables hold them; another text is a list of one."""
    if isinstance(text, list | tuple):
        return list(text)
    if isinstance(text, str) and text.strip().startswith("["):
        try:
            found = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError) as error:
            raise BenchmarkError(f"{where}: {text[:80]!r} is not a list") from error
        if isinstance(found, list):
            return found
    return [text]


def read_vlmevalkit(path: pathlib.Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str], list[bytes]]]:
    """Rows of a VLMEvalKit table: (index, row, pictures).

    A cell of `image` holds a picture in base64, a list of such, or the index of the row that holds it.

    Raises:
        BenchmarkError: a column is missing, or a picture cannot be decoded or is not there.
    """
    columns = ("index", "image", *columns)
    shared = {row["image"] for row in read_table(path, columns) if 0 < len(row["image"]) <= _REFERENCE}
    rows = read_table(path, columns) if shared else ()
    held = {row["index"]: row["image"] for row in rows if row["index"] in shared}
    for row in read_table(path, columns):
        where = f"{path}, index {row['index']}"
        cell = row.pop("image")
        if not cell:  # VLMEvalKit leaves such rows out too
            continue
        if len(cell) <= _REFERENCE:
            if len(held.get(cell, "")) <= _REFERENCE:
                raise BenchmarkError(f"{where}: its image {cell!r} is neither base64 nor the index of a row with one")
            cell = held[cell]
        yield row["index"], row, [_decoded(text, where) for text in listed(cell, where)]


def _decoded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BenchmarkError(f"{where}: its image is not base64: {error}") from error
