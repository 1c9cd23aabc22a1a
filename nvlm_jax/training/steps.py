"""Where a run's checkpoints lie, and what was saved about them. Loads neither Flax nor a model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from nvlm_jax.config import ConfigError, RunConfig, from_mapping
from nvlm_jax.convert.shards import CheckpointError
from nvlm_jax.inputs.tokenizer import tokenizer_digest
from nvlm_jax.training.workdir import CHECKPOINTS as CHECKPOINTS
from nvlm_jax.training.workdir import FROZEN as FROZEN
from nvlm_jax.training.workdir import TOKENIZER, saved_steps

DIGEST = "digest"  # key of a step's JSON


def is_checkpoint(path: str | Path) -> bool:
    """Whether `path` is a workdir with checkpoints, that folder of it, or the directory of one step, by its looks."""
    path = Path(path)
    if path.name == CHECKPOINTS and path.is_dir():
        return True
    return (path / CHECKPOINTS).is_dir() or (path.name.isdigit() and (path / "meta").is_dir())


def find_step(path: str | Path, step: int | None = None) -> tuple[Path, int]:
    """The workdir and the step that `path` (a workdir, its `checkpoints` or one step in there) and `step` name.

    Raises:
        CheckpointError: it does not exist; the message lists the steps that do.
    """
    path = Path(path).absolute()
    if path.name.isdigit() and path.parent.name == CHECKPOINTS:
        if step not in (None, int(path.name)):
            raise CheckpointError(f"{path}: is the checkpoint of step {path.name}, but step {step} is asked for")
        path, step = path.parent.parent, int(path.name)
    elif path.name == CHECKPOINTS:
        path = path.parent
    steps = saved_steps(path)
    if not steps:
        raise CheckpointError(f"{path}: no checkpoints there; expected a workdir with {CHECKPOINTS}/<step>")
    step = steps[-1] if step is None else step
    if step not in steps:
        raise CheckpointError(f"{path}: no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
    return path, step


def read_meta(step_path: Path) -> tuple[RunConfig, dict[str, Any]]:
    """The config and all other JSON that a step was saved with; the tokenizer is the workdir's, where it has one.

    Raises:
        CheckpointError: absent, unreadable, changed since it was saved or of another step, or its tokenizer's file is
            another one now.
        ConfigError: the config does not fit this version of the code.
    """
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
            meta = checkpointer.restore(step_path / "meta")
        mapping = meta["config"]
    except Exception as error:
        raise CheckpointError(f"{step_path / 'meta'}: cannot be read: {first_line(error)}") from error
    try:
        config = from_mapping(RunConfig, mapping, stored=True)
    except ConfigError as error:
        saved_by = f"saved by commit {meta.get('commit')}, which may know these keys"
        raise ConfigError(f"{step_path}: {error}\n({saved_by})") from error
    try:
        check_meta(meta, int(step_path.name))
    except CheckpointError as error:
        raise CheckpointError(f"{step_path / 'meta'}: {error}") from error
    own, then = step_path.parent.parent / TOKENIZER, meta.get("tokenizer", "")
    if (copied := tokenizer_digest(own)) and then in ("", copied):
        config = dataclasses.replace(config, inputs=dataclasses.replace(config.inputs, tokenizer=str(own)))
    _check_tokenizer(step_path, config.inputs.tokenizer, then)
    return config, meta


def signed(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a step with a digest of all of it."""
    return {**meta, DIGEST: _digest(meta)}


def check_meta(meta: Mapping[str, Any], step: int) -> None:
    """Raise CheckpointError unless the JSON of a step is what was saved, and of this step.

    What earlier versions saved has no digest; then the step alone is compared.
    """
    if meta.get("step", step) != step:
        raise CheckpointError(f"is of step {meta['step']!r}, but lies in the folder of step {step}")
    if DIGEST in meta and meta[DIGEST] != _digest({key: value for key, value in meta.items() if key != DIGEST}):
        raise CheckpointError("differs from what was saved; restore it from a copy, or take another step")


def _digest(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()[:16]


def _check_tokenizer(step_path: Path, tokenizer: str, then: str) -> None:
    """A missing file is for those to name who need it; what was saved without a digest is not checked."""
    now = tokenizer_digest(tokenizer)
    if then and now and now != then:
        raise CheckpointError(
            f"{step_path}: was saved with another tokenizer: {tokenizer} had the digest {then}, and now {now}; "
            f"its token ids would mean other texts. Put that file back, or name another checkpoint"
        )


def first_line(error: Exception) -> str:
    """The first line that says something: Orbax and TensorStore write pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


def cause_of(error: BaseException) -> str:
    """Why a file could not be written, in a few words where the system said so somewhere behind the error."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, OSError) and behind.strerror:
            return behind.strerror
        if match := re.search(r"\[OS error \d+: \S+ ([^\]]+)\]|(No space left on device|File too large)", str(behind)):
            return match[1] or match[2]
        behind = behind.__cause__ or behind.__context__
    return first_line(error) if isinstance(error, Exception) else type(error).__name__
