"""The order of a run, planned from lengths alone: which samples share a row, and which row comes i-th.

    Blend      draw n -> (dataset, sample)        data_pipelines/blend.py
    pack       draws of a window -> rows          data_pipelines/packing.py: two budgets, tokens and tiles of a row
    Plan       row i -> its samples               a function of the seed, the blend, the lengths and the budgets

A plan is an Arrow file: one line a row, a list of (dataset, sample, tokens, tiles). It is written window by window and
read where it lies, so neither takes memory for its size. Windows are packed one by one, so a longer plan begins with
the rows of a shorter one, and nothing here knows how many hosts there are. Plans are kept beside the data as
`plan-KEY.arrow`, where KEY is a hash of everything that they depend on.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import pathlib
import secrets
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from data_pipelines import blend as blend_module
from data_pipelines import packing as packing_module
from data_pipelines.blend import Blend, PlanError
from data_pipelines.index import TOO_LONG
from data_pipelines.packing import pack
from nvlm_jax import json_text
from nvlm_jax.inputs.errors import words

BATCH = 4096  # rows of an Arrow record batch
CHECK_SUM = b"crc32"  # of each batch, beside it
_SAMPLE = pa.struct([("dataset", pa.int16()), ("sample", pa.int64()), ("tokens", pa.int32()), ("tiles", pa.int16())])
_LOG = logging.getLogger(__name__)
Lengths = tuple[np.ndarray, np.ndarray]  # tokens and tiles of every sample of a dataset, int32 [size] each


class Budgets(NamedTuple):
    """What a row holds, and what is packed together."""

    tokens_per_row: int
    tiles_per_row: int
    window: int  # draws


class Window(NamedTuple):
    """Rows, one after the other: row lengths [r], and of each sample [n] the columns of the plan."""

    lengths: np.ndarray
    columns: tuple[np.ndarray, ...]


class Plan:
    """The rows of a run, in order. Safe to share between threads; a pickled one opens its file again."""

    def __init__(
        self,
        source: pathlib.Path | pa.Buffer,
        rows: int | None = None,
        groups: Sequence[str] = (),
        dropped: Mapping[str, np.ndarray] | None = None,
    ):
        """
        Args:
            source: the Arrow file, or what one would hold.
            rows: of those it has, this plan's; default all.
            groups: report groups of the answers; group k of a batch is groups[k - 1].
            dropped: by dataset: the samples, int64, that exceed a row's budget alone and are left out.
        """
        self._source, self.groups, self.dropped = source, tuple(groups), dict(dropped or {})
        self._open()
        facts = json_text.parse(self._reader.schema.metadata[b"plan"])
        self.names: tuple[str, ...] = tuple(facts["names"])
        self.tokens_per_row: int = facts["tokens_per_row"]
        self.tiles_per_row: int = facts["tiles_per_row"]
        last = self._reader.num_record_batches - 1
        held = last * BATCH + self._reader.get_batch(last).num_rows if last >= 0 else 0
        self._rows = held if rows is None else rows
        if self._rows > held:
            raise ValueError(f"a plan of {held} rows has no {self._rows}")

    def __len__(self) -> int:
        return self._rows

    def row(self, i: int) -> list[tuple[int, int]]:
        """Row i: (dataset, sample) of each of its segments. Raises IndexError beyond the plan."""
        dataset, sample, _, _ = self._segments(i)
        return list(zip(dataset.tolist(), sample.tolist(), strict=True))

    def lengths(self, i: int) -> tuple[list[int], list[int]]:
        """Tokens (0 where the sample cannot be built) and tiles of each segment of row i."""
        _, _, tokens, tiles = self._segments(i)
        return tokens.tolist(), tiles.tolist()

    def fill(self, first: int = 0, last: int | None = None) -> tuple[float, float]:
        """Share of token and of tile places that rows [first, last) use; 0 tiles of 0 count as full."""
        last = len(self) if last is None else last
        used = np.zeros(2, np.int64)
        for columns, _ in self.blocks(first, last):
            used += [columns[2].sum(dtype=np.int64), columns[3].sum(dtype=np.int64)]
        places = self.tokens_per_row * (last - first), self.tiles_per_row * (last - first)
        token_fill, tile_fill = (int(u) / p if p else 1.0 for u, p in zip(used, places, strict=True))
        return token_fill, tile_fill

    def counts(self) -> np.ndarray:
        """Samples that the rows take from each dataset, int64 [datasets]."""
        counts = np.zeros(len(self.names), np.int64)
        for columns, _ in self.blocks():
            counts += np.bincount(columns[0], minlength=len(counts))
        return counts

    def blocks(self, first: int = 0, last: int | None = None) -> Iterator[tuple[tuple[np.ndarray, ...], np.ndarray]]:
        """Rows [first, last) in pieces: dataset, sample, tokens and tiles of each segment, and each row's segments."""
        last = len(self) if last is None else last
        while first < last:
            columns, offsets = self._batch(first // BATCH)
            place, stop = first % BATCH, min(BATCH, first % BATCH + last - first)
            span = slice(offsets[place], offsets[stop])
            yield tuple(column[span] for column in columns), np.diff(offsets[place : stop + 1])
            first += stop - place

    def _segments(self, i: int) -> tuple[np.ndarray, ...]:
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} of a plan of {len(self)} rows")
        columns, offsets = self._batch(int(i) // BATCH)
        span = slice(offsets[i % BATCH], offsets[i % BATCH + 1])
        return tuple(column[span] for column in columns)

    def _batch(self, number: int) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        held, found = self._last
        if held != number:
            batch, metadata = self._reader.get_batch_with_custom_metadata(number)
            batch.validate(full=True)
            found = _arrays(batch)
            if (metadata or {}).get(CHECK_SUM) != str(_check_sum(found)).encode():
                raise PlanError(f"{self._source}: rows from {number * BATCH} on are damaged; remove the file")
            self._last = number, found
        return found

    def _open(self) -> None:
        source = self._source
        self._reader = pa.ipc.open_file(pa.memory_map(str(source)) if isinstance(source, pathlib.Path) else source)
        self._last: tuple[int, Any] = (-1, None)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_reader", "_last")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def plan_rows(
    blend: Blend,
    lengths: Sequence[Lengths],
    rows: int,
    budgets: Budgets,
    groups: Sequence[str] = (),
    directory: pathlib.Path | None = None,
) -> Plan:
    """Draw from the blend and pack, window by window, until there are `rows` rows.

    Args:
        blend: from its first draw on, wherever this one is.
        lengths: of each dataset.
        rows: how many; a run needs steps * rows of a batch.
        budgets: of a row.
        groups: kept in the plan.
        directory: where plans are kept; one that is there already and long enough is opened. None, or a directory that
            cannot be written to, keeps it in memory.

    Raises:
        PlanError: a dataset of the blend none of whose samples fits a row, or a budget that is no positive number.
    """
    check_budgets(blend, lengths, budgets)
    drawn = [(name, each) for name, share, each in zip(blend.names, blend.shares, lengths, strict=True) if share > 0]
    dropped = {name: over for name, each in drawn if len(over := too_large(each, budgets))}
    file = directory and directory / f"plan-{plan_key(blend, lengths, budgets)}.arrow"
    if file and (kept := _kept(file, rows, groups, dropped)):
        return kept
    if file:
        partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}")  # several hosts may write it at once
        try:
            with open(partial, "wb") as out:
                write_plan(out, packed_windows(blend.fresh(), lengths, budgets), rows, blend.names, budgets)
            partial.replace(file)
            return Plan(file, rows, groups, dropped)
        except OSError as error:
            _LOG.warning("the plan is not kept: %s", error)
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
    buffer = pa.BufferOutputStream()
    write_plan(buffer, packed_windows(blend.fresh(), lengths, budgets), rows, blend.names, budgets)
    return Plan(buffer.getvalue(), rows, groups, dropped)


def _kept(file: pathlib.Path, rows: int, groups: Sequence[str], dropped: Mapping[str, np.ndarray]) -> Plan | None:
    """The plan in the file, every row checked; None where there is none as long, or it is damaged."""
    if not file.is_file():
        return None
    try:
        if len(Plan(file)) < rows:
            return None
        plan = Plan(file, rows, groups, dropped)
        for _ in plan.blocks():
            pass
        return plan
    except (PlanError, pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        _LOG.warning("%s is damaged (%s): the plan is made anew", file, words(error))
        return None


def plan_key(blend: Blend, lengths: Sequence[Lengths], budgets: Budgets) -> str:
    """A hash of all that rows depend on: blend, seed, lengths, budgets, window, and the code itself."""
    digest = hashlib.sha256(json.dumps([blend.names, blend.shares.tolist(), blend.seed, budgets]).encode())
    for module in (__file__, blend_module.__file__, packing_module.__file__):
        digest.update(pathlib.Path(module).read_bytes())
    for column in itertools.chain.from_iterable(lengths):
        digest.update(len(column).to_bytes(8, "little"))
        for first in range(0, len(column), 1 << 20):
            digest.update(np.ascontiguousarray(column[first : first + (1 << 20)], np.int32))
    return digest.hexdigest()[:16]


def packed_windows(
    blend: Blend, lengths: Sequence[Lengths], budgets: Budgets, draws: int | None = None
) -> Iterator[Window]:
    """The rows of one window after the other: of the next `draws` draws, or without end."""
    for number in itertools.count():
        count = budgets.window if draws is None else min(budgets.window, draws - number * budgets.window)
        if count <= 0:
            return
        dataset, sample = blend.take(count)
        tokens, tiles = np.zeros(count, np.int32), np.zeros(count, np.int32)
        for d in np.unique(dataset):
            mine = dataset == d
            tokens[mine], tiles[mine] = (column[sample[mine]] for column in lengths[d])
        window_seed = zlib.crc32(f"{blend.seed} {number}".encode())
        packed = pack(tokens, tiles, budgets.tokens_per_row, budgets.tiles_per_row, window_seed)
        yield Window(packed.lengths, tuple(column[packed.draws] for column in (dataset, sample, tokens, tiles)))


def write_plan(
    out: BinaryIO | pa.NativeFile, windows: Iterator[Window], rows: int | None, names: Sequence[str], budgets: Budgets
) -> None:
    """Write the first `rows` rows (None: all) of `windows` as a plan."""
    facts = {"names": names, "tokens_per_row": budgets.tokens_per_row, "tiles_per_row": budgets.tiles_per_row}
    schema = pa.schema([("row", pa.list_(_SAMPLE))], metadata={"plan": json.dumps(facts)})
    left, held, waiting = rows, 0, []
    with pa.ipc.new_file(out, schema) as writer:
        while left is None or left > 0:
            while held < (BATCH if left is None else min(BATCH, left)) and (window := next(windows, None)):
                waiting.append(window)
                held += len(window.lengths)
            whole = _join(waiting)
            count = min(BATCH, held, held if left is None else left)
            if not count:
                return
            segments = int(whole.lengths[:count].sum())
            batch = _record_batch(whole.lengths[:count], [c[:segments] for c in whole.columns], schema)
            writer.write_batch(batch, {CHECK_SUM: str(_check_sum(_arrays(batch)))})
            waiting = [Window(whole.lengths[count:], tuple(column[segments:] for column in whole.columns))]
            held -= count
            left = None if left is None else left - count


def _arrays(batch: pa.RecordBatch) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Dataset, sample, tokens and tiles of all segments, and where each row's begin."""
    lists = batch.column(0)
    return tuple(column.to_numpy() for column in lists.values.flatten()), lists.offsets.to_numpy()


def _check_sum(arrays: tuple[tuple[np.ndarray, ...], np.ndarray]) -> int:
    columns, offsets = arrays
    sums = zlib.crc32(np.ascontiguousarray(offsets))
    for column in columns:
        sums = zlib.crc32(np.ascontiguousarray(column), sums)
    return sums


def _join(windows: Sequence[Window]) -> Window:
    lengths = np.concatenate([np.empty(0, np.int64), *(window.lengths for window in windows)])
    return Window(lengths, tuple(np.concatenate(c) for c in zip(*(w.columns for w in windows), strict=True)))


def _record_batch(lengths: np.ndarray, columns: Sequence[np.ndarray], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [pa.array(c.astype(f.type.to_pandas_dtype())) for c, f in zip(columns, _SAMPLE, strict=True)]
    samples = pa.StructArray.from_arrays(arrays, fields=list(_SAMPLE))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.record_batch([pa.ListArray.from_arrays(offsets, samples)], schema=schema)


def too_large(lengths: Lengths, budgets: Budgets) -> np.ndarray:
    """The samples that exceed a row's budget alone, int64."""
    tokens, tiles = lengths
    return np.flatnonzero((tokens > budgets.tokens_per_row) | (tiles > budgets.tiles_per_row))


def check_budgets(blend: Blend, lengths: Sequence[Lengths], budgets: Budgets) -> None:
    """Raises PlanError as `plan_rows`."""
    if budgets.tokens_per_row < 1 or budgets.tiles_per_row < 0 or budgets.window < 1:
        raise PlanError(
            f"data.tokens_per_row={budgets.tokens_per_row}, data.tiles_per_row={budgets.tiles_per_row}, "
            f"data.pack_window={budgets.window}: at least 1, 0 and 1 would be right"
        )
    for name, share, (tokens, tiles) in zip(blend.names, blend.shares, lengths, strict=True):
        if share > 0 and len(too_large((tokens, tiles), budgets)) == len(tokens):
            raise PlanError(
                f"dataset {name!r}: no sample fits a row of data.tokens_per_row={budgets.tokens_per_row} and "
                f"data.tiles_per_row={budgets.tiles_per_row}; {_smallest(tokens, tiles)}"
            )


def _smallest(tokens: np.ndarray, tiles: np.ndarray) -> str:
    """What the samples would need at least. One that was cut to the row and did not fit even so has TOO_LONG tokens."""
    if not len(tokens):
        return "it has no samples"
    measured = tokens < TOO_LONG
    if not measured.any():
        return (
            f"the first turn of each of its {len(tokens)} samples is longer. A larger row, or fewer tiles an image "
            "(inputs.max_tiles), would be right"
        )
    fewest = tokens[measured].min(), tiles[measured].min()
    return f"its shortest sample has {fewest[0]} tokens, the one with the fewest tiles {fewest[1]}"
