"""Which stretch of a raw dataset each shard is made from: decided, and written down, before the first shard is made.

A stretch is a list of parts of the raw files. Annotations that can only be read whole (those that lie apart from their
images, and JSON lists) are read once and copied beside the cut as entries, a file for each shard.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from data_pipelines.faults import Fault
from data_pipelines.raw.entry import Entry, LayoutError, Part, Picture, Spec
from data_pipelines.raw.layouts import Annotated, annotated_entries, layout_of, streamed_entries
from data_pipelines.raw.watched import WatchedRoot, changes
from nvlm_jax import json_text
from nvlm_jax.inputs.batch import Message

CUT = "cut.json"


def cut_dataset(
    root: WatchedRoot, spec: Spec, folder: pathlib.Path, settings: dict[str, Any], size: int
) -> list[list[Part]]:
    """Each shard's parts, as `folder` has them from a run with the same settings and unchanged files, or made anew.

    Args:
        root: of the raw dataset; what the cut depends on is noted in it either way.
        spec: of the dataset.
        folder: keeps the cut.
        settings: JSON values that the shards depend on.
        size: records of a stretch, at least, but for the last.

    Raises:
        LayoutError: the raw dataset is not in the layout, or empty.
    """
    try:
        known = json_text.load(folder / CUT)
        if known["settings"] == settings and not changes(root, known["raw"]):
            root.seen |= known["raw"]
            return [[Part(**part) for part in parts] for parts in known["shards"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CUT).unlink(missing_ok=True)  # its entries are overwritten from here on
    shards = _stretches(root, spec, folder, size)
    if not shards:
        raise LayoutError(f"{root.path}: holds no record in layout {spec.layout!r}")
    held = [[dataclasses.asdict(part) for part in parts] for parts in shards]
    write_whole(folder / CUT, json.dumps({"settings": settings, "raw": root.seen, "shards": held}))
    return shards


def shards_of(folder: pathlib.Path) -> int | None:
    """How many shards a dataset under preparation will have; None if none is."""
    try:
        return len(json_text.load(folder / CUT)["shards"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_part(root: WatchedRoot, folder: pathlib.Path, part: Part, spec: Spec) -> Iterator[Entry | Fault]:
    """The entries of a part, in order."""
    if part.spooled:
        return _spooled(folder / part.file)
    root.exists(part.file)  # noted, also where a library opens it
    return streamed_entries(root, part, spec)


def write_whole(file: pathlib.Path, text: str) -> None:
    """Write whole or not at all."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text)
    partial.replace(file)


def _stretches(root: WatchedRoot, spec: Spec, folder: pathlib.Path, size: int) -> list[list[Part]]:
    """Each shard's parts."""
    layout = layout_of(spec)
    if isinstance(layout, Annotated):
        return _spool(annotated_entries(root, spec), folder, size)
    parts = layout.parts(root, spec)
    for part in parts:
        root.exists(part.file)  # noted, also where a library opens it
    if any(part.is_list for part in parts):  # a list is read whole: once here, not in each worker
        return _spool((found for part in parts for found in streamed_entries(root, part, spec)), folder, size)
    return list(_grouped(parts, size))


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
    messages = [dataclasses.astuple(message) for message in item.messages]
    images = [[p.name, p.field, None if p.data is None else base64.b64encode(p.data).decode()] for p in item.images]
    return json.dumps([item.id, messages, images, item.source, item.unread])


def _spooled(file: pathlib.Path) -> Iterator[Entry | Fault]:
    with open(file) as lines:
        for line in lines:
            held = json_text.parse(line)
            if isinstance(held, dict):
                yield Fault(*held["fault"])
                continue
            name, messages, images, source, unread = held
            pictures = tuple(_picture(*image) for image in images)
            yield Entry(name, tuple(Message(*m) for m in messages), pictures, source, tuple(unread))


def _picture(name: str, field: str, data: str | None) -> Picture:
    return Picture(name, None if data is None else base64.b64decode(data), field)
