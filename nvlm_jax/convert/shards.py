"""Safetensors shards: opened with every check that needs no data, read a block of rows at a time, written likewise.

Blocks are read with plain file reads. A memory map, which the `safetensors` library uses, would count every page that
was ever touched as resident memory of the process.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from nvlm_jax import json_text

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_SHARD_BYTES = 5_000_000_000
MAX_JSON_BYTES = 256 << 20  # of an index; config.json has some kB
NAMED = 200  # characters of a name from a file in a message
# File ranges are copied through a buffer that stays in the processor's cache. Between places that are no whole pages,
# as behind a shard's header, copy_file_range costs a quarter more: it makes smaller pieces of the page cache.
COPY_BYTES = 1 << 20


class CheckpointError(ValueError):
    """A checkpoint that cannot be used. The message names the file or tensor, what was wrong and what is right."""


class Entry(NamedTuple):
    """Where a tensor lies."""

    file: Path
    offset: int  # of its first byte in the file
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class FileRange(NamedTuple):
    """Values that lie in a file as they are to lie in another one."""

    file: Path
    offset: int
    nbytes: int

    def copy_to(self, target: BinaryIO) -> None:
        """Append to `target`, a few pages at a time; see COPY_BYTES."""
        buffer, left = memoryview(np.empty(COPY_BYTES, np.uint8)), self.nbytes
        with open(self.file, "rb", buffering=0) as source:
            source.seek(self.offset)
            while left and (done := source.readinto(buffer[:left])):
                target.write(buffer[:done])
                left -= done
        if left:
            raise CheckpointError(f"{self.file}: ends {left} bytes too early")


class Shards(dict[str, Entry]):
    """The tensors of a checkpoint by name."""

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The tensor, or rows start..stop of its first axis, as it lies on disk."""
        entry = self[name]
        if not entry.shape:
            return np.fromfile(entry.file, entry.dtype, 1, offset=entry.offset).reshape(())
        stop = entry.shape[0] if stop is None else stop
        row = math.prod(entry.shape[1:])
        offset = entry.offset + start * row * entry.dtype.itemsize
        data = np.fromfile(entry.file, entry.dtype, (stop - start) * row, offset=offset)
        return data.reshape(stop - start, *entry.shape[1:])


def open_shards(path: str | Path) -> Shards:
    """The tensors of a directory with safetensors shards, or of one such file. Reads headers only.

    Raises:
        CheckpointError: nothing there, pickle files, an index that names a missing file or one outside the directory,
            a truncated or corrupt shard, an index that disagrees with the shards.
    """
    path = Path(path)
    if path.is_file():
        _refuse_pickle(path)
        return _entries(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such directory or file")
    if (path / INDEX).exists():
        return _indexed(path)
    if (path / SINGLE).exists():
        return _entries(path / SINGLE)
    for file in sorted(path.iterdir()):
        _refuse_pickle(file)
    raise CheckpointError(f"{path}: holds neither {INDEX} nor {SINGLE}")


def _refuse_pickle(file: Path) -> None:
    if file.suffix in PICKLES or file.name.endswith(".bin.index.json"):
        raise CheckpointError(
            f"{file}: a pickle can run any code when it is opened and is refused; convert it to safetensors first"
        )


def _indexed(path: Path) -> Shards:
    index = read_json(path / INDEX)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{path / INDEX}: expected a `weight_map` from tensor to file name")
    found = Shards()
    for name in sorted(set(weight_map.values())):
        file = PurePosixPath(name)
        if file.is_absolute() or ".." in file.parts or "\\" in name:
            where = f"{path / INDEX}: {name[:NAMED]!r}"
            raise CheckpointError(f"{where} leads out of the directory; expected a file inside it")
        _refuse_pickle(path / name)
        if not _is_file(path / name):
            raise CheckpointError(f"{path / INDEX}: names {name:.{NAMED}}, which is missing; is the download complete?")
        found.update(_entries(path / name))
    for name, file in weight_map.items():
        if name not in found or found[name].file != path / file:
            raise CheckpointError(f"{path / INDEX}: says that {file} holds {name:.{NAMED}}; it does not")
    if extra := sorted(set(found) - set(weight_map)):
        some = ", ".join(extra[:5])[:NAMED]
        raise CheckpointError(f"{path / INDEX}: does not list {some}, found in {found[extra[0]].file}")
    return found


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a name that is too long for a file
        return False


def _entries(file: Path) -> Shards:
    if not file.is_file():  # a FIFO would be waited for
        raise CheckpointError(f"{file}: is no regular file")
    try:
        with safe_open(file, "np"):  # checks the header against the file's length; reads no data
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: truncated or no safetensors file ({error})") from error
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    found = Shards()
    for name, item in header.items():
        if name == "__metadata__":
            continue
        if item["dtype"] not in DTYPES:
            known = ", ".join(DTYPES)
            raise CheckpointError(f"{file}: {name:.{NAMED}} has dtype {item['dtype']}; known are {known}")
        begin = 8 + length + item["data_offsets"][0]
        found[name] = Entry(file, begin, DTYPES[item["dtype"]], tuple(item["shape"]))
    return found


def read_json(file: Path) -> dict:
    """A JSON object.

    Raises:
        CheckpointError: the file is missing or holds something else.
    """
    try:
        value = json_text.load(file, MAX_JSON_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        link = error.strerror if file.is_symlink() else "missing"
        raise CheckpointError(f"{file}: {link}") from None
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
    except json_text.JsonError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: expected a JSON object, got {type(value).__name__}")
    return value


class Declared(NamedTuple):
    """A tensor that is going to be written."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def plan_shards(sizes: Mapping[str, int], limit: int = MAX_SHARD_BYTES) -> list[list[str]]:
    """Names in shards of at most `limit` bytes, in order; a tensor larger than that has a shard of its own."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if shards[-1] and used + size > limit:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def write_shard(
    file: Path, declared: Mapping[str, Declared], blocks: Iterable[tuple[str, np.ndarray | FileRange]]
) -> None:
    """Write one shard as the blocks come: consecutive rows of its tensors, in the order of `declared`.

    Raises:
        ValueError: a block of the wrong dtype or tensor, or more or fewer bytes than declared.
    """
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, item in declared.items():
        header[name] = {
            "dtype": DTYPE_NAMES[item.dtype],
            "shape": list(item.shape),
            "data_offsets": [offset, offset + item.nbytes],
        }
        offset += item.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data starts at a multiple of 8 bytes, as the library writes it
    expected = [name for name, item in declared.items() for _ in range(item.nbytes > 0)]
    written = dict.fromkeys(expected, 0)
    with open(file, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, block in blocks:
            while expected and written[expected[0]] == declared[expected[0]].nbytes:
                expected.pop(0)
            copied = isinstance(block, FileRange)
            if not expected or name != expected[0] or not (copied or block.dtype == declared[name].dtype):
                raise ValueError(f"{file}: block of {name} out of place")
            if copied:
                block.copy_to(stream)
            else:
                stream.write(np.ascontiguousarray(block).view(np.uint8).reshape(-1).data)
            written[name] += block.nbytes
    if short := [name for name in written if written[name] != declared[name].nbytes]:
        raise ValueError(f"{file}: {short[0]} has {written[short[0]]} bytes; {declared[short[0]].nbytes} declared")


def index_json(shards: Mapping[str, Mapping[str, Declared]]) -> str:
    """The text of the index of shards: file name -> its tensors."""
    total = sum(item.nbytes for tensors in shards.values() for item in tensors.values())
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    value = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return json.dumps(value, indent=2) + "\n"
