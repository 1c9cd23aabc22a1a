"""Which raw files something was made from, and how each looked when it was read.

A `WatchedRoot` notes every path that it is asked for, also those that are missing, and every list of matching files.
The notes are texts by key: `file:images/1.png` -> size and times, `glob:*.json` -> a digest of the names. What was made
from the raw dataset still stands for it as long as all notes would be the same now.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.raw.root import Root
from nvlm_jax.inputs.errors import BadSample

FILE, GLOB = "file:", "glob:"
ABSENT = ""  # the note of a path with no readable file
SCHEMA = pa.schema([("key", pa.string()), ("note", pa.string())])

Notes = dict[str, str]


class WatchedRoot(Root):
    """A root that remembers, in `seen`, what it was asked for. The first note of a path stays."""

    def __init__(self, path: str | os.PathLike[str]):
        """Raises LayoutError if there is no such directory."""
        super().__init__(path)
        self.seen: Notes = {}
        self._plain = Root(path)  # to look without a note

    def find(self, relative: str) -> pathlib.Path:
        """As `Root.find`, noted."""
        key = FILE + relative.encode("utf-8", "backslashreplace").decode()
        try:
            file = super().find(relative)
        except BadSample:
            self.seen.setdefault(key, ABSENT)
            raise
        if key not in self.seen:
            self.seen[key] = _stamp(file)
        return file

    def files(self, pattern: str, optional: bool = False) -> list[str]:
        """As `Root.files`: the list is noted, the files are not before they are read."""
        names = self._plain.files(pattern, optional)
        self.seen.setdefault(GLOB + pattern, _digest(names))
        return names


def changes(root: Root, seen: Mapping[str, str]) -> list[str]:
    """A line for each note that would be another one now.

    Args:
        root: of the raw dataset.
        seen: notes of a `WatchedRoot`.
    """
    lines = []
    for key, then in seen.items():
        now = _now(root, key)
        if now != then:
            lines.append(_difference(key, then, now))
    return lines


def save(file: pathlib.Path, seen: Mapping[str, str]) -> None:
    """Write notes as Parquet, sorted by key."""
    keys = sorted(seen)
    pq.write_table(pa.table([keys, [seen[key] for key in keys]], SCHEMA), file, compression="zstd")


def load(file: pathlib.Path) -> Notes:
    """The inverse of `save`.

    Raises:
        OSError, ValueError: no such file, or another kind of file.
    """
    table = pq.read_table(file, schema=SCHEMA)
    return dict(zip(table["key"].to_pylist(), table["note"].to_pylist(), strict=True))


def _now(root: Root, key: str) -> str:
    if key.startswith(GLOB):
        return _digest(root.files(key.removeprefix(GLOB), optional=True))
    try:
        return _stamp(root.find(key.removeprefix(FILE)))
    except BadSample:
        return ABSENT


def _stamp(file: pathlib.Path) -> str:
    """Size, time of the content, and time of the entry: copies that keep the one time do not keep the other."""
    status = file.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _digest(names: list[str]) -> str:
    text = "\n".join(names).encode("utf-8", "backslashreplace")
    return f"{len(names)} {hashlib.sha256(text).hexdigest()[:16]}"


def _difference(key: str, then: str, now: str) -> str:
    if key.startswith(GLOB):
        counts = f"{then.split()[0]} files then, {now.split()[0]} now"
        same = then.split()[0] == now.split()[0]
        return f"{key.removeprefix(GLOB)} matches {'other files' if same else counts}"
    name = key.removeprefix(FILE)
    if then == ABSENT:
        return f"{name} was not there, and is now"
    if now == ABSENT:
        return f"{name} is not there any more"
    sizes = [int(note.split()[0]) for note in (then, now)]
    return f"{name} was written again" if sizes[0] == sizes[1] else f"{name} had {sizes[0]:,} bytes, now {sizes[1]:,}"
