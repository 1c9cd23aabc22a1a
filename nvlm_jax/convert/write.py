"""Our parameters -> a Hugging Face directory, block by block: no whole tensor of a large model is ever in memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nvlm_jax.config import InputConfig, ModelConfig
from nvlm_jax.convert import hf_files, names
from nvlm_jax.convert.hf_config import CONFIG
from nvlm_jax.convert.names import Tensor
from nvlm_jax.convert.read import block_rows, our_rows, row_blocks
from nvlm_jax.convert.shards import (
    DTYPE_NAMES,
    INDEX,
    MAX_SHARD_BYTES,
    SINGLE,
    CheckpointError,
    Declared,
    FileRange,
    Shards,
    index_json,
    plan_shards,
    write_shard,
)
from nvlm_jax.convert.stream import DiskArray

# Shards that are written at the same time: one thread cannot fill the page cache as fast as memory allows.
AT_ONCE = 2


class ArrayLike(Protocol):
    """What an export reads from: a NumPy or JAX array, or one on disk."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, index: Any) -> Any: ...


def write_hf(
    directory: str | Path,
    model: ModelConfig,
    inputs: InputConfig,
    parameters: Mapping[names.Path, ArrayLike],
    *,
    parts: Sequence[str] | None = None,
    dtype: str | None = None,
    dummy_heads: int = 0,
    ends: Sequence[int] = (),
    layout: Sequence[Sequence[str]] = (),
    shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a checkpoint in Hugging Face layout. The directory appears when it is complete, or not at all.

    Args:
        directory: must not exist, or be empty.
        model: what the parameters are of.
        inputs: stored in config.json; `inputs.tokenizer`'s files are copied.
        parameters: path -> array, as `read_part` returns; other paths than those of `parts` are left alone.
        parts: None = a whole model. ("vision",) or ("llm",) alone writes a single backbone, with the names and the
            config.json of InternViT, Qwen2 or Llama; several make an NVLM directory that lacks the others.
        dtype: "float32", "bfloat16" or "float16"; None = as the parameters are.
        dummy_heads: heads of zeros added to each vision attention layer; the released model has 7.
        ends: ids that end an answer, beside the tokenizer's end token.
        layout: the tensors of each shard, as `shard_layout` of a source gives them. It is kept to if it has exactly
            the tensors that are written and no shard comes out larger than `shard_bytes`.
        shard_bytes: size of a shard at most, unless one tensor is larger.

    Raises:
        CheckpointError: the directory is not empty, a parameter is missing or misshaped, the tokenizer does not fit.
    """
    parts = names.parts_of(model) if parts is None else list(parts)
    single = parts[0] if len(parts) == 1 and parts[0] in ("vision", "llm") else None
    tensors = [t for part in parts for t in names.tensors(model, part, "" if single else None)]
    _check_parameters(tensors, parameters)
    dummy = dummy_heads * model.vision.head_dim
    declared = {
        name: Declared(_target_dtype(parameters[tensor.ours], dtype), tensor.their_shape(dummy))
        for tensor in tensors
        for name in tensor.names
    }
    shards = _name_shards(_cut(declared, layout, shard_bytes))
    ends = [] if single == "vision" else hf_files.end_token_ids(inputs, model, ends, images=single is None)
    text_dtype = np.dtype(declared[tensors[-1].names[-1]].dtype).name
    config = {
        None: lambda: hf_files.model_config_json(model, inputs, text_dtype, ends),
        "vision": lambda: hf_files.vision_config_json(model.vision, text_dtype),
        "llm": lambda: hf_files.llm_config_json(model.decoder, text_dtype, ends),
    }[single]()
    where = {name: (tensor, i) for tensor in tensors for i, name in enumerate(tensor.names)}

    def write(file: Path, members: Mapping[str, Declared]) -> None:
        blocks = (
            (name, block)
            for name in members
            for block in _blocks(*where[name], parameters[where[name][0].ours], declared[name].dtype, dummy)
        )
        write_shard(file, members, blocks)

    with complete_or_absent(directory) as partial:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(write, [partial / file for file in shards], shards.values()))
        if len(shards) > 1:
            (partial / INDEX).write_text(index_json(shards), encoding="utf-8")
        hf_files.write_json(partial / CONFIG, config)
        if single != "vision":
            hf_files.write_text_files(partial, model, inputs, ends)


@contextlib.contextmanager
def complete_or_absent(directory: str | Path) -> Iterator[Path]:
    """A directory beside `directory` to write into; it takes that name when the block ends without an error.

    What an error leaves is removed; what a killed process leaves is named `*.partial-*`, never `directory`.

    Raises:
        CheckpointError: `directory` is there already and not empty.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CheckpointError(f"{directory}: exists and is not empty; choose another directory or remove it")
    partial = directory.parent / f"{directory.name}.partial-{uuid.uuid4().hex[:8]}"
    partial.mkdir(parents=True)
    try:
        yield partial
        if directory.exists():
            directory.rmdir()
        os.replace(partial, directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _check_parameters(tensors: list[Tensor], parameters: Mapping[names.Path, ArrayLike]) -> None:
    faults = []
    for tensor in tensors:
        text = "/".join(tensor.ours)
        if tensor.ours not in parameters:
            faults.append(f"{text} is missing, expected {tensor.stacked_shape}")
        elif tuple(parameters[tensor.ours].shape) != tensor.stacked_shape:
            faults.append(f"{text} has shape {tuple(parameters[tensor.ours].shape)}, expected {tensor.stacked_shape}")
    if faults:
        raise CheckpointError("the parameters do not fit the model:\n  " + "\n  ".join(faults))


def _target_dtype(array: ArrayLike, dtype: str | None) -> np.dtype:
    wanted = np.dtype(array.dtype) if dtype is None else np.dtype(_dtype(dtype))
    if wanted not in DTYPE_NAMES:
        raise CheckpointError(f"dtype {wanted} cannot be written; known are {', '.join(map(str, DTYPE_NAMES))}")
    return wanted


def _dtype(name: str) -> np.dtype:
    known = {dtype.name: dtype for dtype in DTYPE_NAMES}
    if name not in known:
        raise CheckpointError(f"dtype {name!r} cannot be written; known are {', '.join(known)}")
    return known[name]


def shard_layout(shards: Shards) -> list[list[str]]:
    """The tensors of each shard of a checkpoint, in the order in which they lie there."""
    files: dict[str, list[str]] = {}
    for name in sorted(shards, key=lambda name: (shards[name].file.name, shards[name].offset)):
        files.setdefault(shards[name].file.name, []).append(name)
    return list(files.values())


def _cut(
    declared: Mapping[str, Declared], layout: Sequence[Sequence[str]], shard_bytes: int
) -> list[dict[str, Declared]]:
    sizes = {name: item.nbytes for name, item in declared.items()}
    # Tensors of the source that an import leaves behind, such as a tied head, do not come back.
    layout = [kept for shard in layout if (kept := [name for name in shard if name in declared])]
    fits = all(len(shard) == 1 or sum(sizes[name] for name in shard) <= shard_bytes for shard in layout)
    if not fits or {name for shard in layout for name in shard} != declared.keys():
        layout = plan_shards(sizes, shard_bytes)
    return [{name: declared[name] for name in shard} for shard in layout]


def _name_shards(shards: list[dict[str, Declared]]) -> dict[str, dict[str, Declared]]:
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    count = len(shards)
    return {f"model-{i + 1:05d}-of-{count:05d}.safetensors": shard for i, shard in enumerate(shards)}


def _blocks(
    tensor: Tensor, layer: int, array: ArrayLike, dtype: np.dtype, dummy: int
) -> Iterator[np.ndarray | FileRange]:
    """One of their tensors, consecutive rows at a time; where a file has them as they will be written, its range."""
    first = () if tensor.layers is None else (layer,)
    step = block_rows(tensor, np.dtype(array.dtype))
    if step is None:
        ours = np.asarray(array[(*first, ...)])
        yield tensor.to_theirs(ours, dummy).astype(dtype, copy=False)
        return
    theirs, each = tensor.their_shape(dummy), tensor.their_shape()[0] // tensor.groups
    dummies = np.zeros((theirs[0] // tensor.groups - each, *theirs[1:]), dtype)
    same = array.dtype == dtype and theirs[1:] == tensor.their_shape()[1:]
    copies = same and isinstance(array, DiskArray) and array.turned == tensor.turned
    for ours, _, count in row_blocks(tensor, step, theirs[0]):
        index = (*first, *our_rows(tensor, slice(ours, ours + count)))
        piece = array.piece(index) if copies else None
        if piece is None:
            yield tensor.rows.to_theirs(np.asarray(array[index]), dummy).astype(dtype, copy=False)
        else:
            yield piece
        if dummies.size and (ours + count) % each == 0:
            yield dummies
