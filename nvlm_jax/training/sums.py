"""Checksums of arrays as they are read from disk, part by part: those of `checkpoints.checksums`, without a device.

The checksum of an array is the sum of its values' bits, each times an odd weight that is affine in its indices, modulo
2^32. So the sums of its parts, with the weights of their places, add up to it, in any order and on any mesh.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from nvlm_jax.convert.names import Path
from nvlm_jax.convert.shards import CheckpointError
from nvlm_jax.convert.stream import DiskArray

AT_ONCE = 4  # pieces
# Key of a step's JSON: checksums of an imported checkpoint, whose arrays are cast when they are restored, as they lie.
ON_DISK = "checksums_on_disk"
Bounds = tuple[tuple[int, int], ...]


def part_sum(values: np.ndarray, start: Sequence[int]) -> int:
    """The sum of a part of an array.

    Args:
        values: any shape and strides; 1, 2 or 4 bytes a value.
        start: index of its first value in the whole array.
    """
    bits = values.view(np.dtype(f"uint{8 * values.dtype.itemsize}"))
    total = 0
    for axis in reversed(range(values.ndim)):
        along = bits.sum(axis=tuple(range(axis)), dtype=np.uint32)
        places = np.arange(start[axis], start[axis] + len(along), dtype=np.uint32)
        total += 2 * 31 ** (values.ndim - 1 - axis) * int((along * places).sum(dtype=np.uint32))
        bits = bits.sum(axis=axis, dtype=np.uint32)
    return (total + 31**values.ndim * int(bits)) % 2**32


class SummedReader:
    """Reads parts of an array for `place` and sums those that no process of a smaller device number reads too."""

    def __init__(self, array: DiskArray, target: jax.ShapeDtypeStruct):
        self.total = 0
        self._array = array
        first: dict[Bounds, jax.Device] = {}
        for device, index in sorted(target.sharding.devices_indices_map(target.shape).items(), key=lambda d: d[0].id):
            first.setdefault(_bounds(index, target.shape), device)
        here = jax.process_index()
        self._own = {bounds for bounds, device in first.items() if device.process_index == here}

    def __call__(self, index: tuple[slice, ...]) -> np.ndarray:
        part, bounds = self._array[index], _bounds(index, self._array.shape)
        if bounds in self._own:
            self.total = (self.total + part_sum(part, [start for start, _ in bounds])) % 2**32
        return part


def check_totals(totals: Mapping[Path, int], expected: Mapping[Path, int], where: Any) -> None:
    """Raise CheckpointError unless sums over all processes are those that were saved; every process calls it.

    Args:
        totals: path -> what this process has read of the array.
        expected: path -> what was saved; an array that is not there is not checked.
        where: the checkpoint, for the message.
    """
    paths = [path for path in totals if path in expected]
    found = np.array([totals[path] for path in paths], np.uint32)
    if jax.process_count() > 1 and paths:
        found = multihost_utils.process_allgather(found).sum(axis=0, dtype=np.uint32)
    _compare(dict(zip(paths, found.tolist(), strict=True)), expected, where)


def _compare(sums: Mapping[Path, int], expected: Mapping[Path, int], where: Any) -> None:
    if wrong := [path for path, total in sums.items() if total != expected[path]]:
        raise CheckpointError(
            f"{where}: {len(wrong)} arrays differ from what was saved, the first is {'/'.join(wrong[0])}; "
            "restore the checkpoint from a copy, or take another step"
        )


def array_sums(arrays: Mapping[Path, DiskArray]) -> dict[Path, int]:
    """The checksum of each array on disk, read piece by piece."""
    pieces = [(path, start) for path, array in arrays.items() for start in _starts(array)]

    def one(piece: tuple[Path, tuple[int, ...]]) -> int:
        path, start = piece
        return part_sum(arrays[path][_slices(start, arrays[path])], start)

    sums = dict.fromkeys(arrays, 0)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for (path, _), total in zip(pieces, pool.map(one, pieces), strict=True):
            sums[path] = (sums[path] + total) % 2**32
    return sums


def saved_sums(meta: Mapping[str, Any]) -> dict[Path, int]:
    """The checksum of each parameter on disk, by path, as the JSON of a step has them; an old import has none."""
    sums = meta.get(ON_DISK) or meta.get("checksums") or {}
    return {tuple(name.split("/")): s for item in ("params", "frozen") for name, s in (sums.get(item) or {}).items()}


def check_arrays(arrays: Mapping[Path, DiskArray], expected: Mapping[Path, int], where: Any) -> None:
    """Read arrays and raise CheckpointError unless they are what was saved; one that is not in `expected` is not."""
    _compare(array_sums({path: array for path, array in arrays.items() if path in expected}), expected, where)


def _starts(array: DiskArray) -> Iterator[tuple[int, ...]]:
    steps = zip(array.shape, array.chunk, strict=True)
    return itertools.product(*(range(0, size, max(chunk, 1)) for size, chunk in steps))


def _slices(start: Sequence[int], array: DiskArray) -> tuple[slice, ...]:
    return tuple(slice(s, min(s + c, n)) for s, c, n in zip(start, array.chunk, array.shape, strict=True))


def _bounds(index: Sequence[slice], shape: Sequence[int]) -> Bounds:
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
