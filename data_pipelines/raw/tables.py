"""Parquet files, and what Hugging Face `datasets` writes with `save_to_disk`: Arrow streams beside a `state.json`.

An image column holds `{bytes, path}` structs, as `datasets` stores images, or plain bytes. Rows are measured before
they become Python objects, and Parquet's columns before they are decompressed: a few kilobytes can claim gigabytes.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.raw.entry import LayoutError, Part, Record, Spec
from data_pipelines.raw.root import MAX_FILE_BYTES, Root
from nvlm_jax.inputs.errors import BadSample

SPLITS = ("train", "validation", "val", "test", "dev")
MAX_ROW = 4 * MAX_FILE_BYTES  # bytes of a row
MAX_COLUMN = 4 * MAX_FILE_BYTES  # bytes of a column chunk, above which it may hold
MAX_RATIO = 20  # times its bytes in the file
ROWS = 64  # turned into Python objects at a time
_BROKEN = (pa.ArrowException, OSError, ValueError)


def parquet_parts(root: Root, spec: Spec) -> list[Part]:
    """A part for each row group of the split's files (`train-00000-of-00003.parquet`, `train/0000.parquet`), or of
    `spec.files`. A file that is no Parquet is one part, which reads as one bad record."""
    files = root.files(spec.files) if spec.files else _split_files(root, spec.split)
    return [part for file in files for part in _row_groups(root, file)]


def parquet_records(root: Root, part: Part, spec: Spec) -> Iterator[tuple[str, Record | BadSample]]:
    """The rows of a row group; a damaged one ends in a BadSample: `corrupt_block`."""
    number = part.first
    try:
        with pq.ParquetFile(root.find(part.file)) as file:
            if claim := _excess(file.metadata.row_group(part.start)):
                message = f"{part.file}, row group {part.start}: {claim}"
                yield f"{part.file}#{number}", BadSample("file_too_large", message)
                return
            for batch in file.iter_batches(ROWS, row_groups=[part.start]):
                for row in _rows(batch):
                    yield f"{part.file}#{number}", row
                    number += 1
    except _BROKEN as error:
        yield f"{part.file}#{number}", _corrupt(part, "row group", error)


def arrow_parts(root: Root, spec: Spec) -> list[Part]:
    """Record batches of the files that `state.json` lists, in its order; of a `DatasetDict` those of the split."""
    folder = ""
    if root.exists("dataset_dict.json"):
        splits = root.json("dataset_dict.json").get("splits", [])
        if spec.split not in splits:
            raise LayoutError(f"{root.path}: no split {spec.split!r}; dataset_dict.json has {splits}")
        folder = f"{spec.split}/"
    state = root.json(f"{folder}state.json")
    try:
        files = [folder + file["filename"] for file in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise LayoutError(f"{root.path}/{folder}state.json: lists no data files: {error!r}") from error
    return [part for file in files for part in _batches(root, file)]


def arrow_records(root: Root, part: Part, spec: Spec) -> Iterator[tuple[str, Record | BadSample]]:
    """The rows of a part's record batches; a damaged one ends in a BadSample: `corrupt_block`."""
    number = part.first
    try:
        with pa.memory_map(str(root.find(part.file))) as source, pa.ipc.open_stream(source) as stream:
            for place, batch in enumerate(stream):
                if place < part.start:
                    continue
                if place >= part.stop:
                    return
                for row in _rows(batch):
                    yield f"{part.file}#{number}", row
                    number += 1
    except (*_BROKEN, BadSample) as error:
        yield f"{part.file}#{number}", _corrupt(part, "record batch", error)


def hub_parts(root: Root, spec: Spec) -> list[Part]:
    """Whichever of the two the directory holds."""
    return arrow_parts(root, spec) if _is_saved(root) else parquet_parts(root, spec)


def hub_records(root: Root, part: Part, spec: Spec) -> Iterator[tuple[str, Record | BadSample]]:
    """As `arrow_records` or `parquet_records`, by the file's name."""
    reader = parquet_records if part.file.endswith(".parquet") else arrow_records
    return reader(root, part, spec)


def _is_saved(root: Root) -> bool:
    return root.exists("dataset_dict.json") or root.exists("state.json")


def _split_files(root: Root, split: str) -> list[str]:
    """By the hub's usual names; where no file names any split, all of them."""
    files = root.files("**/*.parquet")
    split_of = {file: {re.split(r"[-.]", part)[0] for part in pathlib.PurePosixPath(file).parts} for file in files}
    named = [file for file in files if split in split_of[file]]
    unnamed = [file for file in files if not {split, *SPLITS} & split_of[file]]
    if not named and not unnamed:
        raise LayoutError(f"{root.path}: no Parquet file of split {split!r}")
    return named or unnamed


def _row_groups(root: Root, file: str) -> list[Part]:
    try:
        metadata = pq.read_metadata(root.find(file))
    except _BROKEN:
        return [Part(file)]
    found, first = [], 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        found.append(Part(file, group, group + 1, first, rows))
        first += rows
    return found


def _batches(root: Root, file: str) -> list[Part]:
    found, first = [], 0
    try:
        with pa.memory_map(str(root.find(file))) as source, pa.ipc.open_stream(source) as stream:
            for place, batch in enumerate(stream):
                found.append(Part(file, place, place + 1, first, batch.num_rows))
                first += batch.num_rows
    except (*_BROKEN, BadSample):  # reading it says why
        found.append(Part(file, len(found), len(found) + 1, first))
    return found


def _rows(batch: pa.RecordBatch) -> Iterator[Record | BadSample]:
    for i in range(batch.num_rows):
        row = batch.slice(i, 1)
        if (size := row.nbytes) > MAX_ROW:
            yield BadSample("file_too_large", f"a row of {size:,} bytes; at most {MAX_ROW:,} are read")
            continue
        try:
            yield row.to_pylist()[0]
        except UnicodeDecodeError as error:
            yield BadSample("invalid_utf8", str(error))


def _excess(group: pq.RowGroupMetaData) -> str:
    """What is wrong with the sizes that the row group claims; empty if nothing is."""
    for i in range(group.num_columns):
        column = group.column(i)
        size, stored = column.total_uncompressed_size, max(column.total_compressed_size, 1)
        if size > MAX_COLUMN and (size > MAX_RATIO * stored or size > MAX_ROW * max(column.num_values, 1)):
            claim = f"column {column.path_in_schema!r} claims {size:,} bytes for {column.num_values:,} values"
            return f"{claim}, {stored:,} in the file; at most {MAX_ROW:,} a value and {MAX_RATIO} times that are read"
    return ""


def _corrupt(part: Part, what: str, error: Exception) -> BadSample:
    return BadSample("corrupt_block", f"{part.file}, {what} {part.start}: {error}")
