"""JSON Lines, and JSON files that hold one list: a record is one object. The content says which of them a file is."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from data_pipelines.raw.entry import LayoutError, Part, Record, Spec
from data_pipelines.raw.root import Root, load_json
from data_pipelines.raw.splits import of_one_split
from nvlm_jax.inputs.errors import BadSample

GRAIN = 512  # records of a part
MAX_LINE = 64 << 20  # bytes of one line, images in base64 included; no more of it is in memory
BLOCK = 1 << 20  # bytes read at a time in search of line ends
MARK = b"\xef\xbb\xbf"  # of UTF-8, at the beginning of a file
OTHER = {  # how files begin that are no JSON in UTF-8
    **dict.fromkeys((b"\xff\xfe", b"\xfe\xff"), "UTF-16 text; save it as UTF-8"),
    b"\x1f\x8b": "compressed by gzip; unpack it",
    b"(\xb5\x2f\xfd": "compressed by Zstandard; unpack it",
    b"PK\x03\x04": "a ZIP archive; unpack it",
}


def parts(root: Root, spec: Spec) -> list[Part]:
    """Stretches of GRAIN records of the files that `spec.files` matches, JSON Lines and lists alike.

    Raises:
        LayoutError: no such file, or one that is neither.
    """
    files = root.files(spec.files) if spec.files else of_one_split(root, spec, _default_files(root))
    return [part for file in files for part in file_parts(root, file)]


def file_parts(root: Root, file: str) -> list[Part]:
    """The parts of one file."""
    path = root.find(file)
    if not _is_list(path):
        return _line_parts(path, file)
    size = len(_records(path))
    return [
        Part(file, start, min(start + GRAIN, size), start, min(GRAIN, size - start), is_list=True)
        for start in range(0, size, GRAIN)
    ]


def records(root: Root, part: Part, spec: Spec) -> Iterator[tuple[str, Record | BadSample]]:
    """The part's records with their places; a line that is no JSON object is a BadSample: `bad_json`, `too_long`."""
    if part.is_list:
        values = _records(root.find(part.file))[part.start : part.stop]
        for number, value in enumerate(values, part.first):
            yield f"{part.file}#{number}", _object(value)
        return
    with open(root.find(part.file), "rb") as lines:
        lines.seek(part.start)
        number = part.first
        while lines.tell() < part.stop:
            start, line = lines.tell(), lines.readline(MAX_LINE + 1)
            if not line:  # the file has become shorter since it was cut
                return
            if len(line) > MAX_LINE and not line.endswith(b"\n"):
                del line
                _skip_line(lines)
                length = lines.tell() - start
                message = f"a line of {length:,} bytes; at most {MAX_LINE:,} are read"
                yield f"{part.file}#{number}", BadSample("too_long", message)
            elif line.strip():
                yield f"{part.file}#{number}", _parse(line)
            number += 1


def _default_files(root: Root) -> list[str]:
    """All JSON Lines; without any, the JSON files of the top directory."""
    return root.files("**/*.jsonl", optional=True) or root.files("*.json")


def _is_list(path: pathlib.Path) -> bool:
    """Whether the file is one JSON value that is, or holds, the list of records, and not one record a line.

    Raises:
        LayoutError: it is neither, compressed, or of another encoding.
    """
    first, second = _first_lines(path)
    if _is_json(first):
        value = json.loads(first)
        return not second and (isinstance(value, list) or (isinstance(value, dict) and "data" in value))
    if path.suffix == ".jsonl" and not first.startswith(b"["):
        return False  # one bad line is no reason to take the file for something else
    try:
        _records(path)
    except LayoutError:
        if path.suffix == ".jsonl" or (_is_json(second) and isinstance(json.loads(second), dict)):
            return False
        raise
    return True


def _first_lines(path: pathlib.Path) -> tuple[bytes, bytes]:
    """The first two lines that are not blank, as far as they are there.

    Raises:
        LayoutError: it is compressed, or of another encoding.
    """
    found: list[bytes] = []
    with open(path, "rb") as file:
        head = file.read(4)
        for mark, what in OTHER.items():
            if head.startswith(mark):
                raise LayoutError(f"{path}: {what}")
        file.seek(len(MARK) if head.startswith(MARK) else 0)
        while len(found) < 2 and (line := file.readline(MAX_LINE)):
            found += [line.strip()] if line.strip() else []
    return found[0] if found else b"", found[1] if len(found) > 1 else b""


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _line_parts(path: pathlib.Path, file: str) -> list[Part]:
    """Stretches of GRAIN lines, found a block at a time."""
    found: list[Part] = []
    start = first = count = 0
    for end in _line_ends(path):
        count += 1
        if count == GRAIN:
            found.append(Part(file, start, end, first, count))
            start, first, count = end, first + count, 0
    if count:
        found.append(Part(file, start, path.stat().st_size, first, count))
    return found


def _line_ends(path: pathlib.Path) -> Iterator[int]:
    """The place behind each line."""
    with open(path, "rb") as file:
        begin, last = 0, 0
        while block := file.read(BLOCK):
            place = block.find(b"\n")
            while place >= 0:
                last = begin + place + 1
                yield last
                place = block.find(b"\n", place + 1)
            begin += len(block)
    if begin > last:
        yield begin


def _skip_line(file: BinaryIO) -> None:
    """Go on behind the next line end."""
    while block := file.readline(BLOCK):
        if block.endswith(b"\n"):
            return


def _parse(line: bytes) -> Record | BadSample:
    try:
        return _object(json.loads(line.decode("utf-8-sig", "surrogateescape")))
    except (ValueError, RecursionError) as error:
        return BadSample("bad_json", f"{error}: {line[:80]!r}")


def _object(value: Any) -> Record | BadSample:
    if isinstance(value, dict):
        return value
    return BadSample("bad_json", f"a record is {type(value).__name__}; an object is expected")


def _records(path: pathlib.Path) -> list[Any]:
    """The list of a JSON file; the last one read is kept while unchanged, as its parts are read one after another."""
    status = path.stat()
    return _list_of(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _list_of(path: pathlib.Path, size: int, time: int) -> list[Any]:
    values = load_json(path)
    if isinstance(values, dict) and isinstance(values.get("data"), list):
        values = values["data"]
    if not isinstance(values, list):
        raise LayoutError(f"{path}: holds {type(values).__name__}; a list of objects is expected")
    return values
