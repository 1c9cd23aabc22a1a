"""The dataset's index: what is known of each sample without opening it, and its lengths for one model.

`index.parquet` is written with the shards and holds what depends on nothing but the sample. Lengths in tokens and tiles
depend on the tokenizer, the template, the tags and the architecture; they are measured once for each such choice and
kept beside the data as `lengths-KEY.npy`, where KEY is a hash of everything that they depend on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import pathlib
import secrets
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nvlm_jax import inputs as inputs_package
from nvlm_jax.config import InputConfig, ModelConfig, to_mapping
from nvlm_jax.inputs.batch import Sample
from nvlm_jax.inputs.errors import ImageError, words
from nvlm_jax.inputs.own_template import read_template, token_names
from nvlm_jax.inputs.tiling import choose_grid, image_size, tile_count

INDEX = "index.parquet"
MAX_TILES, TILE_SIZE = 6, 448  # the paper's, for the column `tiles`
TOO_LONG = np.iinfo(np.int32).max  # exceeds every budget
_LOG = logging.getLogger(__name__)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),  # of the record in its shard
        ("bytes", pa.int64()),
        ("messages", pa.int32()),
        ("prompt_chars", pa.int32()),  # of all turns but the assistant's
        ("answer_chars", pa.int32()),
        ("widths", pa.list_(pa.int32())),  # of each image, upright; 0 where it is not readable
        ("heights", pa.list_(pa.int32())),
        ("tiles", pa.list_(pa.int32())),  # of each image at the paper's setting, with the thumbnail; 0 if not readable
        (
            "prompt_tokens",
            pa.int32(),
        ),  # of the texts alone, without template and tags; null where no tokenizer was given
        ("answer_tokens", pa.int32()),
        ("dataset", pa.string()),
        ("source", pa.string()),  # where the raw dataset has it: file#record
    ]
)


class Source(Protocol):
    """What lengths are measured on: `RecordSource`, or any other sequence of samples."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Sample: ...


class Builder(Protocol):
    """The part of `ExampleBuilder` that is needed here."""

    def measure(
        self, sample: Sample, max_tokens: int | None = None, max_tiles: int | None = None
    ) -> tuple[int, int]: ...


def describe(
    sample: Sample,
    shard: int,
    offset: int,
    size: int,
    dataset: str = "",
    source: str = "",
    count_tokens: Callable[[str], int] | None = None,
) -> dict[str, Any]:
    """The sample's line of the index.

    Args:
        sample: the sample.
        shard: number of its shard.
        offset: number of its record within the shard.
        size: bytes of the record.
        dataset: name.
        source: where the raw dataset has it.
        count_tokens: of a text, by the decoder's tokenizer.
    """
    sizes = [_image_size(data) for data in sample.images]
    texts = [(m.role == "assistant", m.content) for m in sample.messages]
    line = {
        "id": sample.id,
        "shard": shard,
        "offset": offset,
        "bytes": size,
        "messages": len(sample.messages),
        "prompt_chars": sum(len(text) for answer, text in texts if not answer),
        "answer_chars": sum(len(text) for answer, text in texts if answer),
        "widths": [width for width, _ in sizes],
        "heights": [height for _, height in sizes],
        "tiles": [_tiles(*size) for size in sizes],
        "dataset": dataset,
        "source": source,
    }
    if count_tokens is not None:
        line["prompt_tokens"] = sum(count_tokens(text) for answer, text in texts if not answer)
        line["answer_tokens"] = sum(count_tokens(text) for answer, text in texts if answer)
    return line


def write(file: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the index."""
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), file, write_page_checksum=True)


def join(file: pathlib.Path, parts: Iterable[pathlib.Path]) -> None:
    """Write the index that `parts`, files of this format, make together, one of them in memory at a time."""
    with pq.ParquetWriter(file, SCHEMA, write_page_checksum=True) as writer:
        for part in parts:
            writer.write_table(pq.read_table(part, schema=SCHEMA))


def read(path: pathlib.Path, columns: Iterable[str] | None = None) -> pa.Table:
    """The index of the dataset `path`, or some of its columns."""
    names = None if columns is None else list(columns)
    return pq.read_table(pathlib.Path(path) / INDEX, columns=names, page_checksum_verification=True)


def builder_key(inputs: InputConfig, model: ModelConfig) -> str:
    """A hash of what a sample's lengths depend on besides it and the row: settings, tokenizer and the code itself."""
    settings = to_mapping(inputs)
    del settings["tokenizer"]  # its content counts, not its place
    parts = [settings, model.arch, to_mapping(model.vision), model.pixel_shuffle, model.dense_labels]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    tokenizer = pathlib.Path(inputs.tokenizer)
    digest.update((tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer).read_bytes())
    if inputs.template == "checkpoint":
        directory = tokenizer if tokenizer.is_dir() else tokenizer.parent
        digest.update(json.dumps([read_template(directory), token_names(directory)]).encode())
    for file in sorted(pathlib.Path(inputs_package.__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def lengths(
    source: Source, builder: Builder, max_tokens: int | None = None, max_tiles: int | None = None, key: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and tiles of every sample as `build` would give it within these limits, int32 [n] each (read-only files).

    A sample of which not even the first turn fits has TOO_LONG tokens. One that cannot be read or built has 0 and 0: it
    keeps its place in the order, so that it is met, skipped and counted by reason in the step that it falls on.

    Args:
        source: the samples; with a `key` it must be a `RecordSource`.
        builder: measures one sample.
        max_tokens: budget of a row.
        max_tiles: budget of a row.
        key: `builder_key(...)`; empty measures anew and keeps nothing.
    """
    file = None
    if key:
        file = source.path / f"lengths-{key}-{max_tokens}-{max_tiles}-{source.manifest.fingerprint[:16]}.npy"
        if (known := _load(file, len(source))) is not None:
            return known
    measured = np.zeros((len(source), 2), np.int32)
    failed = 0
    for i in range(len(source)):
        try:
            measured[i] = builder.measure(source[i], max_tokens, max_tiles)
        except Exception as error:  # of any type, as in the loader, which meets it again and names it
            if getattr(error, "reason", "") == "too_long":
                measured[i] = TOO_LONG, 0
            else:
                failed += 1
    if failed:
        _LOG.warning("%s: %d of %d samples cannot be read or built", source, failed, len(source))
    if file is not None:
        _save(file, measured)
    return measured[:, 0], measured[:, 1]


def _load(file: pathlib.Path, size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The measured lengths; None where there are none, or they are damaged: they are then measured anew."""
    if not file.is_file():
        return None
    try:
        measured = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # of a header that is damaged, of any kind
        _LOG.warning("%s is damaged (%s): lengths are measured anew", file, words(error))
        return None
    if measured.shape != (size + 1, 2) or measured.dtype != np.int32 or measured[-1, 0] != _check_sum(measured[:-1]):
        _LOG.warning("%s is damaged, or of another version: lengths are measured anew", file)
        return None
    return measured[:-1, 0], measured[:-1, 1]


def _save(file: pathlib.Path, measured: np.ndarray) -> None:
    """Best effort: a directory that cannot be written to costs a measurement at each start, no more."""
    partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with open(partial, "wb") as out:
            np.save(out, np.concatenate([measured, [[_check_sum(measured), 0]]]).astype(np.int32))
        partial.replace(file)
    except OSError as error:
        _LOG.warning("lengths of %s are not kept: %s", file.parent, error)


def _check_sum(measured: np.ndarray) -> int:
    """CRC-32 of the lengths, as an int32: the row behind the last."""
    sums = 0
    for first in range(0, len(measured), 1 << 20):
        sums = zlib.crc32(np.ascontiguousarray(measured[first : first + (1 << 20)]), sums)
    return sums - (1 << 31)


def _tiles(width: int, height: int) -> int:
    return tile_count(choose_grid(width, height, MAX_TILES, TILE_SIZE)) if width and height else 0


def _image_size(data: bytes) -> tuple[int, int]:
    try:
        return image_size(data)
    except ImageError:  # named, and counted, when the sample is built
        return 0, 0
