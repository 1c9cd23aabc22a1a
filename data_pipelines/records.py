"""A dataset on disk: samples in ArrayRecord shards, with the index and a manifest beside them.

    pages/
      pages-00000-of-00002.array_record     msgpack, one sample a record, each record a chunk of its own
      pages-00001-of-00002.array_record
      index.parquet                         one line a sample (data_pipelines/index.py)
      dataset.json                          counts, answer groups, settings, a hash of all records

A dataset is written into a hidden directory and renamed when complete, so what has its name is whole.
Nothing here runs code from data: no pickle, and what a record holds is checked field by field.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import json
import pathlib
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgpack
import pyarrow as pa
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from data_pipelines import index
from data_pipelines.remote import Remote, is_remote
from nvlm_jax import json_text
from nvlm_jax.inputs.batch import Message, Sample
from nvlm_jax.inputs.errors import BadSample, words

FORMAT = 1
MANIFEST = "dataset.json"
# One record a chunk: reading a sample at random decompresses no neighbour, and a damaged chunk costs one sample.
WRITER_OPTIONS = "group_size:1,zstd:1"
READER_OPTIONS = {"options": "readahead_buffer_size:0", "file_reader_buffer_size": 32768}


class BadRecord(BadSample):
    """A record that is no sample, or a sample that no record can hold."""


class DatasetError(ValueError):
    """A dataset that is absent, incomplete or of another format. The message names the path."""


def encode_sample(sample: Sample) -> bytes:
    """The sample as one msgpack map.

    Raises:
        BadRecord: the sample holds what msgpack cannot (other than plain values), named by its id.
    """
    record = {
        "v": FORMAT,
        "id": sample.id,
        "messages": [_message(m) for m in sample.messages],
        "images": list(sample.images),
        "meta": sample.meta,
    }
    try:
        return msgpack.packb(record)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadRecord("unencodable", f"sample {sample.id!r} cannot be stored: {error}") from error


def decode_sample(data: bytes) -> Sample:
    """The inverse of `encode_sample`; tuples within `meta` come back as lists.

    Raises:
        BadRecord: reason `not_msgpack`, `invalid_utf8`, `other_version` or `wrong_field`.
    """
    try:
        record = msgpack.unpackb(data)
    except UnicodeDecodeError as error:
        raise BadRecord("invalid_utf8", f"record of {len(data)} bytes: {error}") from error
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise BadRecord("not_msgpack", f"record of {len(data)} bytes is not one msgpack value: {error!r}") from error
    if not isinstance(record, dict) or record.get("v") != FORMAT:
        found = record.get("v") if isinstance(record, dict) else type(record).__name__
        raise BadRecord("other_version", f"record has version {found!r}, expected {FORMAT}")
    try:
        messages = tuple(map(_read_message, record["messages"]))
        return Sample(
            id=_typed(record["id"], str, "id"),
            messages=messages,
            images=tuple(_typed(record["images"], list, "images", of=bytes)),
            meta=_typed(record["meta"], dict, "meta"),
        )
    except KeyError as error:
        raise BadRecord("wrong_field", f"record has no field {error}") from error
    except TypeError as error:
        raise BadRecord("wrong_field", f"record {record.get('id')!r}: {error}") from error


def _message(message: Message) -> list[Any]:
    """Role, text and group; an answer that is history alone has a fourth part, False."""
    parts = [message.role, message.content, message.group]
    return parts if message.trained else [*parts, False]


def _read_message(parts: Any) -> Message:
    if type(parts) is list and len(parts) == 4:
        return Message(*_typed(parts[:3], list, "message", of=str), _typed(parts[3], bool, "a message's fourth part"))
    return Message(*_typed(parts, list, "message", of=str, length=3))


def _typed(value: Any, kind: type, name: str, of: type | None = None, length: int | None = None) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{name} is {type(value).__name__}, expected {kind.__name__}")
    if length is not None and len(value) != length:
        raise TypeError(f"{name} has {len(value)} parts, expected {length}")
    for item in value if of else ():
        _typed(item, of, f"an item of {name}")
    return value


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What `dataset.json` holds."""

    format: int
    name: str  # which the shards' names begin with, even where the directory was renamed
    samples: int
    shards: tuple[int, ...]  # samples of each shard
    groups: tuple[str, ...]  # every report group that an answer bears, sorted
    fingerprint: str  # hash of all records in order
    settings: dict[str, Any]  # what made it, as its maker gave it


def write_dataset(
    path: str | pathlib.Path,
    samples: Iterable[Sample],
    shards: int = 1,
    size: int | None = None,
    settings: dict[str, Any] | None = None,
) -> Manifest:
    """Write `samples` as the dataset `path`, in order, replacing a dataset of that name once the new one is whole.

    Args:
        path: the dataset's directory; its last part is the dataset's name.
        samples: read once, one at a time.
        shards: how many files of nearly equal count.
        size: how many samples there are, where `len(samples)` cannot say.
        settings: what made the dataset (JSON values); kept in the manifest.

    Raises:
        BadRecord: a sample cannot be encoded.
        ValueError: fewer samples than shards, or another number of samples than `size`.
    """
    path = pathlib.Path(path)
    size = len(samples) if size is None else size  # type: ignore[arg-type]
    if not 1 <= shards <= max(size, 1):
        raise ValueError(f"{path}: {shards} shards for {size} samples; 1 to {max(size, 1)} would be right")
    counts = [size // shards + (shard < size % shards) for shard in range(shards)]
    partial = path.parent / f".{path.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    rows, groups, digest = [], set(), hashlib.sha256()
    stream = iter(samples)
    for shard, count in enumerate(counts):
        writer = ShardWriter(partial / shard_name(path.name, shard, shards), path.name, shard, digest)
        for _ in range(count):
            sample = next(stream, None)
            if sample is None:
                raise ValueError(f"{path}: {len(rows) + len(writer.rows)} samples came, {size} were expected")
            writer.add(sample)
        writer.close()
        rows += writer.rows
        groups |= writer.groups
    if next(stream, None) is not None:
        raise ValueError(f"{path}: more samples came than the {size} expected")
    index.write(partial / index.INDEX, rows)
    return finish(partial, path, counts, groups, digest.hexdigest(), settings or {})


def finish(
    partial: pathlib.Path,
    path: pathlib.Path,
    counts: Sequence[int],
    groups: Iterable[str],
    fingerprint: str,
    settings: dict[str, Any],
) -> Manifest:
    """Write the manifest beside the shards and the index in `partial` and make it the dataset `path`.

    Args:
        partial: a directory beside `path`.
        path: the dataset's directory.
        counts: samples of each shard.
        groups: every report group that an answer bears.
        fingerprint: a hash of all records in order, hexadecimal.
        settings: what made the dataset (JSON values).
    """
    manifest = Manifest(
        format=FORMAT,
        name=path.name,
        samples=sum(counts),
        shards=tuple(counts),
        groups=tuple(sorted(groups)),
        fingerprint=fingerprint[:32],
        settings=settings,
    )
    (partial / MANIFEST).write_text(json.dumps(dataclasses.asdict(manifest), indent=1) + "\n")
    _replace(partial, path)
    return manifest


class ShardWriter:
    """One shard being written; `rows` are its lines of the index, `groups` the report groups of its answers."""

    def __init__(
        self,
        file: pathlib.Path,
        dataset: str,
        shard: int,
        digest: Any = None,
        count_tokens: Callable[[str], int] | None = None,
    ):
        """
        Args:
            file: is written; an existing one is replaced.
            dataset: its name.
            shard: its number.
            digest: of hashlib, takes up each record; default a new one.
            count_tokens: of a text, for the index.
        """
        self.rows: list[dict[str, Any]] = []
        self.groups: set[str] = set()
        self.digest = hashlib.sha256() if digest is None else digest
        self._dataset, self._shard, self._count_tokens = dataset, shard, count_tokens
        self._writer = ArrayRecordWriter(str(file), WRITER_OPTIONS)

    def add(self, sample: Sample, source: str = "") -> int:
        """Append the sample; returns the record's bytes. Raises BadRecord, and appends nothing, if it is no record."""
        data = encode_sample(sample)
        self._writer.write(data)
        self.digest.update(len(data).to_bytes(8, "little") + data)
        self.groups.update(m.group for m in sample.messages if m.group)
        place = (self._shard, len(self.rows), len(data), self._dataset, source)
        self.rows.append(index.describe(sample, *place, self._count_tokens))
        return len(data)

    def close(self) -> None:
        """Complete the file."""
        self._writer.close()


def shard_name(name: str, shard: int, shards: int) -> str:
    """`NAME-00000-of-00004.array_record`."""
    return f"{name}-{shard:05d}-of-{shards:05d}.array_record"


def read_manifest(path: str | pathlib.Path) -> Manifest:
    """The manifest of the dataset `path`.

    Raises:
        DatasetError: there is no whole dataset of this format there.
    """
    path = pathlib.Path(path)
    try:
        raw = json_text.parse(json_text.read_bytes(path / MANIFEST))
        manifest = Manifest(**raw)
    except FileNotFoundError:
        raise DatasetError(
            f"{path}: no dataset here ({MANIFEST} is missing); `python -m launch.prepare "
            "--dataset=embedded --out=DIR` makes the generated ones, and docs/own_data.md has your own"
        ) from None
    except (ValueError, TypeError, OSError) as error:
        raise DatasetError(f"{path / MANIFEST}: not a manifest of format {FORMAT}: {error!s:.300}") from error
    if manifest.format != FORMAT:
        raise DatasetError(
            f"{path / MANIFEST}: format {manifest.format!r:.40}, expected {FORMAT}; prepare the dataset again"
        )
    if fault := _manifest_fault(manifest):
        raise DatasetError(f"{path / MANIFEST}: {fault}; prepare the dataset again")
    return dataclasses.replace(manifest, shards=tuple(manifest.shards), groups=tuple(manifest.groups))


def _manifest_fault(manifest: Manifest) -> str:
    """What is wrong with a manifest that somebody else wrote; empty if nothing is."""
    name, shards, groups = manifest.name, manifest.shards, manifest.groups
    if not isinstance(name, str) or not re.fullmatch(r"[^/\\\0]{1,200}", name) or name in (".", ".."):
        return f"name {name!r:.80} is no name of a file; shards would lie elsewhere"
    if not isinstance(shards, list) or not all(type(count) is int and count >= 0 for count in shards):
        return f"shards {shards!r:.80}: expected the samples of each shard"
    if type(manifest.samples) is not int or manifest.samples != sum(shards):
        return f"samples {manifest.samples!r:.80}, but its shards have {sum(shards)}"
    if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
        return f"groups {groups!r:.80}: expected a list of texts"
    if not isinstance(manifest.fingerprint, str) or not re.fullmatch(r"[0-9a-f]{0,64}", manifest.fingerprint):
        return f"fingerprint {manifest.fingerprint!r:.80} is no hexadecimal number"
    return "" if isinstance(manifest.settings, dict) else f"settings {manifest.settings!r:.80}: expected an object"


def _remote(address: str) -> Remote:
    try:
        remote = Remote(address, MANIFEST)
        remote.local(index.INDEX)
        return remote
    except FileNotFoundError as error:
        raise DatasetError(f"{address}: no dataset here ({error} is missing)") from error
    except (OSError, ImportError, ValueError) as error:
        raise DatasetError(f"{address}: cannot be read: {error}") from error


def _replace(partial: pathlib.Path, path: pathlib.Path) -> None:
    """Rename `partial` to `path`; a dataset that stood there is moved away first, then deleted."""
    old = path.parent / f".{path.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)


class RecordSource:
    """A dataset as a random-access source: `len(source)`, `source[i]` -> Sample. Safe to share between threads.

    Files are opened when first read, and a pickled source opens its own, so Grain's workers can be handed one.
    """

    def __init__(self, path: str | pathlib.Path):
        """
        Args:
            path: a directory, or an address on object storage (`data_pipelines/remote.py`).

        Raises:
            DatasetError: there is no whole dataset.
        """
        self._remote = _remote(str(path)) if is_remote(path) else None
        self.path = self._remote.folder if self._remote else pathlib.Path(path)
        self.manifest = read_manifest(self.path)
        shards = len(self.manifest.shards)
        self._files = [self.path / shard_name(self.manifest.name, shard, shards) for shard in range(shards)]
        there = self._remote.names() if self._remote else None
        missing = [f.name for f in self._files if not (f.is_file() if there is None else f.name in there)]
        if missing:
            raise DatasetError(f"{self.path}: {len(missing)} of {shards} shards are missing, the first {missing[0]}")
        self._first = [sum(self.manifest.shards[:shard]) for shard in range(shards)]
        self._open()

    def __len__(self) -> int:
        return self.manifest.samples

    def __getitem__(self, i: int) -> Sample:
        """Sample `i`.

        Raises:
            BadRecord: reason `corrupt_block` (the file is damaged there) or one of `decode_sample`'s.
            IndexError: no such sample.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"{self.path}: sample {i} of {len(self)}")
        shard = bisect.bisect_right(self._first, i) - 1
        try:
            data = self._reader(shard).read([int(i) - self._first[shard]])[0]
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            raise BadRecord("corrupt_block", f"{self._files[shard]}, sample {i}: {error}") from error
        return decode_sample(data)

    def ids(self) -> pa.ChunkedArray:
        """Every sample's id, from the index, without opening a record: `ids()[i].as_py()`."""
        try:
            ids = index.read(self.path, ["id"])["id"]
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise DatasetError(f"{self.path / index.INDEX}: cannot be read: {words(error):.300}") from error
        if len(ids) != len(self) or ids.type != pa.string():
            raise DatasetError(
                f"{self.path / index.INDEX}: {len(ids)} ids ({ids.type}) of {len(self)} samples; "
                "prepare the dataset again"
            )
        return ids

    def _reader(self, shard: int) -> ArrayRecordReader:
        with self._lock:
            if shard not in self._readers:
                if self._remote:
                    self._remote.local(self._files[shard].name)
                self._readers[shard] = ArrayRecordReader(str(self._files[shard]), **READER_OPTIONS)
            return self._readers[shard]

    def _open(self) -> None:
        self._readers: dict[int, ArrayRecordReader] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_readers", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __repr__(self) -> str:
        return f"RecordSource({str(self.path)!r})"
