"""WebDataset shards: tar files whose members `KEY.jpg`, `KEY.txt`, `KEY.json` ... make one record each.

A record maps each ending to the member's bytes; `__key__` is the key, and the fields of a member `json` are added to
it. With Megatron Energon's `.nv-meta` beside the shards, its split and field map are followed. Nothing is unpacked to
disk, members that are no regular files are passed over, and no Python file of a dataset runs. No member is read that is
larger than its bytes in the tar (sparse ones claim any size), and no record above MAX_RECORD.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import yaml

from data_pipelines.raw.entry import LayoutError, Part, Record, Spec
from data_pipelines.raw.root import MAX_FILE_BYTES, Root
from data_pipelines.raw.splits import of_one_split
from nvlm_jax.inputs.errors import BadSample

META = ".nv-meta"
MAX_RECORD = 4 * MAX_FILE_BYTES  # bytes of a record's members together
GUESS = 4096  # records of a shard that nothing tells the size of
# Where Energon's sample types keep what our layouts read.
SAMPLE_TYPES = {
    "CaptioningSample": {"image": "image", "answer": "caption"},
    "VQASample": {"image": "image", "question": "context", "answer": "answers"},
    "VQAOCRSample": {"image": "image", "question": "context", "answer": "answers"},
    "OCRSample": {"image": "image", "answer": "text"},
    "MultiChoiceVQASample": {
        "image": "image",
        "question": "context",
        "choices": "choices",
        "correct": "correct_choice_idx",
    },
}


def parts(root: Root, spec: Spec) -> list[Part]:
    """A part for each shard: of Energon's split where there is one, else all `spec.files` (default: every tar)."""
    counts = _info(root).get("shard_counts", {})
    shards = _split(root, spec.split) if root.exists(f"{META}/split.yaml") else _tars(root, spec)
    return [Part(shard, records=int(counts.get(shard, GUESS))) for shard in shards]


def _tars(root: Root, spec: Spec) -> list[str]:
    return root.files(spec.files) if spec.files else of_one_split(root, spec, root.files("**/*.tar"))


def records(root: Root, part: Part, spec: Spec) -> Iterator[tuple[str, Record | BadSample]]:
    """The shard's records. One with a faulty member is a BadSample, and so is the end of a damaged shard."""
    excluded, number = _excluded(root), 0
    try:
        for record in _grouped(root, part.file):
            if f"{part.file}/{record['__key__']}" not in excluded:
                yield f"{part.file}#{number}", _checked(record)
            number += 1
    except (tarfile.TarError, OSError, EOFError, ValueError, RecursionError) as error:
        yield f"{part.file}#{number}", BadSample("corrupt_block", f"{part.file}: {error}")


def _grouped(root: Root, file: str) -> Iterator[Record]:
    """Members with one key that follow each other."""
    record: Record = {}
    with open(root.find(file), "rb") as raw, tarfile.open(fileobj=_Bounded(raw), mode="r:") as tar:
        for member in tar:
            tar.members = []  # which it would keep, all of them
            if not member.isreg():
                continue
            key, ending = _key(member.name)
            if record and record["__key__"] != key:
                yield record
                record = {}
            record["__key__"] = key
            held = sum(len(value) for value in record.values() if isinstance(value, bytes))
            record[ending] = _member(tar, member, MAX_RECORD - held)
    if record:
        yield record


def energon_fields(root: Root) -> dict[str, str]:
    """What `dataset.yaml` says of our fields: `{"image": "jpg", "question": "json.q" ...}`; empty without one.

    Raises:
        LayoutError: the dataset is read by a Python file of its own, or is of a type that has no converter here.
    """
    if not root.exists(f"{META}/dataset.yaml"):
        return {}
    meta = _yaml(root, f"{META}/dataset.yaml")
    if "sample_loader" in meta:
        raise LayoutError(f"{root.path}: read by its own sample_loader, and code from data does not run; name `fields`")
    kind = str((meta.get("sample_type") or {}).get("__class__", ""))
    mapped = meta.get("field_map")
    if not mapped:
        return {}
    if kind not in SAMPLE_TYPES:
        raise LayoutError(f"{root.path}: sample type {kind!r}; there are {', '.join(SAMPLE_TYPES)}")
    names = {ours: str(mapped[theirs]) for ours, theirs in SAMPLE_TYPES[kind].items() if theirs in mapped}
    return {ours: re.sub(r"\[(\w+)\]", r".\1", name) for ours, name in names.items()}  # json[a] is our json.a


def _split(root: Root, split: str) -> list[str]:
    meta = _yaml(root, f"{META}/split.yaml")
    named, excluded = meta.get("split_parts") or {}, _excluded(root)
    if split not in named:
        raise LayoutError(f"{root.path}: no split {split!r}; {META}/split.yaml has {sorted(named)}")
    return [shard for shard in named[split] if shard not in excluded]


def _excluded(root: Root) -> set[str]:
    """Shards, and samples as `SHARD/KEY`, that `split.yaml` leaves out."""
    file = f"{META}/split.yaml"
    return set(_yaml(root, file).get("exclude") or []) if root.exists(file) else set()


def _info(root: Root) -> dict[str, Any]:
    for name in (f"{META}/.info.json", f"{META}/.info.yaml"):
        if root.exists(name):
            return _yaml(root, name)  # JSON is YAML
    return {}


def _yaml(root: Root, file: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(root.find(file).read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise LayoutError(f"{root.path}/{file}: {error}") from error
    if not isinstance(value, dict):
        raise LayoutError(f"{root.path}/{file}: holds {type(value).__name__}; a mapping is expected")
    return value


def _key(name: str) -> tuple[str, str]:
    """`a/b.c.json` -> `a/b`, `c.json`: the key ends at the first dot of the last part."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, ending.lower()


class _Bounded:
    """A tar's file, of which `tarfile` can read no more at once than a member may have: headers claim any size too."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > MAX_FILE_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo, room: int) -> bytes | BadSample:
    if member.issparse():
        return BadSample("sparse_member", f"{member.name!r:.200} is stored with holes; whole files are read")
    limit = min(MAX_FILE_BYTES, room)
    if member.size > limit:
        what = "" if limit == MAX_FILE_BYTES else f" more, of {MAX_RECORD:,} for a record,"
        message = f"{member.name!r:.200} has {member.size:,} bytes; at most {limit:,}{what} are read"
        return BadSample("file_too_large", message)
    data = tar.extractfile(member).read()
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name!r:.200} ends after {len(data)} of {member.size} bytes")
    return data


def _checked(record: Record) -> Record | BadSample:
    for value in record.values():
        if isinstance(value, BadSample):
            return value
    if "json" not in record:
        return record
    try:
        fields = json.loads(record["json"].decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        return BadSample("bad_json", f"{record['__key__']}.json: {error}")
    return {**fields, **record, "json": fields} if isinstance(fields, dict) else {**record, "json": fields}
