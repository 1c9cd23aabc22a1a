"""Which stretch of a raw dataset each shard is made from: decided, and written down, before the first shard is made.

A stretch is a list of parts of the raw files. Annotations that can only be read whole (those that lie apart from their
images, and JSON lists) are read once and copied beside the cut as entries, a file for each shard.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

from data_pipelines.faults import Fault
from data_pipelines.raw.entry import Entry, LayoutError, Part, Picture, Spec
from data_pipelines.raw.layouts import Annotated, annotated_entries, layout_of, streamed_entries
from data_pipelines.raw.root import Root
from nvlm_jax.inputs.batch import Message

CUT = "cut.json"


def cut_dataset(root: Root, spec: Spec, folder: pathlib.Path, settings: dict[str, Any], size: int) -> list[list[Part]]:
    """Each shard's parts, as `folder` has them from a run with the same settings and unchanged files, or made anew.

    Args:
        root: of the raw dataset.
        spec: of the dataset.
        folder: keeps the cut; what else is in it is deleted with a cut that no longer holds.
        settings: JSON values that the shards depend on.
        size: records of a stretch, at least, but for the last.

    Raises:
        LayoutError: the raw dataset is not in the layout, or empty.
    """
    try:
        known = json.loads((folder / CUT).read_text())
        if known["settings"] == settings and known["files"] == _stamps(root, known["files"]):
            return [[Part(**part) for part in parts] for parts in known["shards"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shards, files = _stretches(root, spec, folder, size)
    if not shards:
        raise LayoutError(f"{root.path}: holds no record in layout {spec.layout!r}")
    held = [[dataclasses.asdict(part) for part in parts] for parts in shards]
    write_whole(folder / CUT, json.dumps({"settings": settings, "files": _stamps(root, files), "shards": held}))
    return shards


def shards_of(folder: pathlib.Path) -> int | None:
    """How many shards a dataset under preparation will have; None if none is."""
    try:
        return len(json.loads((folder / CUT).read_text())["shards"])
    except (OSError, ValueError, KeyError):
        return None


def read_part(root: Root, folder: pathlib.Path, part: Part, spec: Spec) -> Iterator[Entry | Fault]:
    """The entries of a part, in order."""
    return _spooled(folder / part.file) if part.spooled else streamed_entries(root, part, spec)


def write_whole(file: pathlib.Path, text: str) -> None:
    """Write whole or not at all."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text)
    partial.replace(file)


def _stretches(root: Root, spec: Spec, folder: pathlib.Path, size: int) -> tuple[list[list[Part]], list[str]]:
    """Each shard's parts, and the raw files that they are read from."""
    layout = layout_of(spec)
    if isinstance(layout, Annotated):
        return _spool(annotated_entries(root, spec), folder, size), []
    parts = layout.parts(root, spec)
    files = list(dict.fromkeys(part.file for part in parts))
    if any(file.endswith(".json") for file in files):  # a list is read whole: once here, not in each worker
        return _spool((found for part in parts for found in streamed_entries(root, part, spec)), folder, size), []
    return list(_grouped(parts, size)), files


def _stamps(root: Root, files: Iterable[str]) -> dict[str, list[int]]:
    """Size and time of change of each file; what is not there has none."""
    found = {}
    for file in files:
        status = root.find(file).stat() if root.exists(file) else None
        found[file] = [status.st_size, status.st_mtime_ns] if status else []
    return found


def _grouped(parts: Iterable[Part], size: int) -> Iterator[list[Part]]:
    """Consecutive parts, in groups of at least `size` records."""
    group: list[Part] = []
    held = 0
    for part in parts:
        group.append(part)
        held += part.records
        if held >= size:
            yield group
            group, held = [], 0
    if group:
        yield group


def _spool(found: Iterable[Entry | Fault], folder: pathlib.Path, size: int) -> list[list[Part]]:
    """Write entries as JSON lines, `size` to a file, each of which one shard is made from."""
    shards: list[list[Part]] = []
    lines: list[str] = []

    def put() -> None:
        name = f"entries-{len(shards):05d}.jsonl"
        (folder / name).write_text("\n".join(lines) + "\n")
        shards.append([Part(name, records=len(lines), spooled=True)])
        lines.clear()

    for item in found:
        lines.append(_line(item))
        if len(lines) == size:
            put()
    if lines:
        put()
    return shards


def _line(item: Entry | Fault) -> str:
    if isinstance(item, Fault):
        return json.dumps({"fault": list(item)})
    messages = [[m.role, m.content, m.group] for m in item.messages]
    return json.dumps([item.id, messages, [picture.name for picture in item.images], item.source])


def _spooled(file: pathlib.Path) -> Iterator[Entry | Fault]:
    with open(file) as lines:
        for line in lines:
            held = json.loads(line)
            if isinstance(held, dict):
                yield Fault(*held["fault"])
                continue
            name, messages, images, source = held
            yield Entry(name, tuple(Message(*m) for m in messages), tuple(map(Picture, images)), source)
