"""Hugging Face checkpoint -> our parameters, checked against the configuration before any data is read."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from nvlm_jax.config import DecoderConfig, ModelConfig, VisionConfig
from nvlm_jax.convert import names
from nvlm_jax.convert.hf_config import part_from_hf
from nvlm_jax.convert.names import Tensor
from nvlm_jax.convert.place import place
from nvlm_jax.convert.shards import CheckpointError, FileRange, Shards, open_shards
from nvlm_jax.convert.stream import BlockArray

# Rows of large tensors are read so many bytes at a time. Larger blocks would be slower: beyond this size the allocator
# gives memory back to the system after every block, and a page fault costs more than the copy of the page.
BLOCK_BYTES = 8 << 20
# Computed, not learned; old Llama checkpoints carry it.
IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)

Index = tuple[slice | int, ...]


@dataclasses.dataclass(frozen=True)
class PartReader:
    """One part of a checkpoint, all names and shapes checked, no data read yet."""

    shards: Shards
    tensors: list[Tensor]

    def dtype(self, tensor: Tensor) -> np.dtype:
        """The dtype of our parameter: the widest of its layers."""
        return np.result_type(*(self.shards[name].dtype for name in set(tensor.names)))

    def read(self, tensor: Tensor, index: Index = ()) -> np.ndarray:
        """The parameter, stacked, or the part of it that `index` (slices, as of a NumPy array) names; no more is kept.

        Where rows of theirs are columns of ours, so they lie in the array's memory too.
        """
        wanted = [range(n) for n in tensor.stacked_shape]
        wanted[: len(index)] = [all_[part] for all_, part in zip(wanted, index, strict=False)]
        shape = [len(part) for part in wanted]
        dtype = self.dtype(tensor)
        if tensor.turned:
            out = np.empty((*shape[:-2], shape[-1], shape[-2]), dtype).swapaxes(-1, -2)
        else:
            out = np.empty(shape, dtype)
        layers, inner = ((0,), wanted) if tensor.layers is None else (wanted[0], wanted[1:])
        for number, layer in enumerate(layers):
            for at, block in self._layer(tensor, layer, inner):
                out[at if tensor.layers is None else (number, *at)] = block
        return out

    def blocks(self, tensor: Tensor) -> Iterator[tuple[Index, np.ndarray | FileRange]]:
        """The parameter in pieces of at most about BLOCK_BYTES, where its layout lets it be cut: (place, values).

        A piece that lies in the shard as it will lie in the checkpoint (`chunk_shape`) is not read: it is its place.
        """
        dtype = self.dtype(tensor)
        step = block_rows(tensor, dtype)
        for layer, name in enumerate(tensor.names):
            first, entry = () if tensor.layers is None else (layer,), self.shards[name]
            if step is None:
                yield (*first, ...), tensor.to_ours(self.shards.read(name)).astype(dtype, copy=False)
                continue
            row = entry.nbytes // entry.shape[0]
            same = entry.dtype == dtype and entry.shape[1:] == tensor.their_shape()[1:]
            for ours, start, count in row_blocks(tensor, step, entry.shape[0]):
                place = (*first, *our_rows(tensor, slice(ours, ours + count)))
                if same and count == step:
                    yield place, FileRange(entry.file, entry.offset + start * row, count * row)
                else:
                    block = self.shards.read(name, start, start + count)
                    yield place, tensor.rows.to_ours(block).astype(dtype, copy=False)

    def _layer(self, tensor: Tensor, layer: int, inner: list[range]) -> Iterator[tuple[Index, np.ndarray]]:
        """Blocks of the ranges `inner` of one layer, each with its place within those ranges."""
        name, parts = tensor.names[layer], [slice(r.start, r.stop) for r in inner]
        step = block_rows(tensor, self.dtype(tensor))
        if step is None or tensor.groups > 1:
            yield (...,), tensor.to_ours(self.shards.read(name))[tuple(parts)]
            return
        axis = len(inner) - 1 if tensor.turned else 0
        rows, others = inner[axis], [slice(None) if i == axis else part for i, part in enumerate(parts)]
        for start in range(rows.start, rows.stop, step):
            stop = min(start + step, rows.stop)
            block = tensor.to_ours(self.shards.read(name, start, stop))
            yield our_rows(tensor, slice(start - rows.start, stop - rows.start)), block[tuple(others)]


class PartArray(BlockArray):
    """One parameter of a part as a block array, to be written elsewhere."""

    def __init__(self, reader: PartReader, tensor: Tensor):
        self.reader, self.tensor = reader, tensor
        self.shape, self.dtype = tensor.stacked_shape, reader.dtype(tensor)
        inner = chunk_shape(tensor, self.dtype)
        self.chunk = inner if tensor.layers is None else (1, *inner)
        self.turned = tensor.turned

    def blocks(self) -> Iterator[tuple[Index, np.ndarray | FileRange]]:
        return self.reader.blocks(self.tensor)


def block_rows(tensor: Tensor, dtype: np.dtype) -> int | None:
    """Rows of theirs to read at once; None where the tensor must be read whole."""
    shape = tensor.their_shape()
    if tensor.form not in ("plain", "matrix", "heads_in", "qkv") or not shape:
        return None
    each = shape[0] // tensor.groups
    step = _fitting(each, math.prod(shape[1:]) * dtype.itemsize)
    return step if tensor.groups == 1 or each % step == 0 else None


def row_blocks(tensor: Tensor, step: int, rows: int) -> Iterator[tuple[int, int, int]]:
    """Blocks of at most `step` rows: (first without dummy heads, first of all `rows`, number); each in one group."""
    each, all_ = tensor.their_shape()[0] // tensor.groups, rows // tensor.groups
    for group in range(tensor.groups):
        for start in range(0, each, step):
            yield group * each + start, group * all_ + start, min(step, each - start)


def chunk_shape(tensor: Tensor, dtype: np.dtype) -> tuple[int, ...]:
    """A piece on disk of one layer of ours: whole rows of theirs that make a block."""
    shape = list(tensor.shape)
    if shape:
        axis = len(shape) - 1 if tensor.turned else 0
        shape[axis] = _fitting(shape[axis] // tensor.groups, math.prod(shape) // shape[axis] * dtype.itemsize)
    return tuple(shape)


def _fitting(rows: int, row_bytes: int) -> int:
    """So many rows at once: a divisor of their number, if one comes near to BLOCK_BYTES."""
    most = max(1, min(rows, BLOCK_BYTES // row_bytes))
    return next((n for n in range(most, most // 2, -1) if rows % n == 0), most)


def our_rows(tensor: Tensor, rows: slice) -> Index:
    """Where rows of theirs lie in one layer of ours."""
    return (slice(None), rows) if tensor.turned else (rows,)


def read_part(path: str | Path, part: str, config: ModelConfig) -> dict[names.Path, np.ndarray]:
    """All parameters of one part, in the dtypes of the checkpoint.

    Args:
        path: Hugging Face directory, or a safetensors file, of a whole NVLM model or of a single backbone
            (InternViT, Qwen2, Llama/Yi).
        part: "vision", "llm", "projector" or "cross_attention".
        config: the model that the parameters are for.

    Returns:
        path of the parameter, for example ('decoder', 'layers', 'attention', 'q', 'kernel') -> array, stacked over
        layers where the model's are.

    Raises:
        CheckpointError: the files are damaged, or do not fit `config`: all missing, extra and misshaped tensors and
            all differing settings of config.json are listed.
    """
    reader = open_part(path, part, config)
    return {tensor.ours: reader.read(tensor) for tensor in reader.tensors}


def place_part(reader: PartReader, wanted: Mapping[names.Path, jax.ShapeDtypeStruct]) -> dict[names.Path, jax.Array]:
    """All parameters of an opened part, each device's share read straight onto it, in the dtypes of `wanted`."""
    return {t.ours: place(wanted[t.ours], functools.partial(reader.read, t)) for t in reader.tensors}


def open_part(path: str | Path, part: str, config: ModelConfig, shards: Shards | None = None) -> PartReader:
    """Check one part of a checkpoint against `config` and open it. Arguments and errors as for `read_part`."""
    if part not in names.PARTS:
        raise CheckpointError(f"{part!r} is no part of a checkpoint; expected one of {', '.join(names.PARTS)}")
    shards = open_shards(path) if shards is None else shards
    _check_settings(path, part, config)
    prefix = _prefix(shards, part, path)
    tensors = names.tensors(config, part, prefix)
    found = Shards({name: entry for name, entry in shards.items() if name.startswith(prefix)})
    _check_names(found, tensors, config, path, part)
    if part == "vision":
        _check_dummy_heads(found, tensors, path)
    return PartReader(found, tensors)


def open_model(path: str | Path, config: ModelConfig) -> dict[str, PartReader]:
    """Every part of a whole model; a tensor that belongs to none is an error. As `read_part` otherwise."""
    shards = open_shards(path)
    readers = {part: open_part(path, part, config, shards) for part in names.parts_of(config)}
    if extra := sorted(set(shards) - {name for reader in readers.values() for name in reader.shards}):
        raise CheckpointError(f"{path}: {_some(extra)} belongs to no part of NVLM-{config.arch.upper()}")
    return readers


def _check_settings(path: str | Path, part: str, config: ModelConfig) -> None:
    """Shapes do not show the number of heads, the RoPE base or the norms' epsilon: config.json must agree on them."""
    if part not in ("vision", "llm"):
        return
    found: VisionConfig | DecoderConfig | None = part_from_hf(path, part)
    expected = config.vision if part == "vision" else config.decoder
    if found is None:
        return
    # How fresh weights are drawn; what is computed beyond the positions that the model was trained on.
    free = {"layer_scale_init", "max_positions", "rope_scaling_factor"}
    faults = [
        f"{field.name} is {getattr(found, field.name)}, the run's {getattr(expected, field.name)}"
        for field in dataclasses.fields(found)
        if field.name not in free and getattr(found, field.name) != getattr(expected, field.name)
    ]
    if faults:
        raise CheckpointError(f"{path}: config.json does not fit model.{names.PARTS[part]}: " + "; ".join(faults))


def _prefix(shards: Shards, part: str, path: str | Path) -> str:
    """What stands before the names: the part's prefix in a whole model, nothing in a single backbone."""
    whole = names.PREFIXES[part]
    if any(name.startswith(whole) for name in shards):
        return whole
    single = {"vision": ("embeddings.", "encoder."), "llm": ("model.", "lm_head.")}.get(part, ())
    if single and any(name.startswith(single) for name in shards):
        return ""
    raise CheckpointError(f"{path}: no tensor of the {part}; expected names such as {whole}*")


def _check_names(found: Shards, tensors: list[Tensor], config: ModelConfig, path: str | Path, part: str) -> None:
    dummy = _dummy_channels(found, config.vision, tensors, path) if part == "vision" else 0
    expected = {name: tensor.their_shape(dummy) for tensor in tensors for name in tensor.names}
    free = {f"{names.PREFIXES['llm']}lm_head.weight", "lm_head.weight"} if config.decoder.tied_embeddings else set()
    extra = {name for name in set(found) - set(expected) - free if not name.endswith(IGNORED_SUFFIXES)}
    faults = [f"{name} is missing, expected {list(expected[name])}" for name in sorted(set(expected) - set(found))]
    faults += [f"{name} {list(found[name].shape)} is extra" for name in sorted(extra)]
    faults += [
        f"{name} has shape {list(found[name].shape)}, expected {list(shape)}"
        for name, shape in sorted(expected.items())
        if name in found and found[name].shape != shape
    ]
    if faults:
        raise CheckpointError(f"{path}: does not fit the {part}:\n  " + "\n  ".join(_cut(faults)))


def _dummy_channels(found: Shards, vision: VisionConfig, tensors: list[Tensor], path: str | Path) -> int:
    """Without QK-norm, the width of the attention output's input says the same as the norm's."""
    tensor = next(t for t in tensors if t.form == ("heads" if vision.qk_norm else "heads_in"))
    name = tensor.names[0]
    if name not in found or not found[name].shape:
        return 0  # reported as missing or misshaped
    try:
        return names.dummy_channels(vision, found[name].shape[-1])
    except ValueError as error:
        raise CheckpointError(f"{path}: {name} is {error}") from None


def _check_dummy_heads(found: Shards, tensors: list[Tensor], path: str | Path) -> None:
    """Dropping dummy heads changes nothing only while their values, or what the output makes of them, are zero."""
    qkv, out = (next(t for t in tensors if t.form == form) for form in ("qkv", "heads_in"))
    real = out.shape[0]
    for qkv_name, out_name in zip(qkv.names, out.names, strict=True):
        total = found[out_name].shape[1]
        if total == real:
            return
        values = found.read(qkv_name, 2 * total + real, 3 * total)
        if np.any(values) and np.any(found.read(out_name)[:, real:]):
            raise CheckpointError(
                f"{path}: {qkv_name} and {out_name} have weights beyond {real} channels: heads that are no dummies"
            )


def _some(items: list[str]) -> str:
    return ", ".join(_cut(items, 5))


def _cut(items: list[str], limit: int = 20) -> list[str]:
    return items if len(items) <= limit else [*items[:limit], f"and {len(items) - limit} more"]
