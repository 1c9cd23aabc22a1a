"""JSON Lines, and JSON files that hold one list: a record is one object."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from data_pipelines.raw.entry import LayoutError, Part, Record, Spec
from data_pipelines.raw.root import Root, load_json
from data_pipelines.raw.splits import of_one_split
from nvlm_jax.inputs.errors import BadSample

GRAIN = 512  # records of a part
MAX_LINE = 16 << 20  # bytes of one line


def parts(root: Root, spec: Spec) -> list[Part]:
    """Stretches of GRAIN records of the files that `spec.files` matches, JSON Lines and lists alike."""
    files = root.files(spec.files) if spec.files else of_one_split(root, spec, _default_files(root))
    return [part for file in files for part in file_parts(root, file)]


def file_parts(root: Root, file: str) -> list[Part]:
    """The parts of one file."""
    if file.endswith(".json"):
        size = len(_records(root.find(file)))
        return [
            Part(file, start, min(start + GRAIN, size), start, min(GRAIN, size - start))
            for start in range(0, size, GRAIN)
        ]
    return _line_parts(root.find(file), file)


def records(root: Root, part: Part, spec: Spec) -> Iterator[tuple[str, Record | BadSample]]:
    """The part's records with their places; a line that is no JSON object is a BadSample: `bad_json`."""
    if part.file.endswith(".json"):
        values = _records(root.find(part.file))[part.start : part.stop]
        for number, value in enumerate(values, part.first):
            yield f"{part.file}#{number}", _object(value)
        return
    with open(root.find(part.file), "rb") as lines:
        lines.seek(part.start)
        number = part.first
        while lines.tell() < part.stop:
            line = lines.readline()
            if not line:  # the file has become shorter since it was cut
                return
            if line.strip():
                yield f"{part.file}#{number}", _parse(line)
            number += 1


def _default_files(root: Root) -> list[str]:
    """All JSON Lines; without any, the JSON lists of the top directory."""
    return root.files("**/*.jsonl", optional=True) or root.files("*.json")


def _line_parts(path: pathlib.Path, file: str) -> list[Part]:
    found, start, first, count, end = [], 0, 0, 0, 0
    with open(path, "rb") as lines:
        for line in lines:
            count, end = count + 1, end + len(line)
            if count == GRAIN:
                found.append(Part(file, start, end, first, count))
                start, first, count = end, first + count, 0
    if count:
        found.append(Part(file, start, end, first, count))
    return found


def _parse(line: bytes) -> Record | BadSample:
    if len(line) > MAX_LINE:
        return BadSample("too_long", f"a line of {len(line):,} bytes; at most {MAX_LINE:,} are read")
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
