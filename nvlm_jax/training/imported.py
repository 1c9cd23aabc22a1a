"""Whole checkpoints between Hugging Face's layout and this project's, block by block, and parts of ours by name.

An imported checkpoint is the workdir of a run of zero steps, so everything that takes a workdir takes it: evaluation,
`init.checkpoint`, `init.vision` and so on. The projector is its trained part, everything else its frozen one; both keep
the dtypes of the source. Of a single backbone there is only that.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from nvlm_jax.config import DecoderConfig, InputConfig, ModelConfig, RunConfig, TrainConfig
from nvlm_jax.convert import hf_config, hf_files, names
from nvlm_jax.convert.chat_template import conversing
from nvlm_jax.convert.place import place
from nvlm_jax.convert.read import PartArray, PartReader, open_model, open_part
from nvlm_jax.convert.shards import CheckpointError, Shards, open_shards
from nvlm_jax.convert.stream import DiskArray, open_arrays, save_blocks
from nvlm_jax.convert.write import complete_or_absent, shard_layout, write_hf
from nvlm_jax.inputs.tokenizer import tokenizer_digest
from nvlm_jax.training.steps import CHECKPOINTS, FROZEN, find_step, read_meta, signed
from nvlm_jax.training.sums import ON_DISK, SummedReader, array_sums, check_arrays, check_totals, saved_sums
from nvlm_jax.training.workdir import TOKENIZER, run_record

TRAINED = "projector"


def import_hf(source: str | Path, out: str | Path) -> RunConfig:
    """Convert a Hugging Face directory (a whole NVLM model or a single backbone) to a workdir at `out`.

    All names, shapes and settings are checked before anything is written; `out` appears when it is complete.

    Raises:
        CheckpointError: the source is damaged or of an unknown kind, its tokenizer does not fit, or `out` is not empty.
    """
    source, out = Path(source), Path(out).absolute()
    model, inputs, readers = _open_hf(source)
    ends = hf_files.end_token_ids(inputs, model, hf_config.end_ids(source), images=len(readers) > 1)
    layout = shard_layout(Shards(entry for reader in readers.values() for entry in reader.shards.items()))
    about = {"step": 0, "checksums": {"params": None, "frozen": None}, "end_ids": ends, "shards": layout}
    trees: dict[str, dict[str, Any]] = {}
    for part, reader in readers.items():
        item = "params" if part == TRAINED else FROZEN
        _insert(trees.setdefault(item, {}), {t.ours: PartArray(reader, t) for t in reader.tensors})
    kept = dataclasses.replace(inputs, tokenizer=str(out / TOKENIZER) if inputs.tokenizer else "")
    run = RunConfig(name=source.name, model=model, inputs=kept, train=TrainConfig(trainable=(TRAINED,)))
    with complete_or_absent(out) as partial:
        step = partial / CHECKPOINTS / "0"
        step.mkdir(parents=True)
        if inputs.tokenizer:
            (partial / TOKENIZER).mkdir()
            hf_files.copy_tokenizer(partial / TOKENIZER, inputs, model.decoder.max_positions)
        record = run_record(run) | {"tokenizer": tokenizer_digest(partial / TOKENIZER)}
        sums: dict[str, dict[str, int]] = {}
        for item, tree in trees.items():
            folder = partial / FROZEN if item == FROZEN else step / item
            save_blocks(folder, tree)
            sums[item] = {"/".join(path): total for path, total in array_sums(open_arrays(folder)).items()}
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
            checkpointer.save(step / "meta", signed(about | {ON_DISK: sums} | record))
        (partial / "config.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return run


def export_hf(
    checkpoint: str | Path,
    directory: str | Path,
    *,
    step: int | None = None,
    part: str = "",
    dtype: str | None = None,
    dummy_heads: int = 0,
    like: str | Path | None = None,
) -> RunConfig:
    """Convert a step of a workdir to a Hugging Face directory.

    Args:
        checkpoint: a workdir, or one step's directory in it.
        directory: where to; must not exist or be empty.
        step: the newest if None.
        part: "vision" or "llm" writes that backbone alone, in its own layout.
        dtype: of the written tensors; None = as in the checkpoint (float32 where it was trained).
        dummy_heads: see `write_hf`.
        like: a directory whose shards are cut in the same places. None = as the source of an imported checkpoint was
            cut, where that is possible.

    Raises:
        CheckpointError: the checkpoint cannot be read, differs from what was saved or lacks a part, or `directory` is
            not empty.
    """
    run, arrays = open_checkpoint(checkpoint, step)
    workdir, step = find_step(checkpoint, step)
    meta = read_meta(workdir / CHECKPOINTS / str(step))[1]
    check_arrays(arrays, saved_sums(meta), checkpoint)
    layout = meta.get("shards", []) if like is None else shard_layout(open_shards(like))
    parts = [part] if part else [p for p in names.parts_of(run.model) if any(k[0] == names.PARTS[p] for k in arrays)]
    write_hf(
        directory,
        run.model,
        run.inputs,
        arrays,
        parts=parts,
        dtype=dtype,
        dummy_heads=dummy_heads,
        ends=meta.get("end_ids") or [],
        layout=layout,
    )
    return run


def open_checkpoint(path: str | Path, step: int | None = None) -> tuple[RunConfig, dict[names.Path, DiskArray]]:
    """The config of a checkpoint and all its parameters by path, none of them read yet.

    Raises:
        CheckpointError: there is no such checkpoint, or it cannot be read.
    """
    workdir, step = find_step(path, step)
    where = workdir / CHECKPOINTS / str(step)
    run, _ = read_meta(where)
    arrays: dict[names.Path, DiskArray] = {}
    for item in (where / "params", workdir / FROZEN):
        if item.is_dir():
            arrays |= open_arrays(item)
    return run, arrays


def restore_parameters(
    path: str | Path, wanted: Mapping[names.Path, jax.ShapeDtypeStruct]
) -> dict[names.Path, jax.Array]:
    """Some parameters of a checkpoint, each straight onto the devices of its target.

    Args:
        path: a workdir, or one step's directory in it.
        wanted: path -> abstract array with the dtype (cast on the way) and the sharding.

    Raises:
        CheckpointError: a parameter is not there, has another shape or other values than were saved, or the checkpoint
            cannot be read.
    """
    workdir, step = find_step(path)
    path = workdir / CHECKPOINTS / str(step)
    arrays, expected = open_checkpoint(path)[1], saved_sums(read_meta(path)[1])
    faults = [f"{'/'.join(p)} is missing, expected {tuple(t.shape)}" for p, t in wanted.items() if p not in arrays]
    faults += [
        f"{'/'.join(p)} has shape {arrays[p].shape}, expected {tuple(t.shape)}"
        for p, t in wanted.items()
        if p in arrays and arrays[p].shape != tuple(t.shape)
    ]
    if faults:
        raise CheckpointError(f"{path}: does not fit:\n  " + "\n  ".join(faults))
    found, totals = {}, {}
    for p, target in wanted.items():
        read = SummedReader(arrays[p], target)
        found[p] = place(target, read if p in expected else arrays[p].__getitem__)
        totals[p] = read.total
    check_totals(totals, expected, path)
    return found


def _open_hf(source: Path) -> tuple[ModelConfig, InputConfig, dict[str, PartReader]]:
    config = hf_config.read_config(source) if source.is_dir() else None
    if config is None:
        raise CheckpointError(f"{source}: no {hf_config.CONFIG}; expected a Hugging Face directory")
    if hf_config.architecture(config, source) in hf_config.MODELS:
        model, inputs = hf_config.config_from_hf(source)
        return model, inputs, open_model(source, model)
    part, sizes = hf_config.backbone_from_hf(source)
    dtype = hf_config.dtype_from_hf(config)
    field = "decoder" if isinstance(sizes, DecoderConfig) else "vision"
    model = ModelConfig(**{field: sizes}, dtype=dtype, frozen_dtype=dtype)
    inputs = InputConfig()
    if part == "llm" and (source / hf_config.TOKENIZER).exists():
        inputs = conversing(source, InputConfig(tokenizer=str(source)))
    return model, inputs, {part: open_part(source, part, model)}


def _insert(tree: dict[str, Any], flat: Mapping[names.Path, Any] | Iterable[Any]) -> None:
    for path, value in dict(flat).items():
        inner = tree
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = value
