"""Orbax checkpoints written and read a block at a time: the standard format, without a whole array in memory.

Orbax saves arrays that exist. A stacked array of the 72B model is 39 GB, so Orbax is given a handler for arrays that do
not: it opens each array's TensorStore as Orbax would, and writes the blocks as they come from the source. What lies on
disk is an ordinary checkpoint that any Orbax restores, into any sharding.

Pieces of arrays are files of their own (no OCDBT), not compressed, with the values in the order that they have in the
source. So most of a conversion, in both directions, is copying parts of files as they lie.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import functools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath
from orbax.checkpoint import type_handlers

from nvlm_jax.convert.names import Path as ParameterPath
from nvlm_jax.convert.shards import CheckpointError, FileRange

# Blocks that are being written while the next one is read.
IN_FLIGHT = 3


class BlockArray(abc.ABC):
    """An array that is made block by block."""

    shape: tuple[int, ...]
    dtype: np.dtype
    chunk: tuple[int, ...]  # shape of a piece on disk; blocks are whole pieces
    turned: bool  # whether pieces lie on disk column by column (the last axis is the slowest)

    @abc.abstractmethod
    def blocks(self) -> Iterator[tuple[Any, np.ndarray | FileRange]]:
        """(index, values) until the array is complete. A file range is exactly one piece."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class DiskArray:
    """An array of a checkpoint on disk; indexing reads that part of it."""

    def __init__(self, directory: Path, name: str, shape: tuple[int, ...], dtype: np.dtype, zarr3: bool, ocdbt: bool):
        self.directory, self.shape, self.dtype = directory, tuple(shape), np.dtype(dtype)
        self._info = type_handlers.ParamInfo(
            name=name,
            parent_dir=epath.Path(directory),
            is_ocdbt_checkpoint=ocdbt,
            use_zarr3=zarr3,
            ts_context=type_handlers.get_ts_context(use_ocdbt=ocdbt),
        )

    @functools.cached_property
    def store(self) -> ts.TensorStore:
        spec = type_handlers.get_json_tspec_read(self._info, self._info.is_ocdbt_checkpoint)
        try:
            store = ts.open(ts.Spec(spec), open=True, context=self._info.ts_context).result()
        except Exception as error:  # TensorStore raises plain ones
            raise self._unreadable(error) from error
        if (tuple(store.shape), np.dtype(store.dtype.numpy_dtype)) != (self.shape, self.dtype):
            raise CheckpointError(f"{self.directory}: {self._info.name} is not of the shape and type that were saved")
        return store

    @property
    def chunk(self) -> tuple[int, ...]:
        """The shape of a piece on disk."""
        return tuple(self.store.chunk_layout.read_chunk.shape or self.shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        """That part, in the order in which it lies on disk. Raises CheckpointError if it cannot be read."""
        store = self.store
        try:
            return store[index].read(order="F" if self.turned else "C").result()
        except Exception as error:  # TensorStore raises plain ones
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> CheckpointError:
        text = str(error).split(" [")[0]
        return CheckpointError(f"{self.directory}: {self._info.name} cannot be read: {text:.300}")

    def piece(self, index: Sequence[Any]) -> FileRange | None:
        """The file that is exactly this part, in the order in which it lies on disk; None if there is none."""
        spec = self._spec
        plain = {"compressor": None, "filters": None, "dimension_separator": "."}
        found = {key: spec["metadata"].get(key, "") for key in plain}
        if (spec["driver"], spec["kvstore"]["driver"]) != ("zarr", "file") or found != plain:
            return None
        for part, size, length in zip_longest(index, self.chunk, self.shape, fillvalue=slice(None)):
            whole = part.indices(length) if isinstance(part, slice) else (part, part + 1)
            if whole[0] % size or whole[1] - whole[0] != size:
                return None
        piece = Path(spec["kvstore"]["path"], piece_name(index, self.chunk))
        return FileRange(piece, 0, math.prod(self.chunk) * self.dtype.itemsize) if piece.is_file() else None

    @functools.cached_property
    def _spec(self) -> dict[str, Any]:
        return self.store.spec().to_json()

    @functools.cached_property
    def turned(self) -> bool:
        """Whether its pieces lie column by column on disk."""
        order = self.store.chunk_layout.inner_order
        return order is not None and len(order) > 1 and tuple(order) == tuple(range(len(order)))[::-1]


class _BlockHandler(type_handlers.NumpyHandler):
    """Writes a `BlockArray` where Orbax would write an array."""

    def typestr(self) -> str:
        return "np.ndarray"  # which it is when it is read

    async def serialize(
        self,
        values: Sequence[BlockArray],
        infos: Sequence[type_handlers.ParamInfo],
        args: Sequence[type_handlers.SaveArgs] | None = None,
    ) -> list[ocp.future.Future]:
        args = args or [type_handlers.SaveArgs()] * len(values)
        writing = self._write(values, infos, args)
        return [ocp.future.CommitFutureAwaitingContractedSignals(writing, name="blocks")]

    async def _write(self, values: Sequence[BlockArray], infos: Any, args: Any) -> None:
        for value, info, arg in zip(values, infos, args, strict=True):
            await info.await_path_creation()
            spec = type_handlers.get_json_tspec_write(
                info, info.is_ocdbt_checkpoint, value.shape, value.chunk, value.dtype, process_index=0, arg=arg
            )
            if value.turned:
                spec["metadata"]["order"] = "F"
            # Waiting for the disk after every block would take longer than the copy itself.
            context = ts.Context({"file_io_sync": False}, info.ts_context)
            store = await ts.open(ts.Spec(spec), create=True, open=True, context=context)
            pending: list[Any] = []
            for index, block in value.blocks():
                while len(pending) >= IN_FLIGHT:
                    await pending.pop(0)
                if isinstance(block, FileRange):
                    piece = Path(spec["kvstore"]["path"], piece_name(index, value.chunk))
                    pending.append(asyncio.ensure_future(asyncio.to_thread(_copied, block, piece)))
                else:
                    pending.append(asyncio.ensure_future(_written(store[index], block)))
                await asyncio.sleep(0)  # let the write begin before the next block is read
            await asyncio.gather(*pending)


def piece_name(index: Sequence[Any], chunk: Sequence[int]) -> str:
    """The file of the piece that begins where `index` (whole numbers and slices) begins, as Zarr names it."""
    starts = [part.start or 0 if isinstance(part, slice) else part for part in index]
    starts += [0] * (len(chunk) - len(starts))
    return ".".join(str(start // size) for start, size in zip(starts, chunk, strict=True))


def _copied(block: FileRange, piece: Path) -> None:
    with open(piece, "wb") as stream:
        block.copy_to(stream)


async def _written(store: ts.TensorStore, block: np.ndarray) -> None:
    await store.write(block, can_reference_source_data_indefinitely=True)


def save_blocks(directory: str | Path, tree: Mapping[str, Any]) -> None:
    """Save nested dicts whose leaves are `BlockArray`s as an Orbax checkpoint at `directory`.

    Not compressed: weights hardly compress, and a conversion should take as long as a copy.
    """
    registry = type_handlers.create_type_handler_registry(
        (BlockArray, _BlockHandler()), (jax.Array, type_handlers.ArrayHandler())
    )
    handler = ocp.PyTreeCheckpointHandler(
        use_ocdbt=False, use_zarr3=False, use_compression=False, type_handler_registry=registry
    )
    with ocp.Checkpointer(handler) as checkpointer, _without_warning("Skipping merge of OCDBT"):
        checkpointer.save(Path(directory).absolute(), args=ocp.args.PyTreeSave(tree))


@contextlib.contextmanager
def _without_warning(start: str) -> Iterator[None]:
    """Orbax warns that it finds no OCDBT files where none were asked for."""

    def keep(record: logging.LogRecord) -> bool:
        return start not in str(record.msg)

    logging.getLogger("absl").addFilter(keep)
    try:
        yield
    finally:
        logging.getLogger("absl").removeFilter(keep)


def open_arrays(directory: str | Path) -> dict[ParameterPath, DiskArray]:
    """Every array of an Orbax checkpoint by its path; no data is read.

    Raises:
        CheckpointError: there is no readable checkpoint.
    """
    directory = Path(directory).absolute()
    try:
        # Not through a Checkpointer, which looks for the metadata of a whole step beside these arrays, and warns.
        tree = ocp.PyTreeCheckpointHandler().metadata(directory)
        if tree is None:
            raise ValueError("its metadata is missing or damaged")
        ocdbt = type_handlers.is_ocdbt_checkpoint(epath.Path(directory))
        found = {}
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree.tree)[0]:
            names = tuple(str(getattr(key, "key", key)) for key in path)
            found[names] = DiskArray(directory, leaf.name, leaf.shape, leaf.dtype, tree.use_zarr3, ocdbt)
    except Exception as error:  # Orbax, TensorStore and what reads their JSON raise all kinds
        text = next(iter(str(error).splitlines()), "")
        raise CheckpointError(f"{directory}: no readable Orbax checkpoint: {text:.300}") from error
    return found
