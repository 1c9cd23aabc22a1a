"""The files of public benchmarks: found, read row by row, and complained about by name.

A benchmark lists the layouts that it is published in, best first. `locate` takes the first one that is there:

    locate(data, "docvqa", ("docvqa", "DocVQA"), LAYOUTS, "hf download ...")

Rows are read as they are asked for, so a benchmark larger than the memory is no problem. A loader is

    rows = files.read_records(path, ("question", "answer"))     each knows its place, `row.where`
    return files.each(rows, make)                               make(number, row) -> Question

and goes on behind a row that is wrong: the row's BenchmarkError is raised in its place, once, and the next call gives
the next question. So one pass finds every fault of a file (`check`), and no question is asked of a file with one.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import gzip
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow
import pyarrow.parquet

from nvlm_jax import json_text
from nvlm_jax.evaluation.question import Question

T = TypeVar("T")
Row = Mapping[str, Any]
ENCODING = "utf-8-sig"  # editors and spreadsheets put a byte order mark in front
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\D)")
_BATCH = 64  # rows of a Parquet file in memory at once
csv.field_size_limit(2**31 - 1)  # an image in base64 is one field


class BenchmarkError(Exception):
    """A benchmark's files that cannot be used; the message names the file, what is wrong and what would be right."""


class BenchmarkMissing(BenchmarkError):
    """None of a benchmark's files is there."""


class Record(dict[str, Any]):
    """One record of a file, and where it stands."""

    def __init__(self, row: Row, where: str):
        super().__init__(row)
        self.where = where


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
        BenchmarkMissing: none of the layouts is there.
        BenchmarkError: a numbered Parquet file is missing.
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
    raise BenchmarkMissing(f"{name}: no files in {data}; expected one of{expected}\nget them: {download}")


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


# ---- going on behind what is wrong


class _Resumable(Iterator[T]):
    """An iterator's items; a fault among them is raised, and the next call goes on behind it."""

    def __init__(self, items: Iterator[T | BenchmarkError]):
        self._items = items

    def __next__(self) -> T:
        item = next(self._items)
        if isinstance(item, BenchmarkError):
            raise item
        return item


def resumable(function: Callable[..., Iterator[T | BenchmarkError]]) -> Callable[..., Iterator[T]]:
    """Decorates a generator function that yields faults among its items."""

    @functools.wraps(function)
    def wrapped(*args: Any, **options: Any) -> Iterator[T]:
        return _Resumable(function(*args, **options))

    return wrapped


def outcomes(items: Iterable[T]) -> Iterator[T | BenchmarkError]:
    """The items, with every fault as one of them. Behind a fault of a plain generator there is nothing."""
    items = iter(items)
    while True:
        try:
            item: T | BenchmarkError = next(items)
        except StopIteration:
            return
        except BenchmarkError as error:
            item = error
        yield item


@resumable
def chained(parts: Iterable[Iterable[T]]) -> Iterator[T | BenchmarkError]:
    """The items of all parts, one part after the other."""
    for part in parts:
        yield from outcomes(part)


@resumable
def each(rows: Iterable[Record], make: Callable[[int, Record], Question]) -> Iterator[Question | BenchmarkError]:
    """A question of each row by `make`, which gets the row's number, over all files, and the row."""
    for number, row in enumerate(outcomes(rows)):
        yield row if isinstance(row, BenchmarkError) else _made(make, number, row)


def _made(make: Callable[[int, Record], Question], number: int, row: Record) -> Question | BenchmarkError:
    try:
        return dataclasses.replace(make(number, row), where=row.where)
    except BenchmarkError as error:
        return error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        return BenchmarkError(f"{row.where}: cannot be read as a question ({type(error).__name__}: {error})")


# ---- readers of one file


@resumable
def read_parquet(
    path: pathlib.Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[Record | BenchmarkError]:
    """Rows with `columns` and those of `optional` that the file has.

    Raises:
        BenchmarkError: not a Parquet file, or columns are missing.
    """
    try:
        file = pyarrow.parquet.ParquetFile(path)
        present = file.schema_arrow.names
        _check_columns(path, present, columns)
        wanted = [*columns, *(c for c in optional if c in present)]
        number = 0
        for batch in file.iter_batches(_BATCH, columns=wanted):
            for row in batch.to_pylist():
                yield Record(row, f"{path}, row {number}")
                number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise BenchmarkError(f"{path}: cannot be read as Parquet: {error}; download it again") from error


@resumable
def read_table(
    path: pathlib.Path, columns: Sequence[str] = (), names: Sequence[str] = ()
) -> Iterator[Record | BenchmarkError]:
    """Rows of a .tsv or .csv file; empty cells are empty strings.

    Args:
        path: the ending tells the separator.
        columns: that must be there.
        names: of the columns of a file without a header.

    Raises:
        BenchmarkError: columns are missing, a row has another number of cells, or the text is not UTF-8.
    """
    with path.open(encoding=ENCODING, newline="") as file:
        try:
            rows = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            header = list(names) or next(rows, [])
            _check_columns(path, header, columns)
            for number, cells in enumerate(rows, 1 if names else 2):
                if not cells:  # a blank line
                    continue
                if len(cells) == len(header):
                    yield Record(dict(zip(header, cells, strict=True)), f"{path}, row {number}")
                elif names:
                    expected = f"expected {len(names)}: {', '.join(names)}"
                    yield BenchmarkError(f"{path}, row {number}: {len(cells)} cells; {expected}")
                else:
                    yield BenchmarkError(f"{path}, row {number}: {len(cells)} cells; the header has {len(header)}")
        except (UnicodeDecodeError, csv.Error) as error:
            raise BenchmarkError(f"{path}: cannot be read as a table: {error}") from error


def first_cells(path: pathlib.Path) -> list[str]:
    """The first row of a table, header or not; empty where there is none."""
    with path.open(encoding=ENCODING, newline="") as file:
        try:
            return next(csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ","), [])
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


@resumable
def read_records(path: pathlib.Path, columns: Sequence[str], key: str = "") -> Iterator[Record | BenchmarkError]:
    """The objects of a JSON file that is a list, or an object whose `key` holds one.

    Raises:
        BenchmarkError: the file is absent or damaged, its value is another, or an object lacks `columns`.
    """
    rows = read_json(path)
    rows = checked(rows, (key,), str(path))[key] if key else rows
    if not isinstance(rows, list):
        raise BenchmarkError(f"{path}{f', {key}' if key else ''}: expected a list, got {type(rows).__name__}")
    for number, row in enumerate(rows):
        yield _checked_record(row, columns, f"{path}, {key}[{number}]")


@resumable
def read_object(path: pathlib.Path, columns: Sequence[str]) -> Iterator[Record | BenchmarkError]:
    """The one object of a JSON file. Raises BenchmarkError as `read_json`, or where it lacks `columns`."""
    yield _checked_record(read_json(path), columns, str(path))


@resumable
def read_json_lines(path: pathlib.Path, columns: Sequence[str]) -> Iterator[Record | BenchmarkError]:
    """Objects of a .jsonl or .jsonl.gz file. Raises BenchmarkError for a damaged line or one without `columns`."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding=ENCODING) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _line(line, columns, path, number)
    except (ValueError, EOFError, OSError) as error:
        raise BenchmarkError(f"{path}: cannot be read as JSON lines: {error}; download it again") from error


def _line(line: str, columns: Sequence[str], path: pathlib.Path, number: int) -> Record | BenchmarkError:
    try:
        row = json_text.parse(line)
    except json_text.JsonError as error:
        return BenchmarkError(f"{path}, line {number}: cannot be read as JSON lines: {error}; download it again")
    return _checked_record(row, columns, f"{path}, line {number}")


def _checked_record(row: Any, columns: Sequence[str], where: str) -> Record | BenchmarkError:
    try:
        return Record(checked(row, columns, where), where)
    except BenchmarkError as error:
        return error


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
