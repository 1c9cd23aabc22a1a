"""The directory of a run and the record of what it runs.

    .lock           held by the run that is training here
    config.json     resolved config, git commit, library versions, kind of device, fingerprints of the data
    checkpoints/    one folder a step
    frozen/         parameters that are not trained, once
    tokenizer/      the tokenizer's files, so that the directory can be moved
    broken/         checkpoints that could not be read, moved aside
    metrics.jsonl   one line a step
    tensorboard/    event files
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import logging
import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from nvlm_jax.config import ConfigError, RunConfig, from_mapping, to_mapping
from nvlm_jax.inputs.tokenizer import copy_files, tokenizer_digest
from nvlm_jax.training.lock import not_writable
from nvlm_jax.training.run_data import RunData, data_record

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
CHECKPOINTS, FROZEN, TOKENIZER = "checkpoints", "frozen", "tokenizer"  # folders
IDENTITY = "id"  # file: the hosts' own checkpoints bear its name, so a run begun anew must not find the old one's
# Keys that may change between two starts of one run: none of them changes what is computed from which batch. Another
# mesh adds the same numbers in another order, so losses then agree to rounding and not to the bit. Of the tokenizer the
# content counts, and is compared by itself.
FREE_KEYS = ("train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "train.hang_seconds",
             "train.local.", "data.workers", "inputs.tokenizer", "mesh.")  # fmt: skip

log = logging.getLogger(__name__)


def open_workdir(workdir: str | Path, config: RunConfig, data: RunData | None = None) -> Path:
    """Create the directory with its config.json, or check that the one there is of this run.

    A directory without a checkpoint belongs to nobody: whatever was begun there, `config` begins anew.

    Raises:
        ConfigError: the directory belongs to another configuration (every differing key is listed), was begun with
            another tokenizer or on other data than `data` is now, or cannot be written.
    """
    workdir = Path(workdir).absolute()
    record, begun_with, before = workdir / "config.json", "", {}
    if steps := saved_steps(workdir):
        if not record.exists():
            raise ConfigError(f"{record}: missing, though there are checkpoints; restore it or use another --workdir")
        before = _check_same(record, to_mapping(config))
        begun_with = before.get("tokenizer", "")
    datasets = data_record(workdir, before, data, max(steps, default=0), config.train.steps)
    try:
        begun_with = begun_with or _begin_anew(workdir, record, config)
        workdir.mkdir(parents=True, exist_ok=True)
        found = run_record(config) | {"device": jax.devices()[0].device_kind} | datasets
        found["tokenizer"] = _keep_tokenizer(workdir / TOKENIZER, config.inputs.tokenizer, begun_with)
        write_atomically(record, json.dumps(found, indent=2) + "\n")
    except OSError as error:
        raise not_writable(workdir, error) from error
    return workdir


def saved_steps(workdir: Path) -> list[int]:
    """Steps with a finished checkpoint, oldest first. Orbax gives a step its name only when it is whole."""
    folder = workdir / CHECKPOINTS
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit() and p.is_dir()) if folder.is_dir() else []


def _begin_anew(workdir: Path, record: Path, config: RunConfig) -> str:
    """Remove what a start with another configuration left that came to no checkpoint.

    Returns:
        The digest of the tokenizer, where the start before was of this run.
    """
    if saved_steps(workdir) or not record.exists():
        return ""
    try:
        before, now = _check_same(record, to_mapping(config)), tokenizer_digest(config.inputs.tokenizer)
        then = before.get("tokenizer", "")
        return then if now in ("", then) else ""
    except ConfigError as error:
        log.warning("%s: was begun otherwise and has no checkpoint; it begins anew.\n%s", workdir, error)
        (workdir / IDENTITY).unlink(missing_ok=True)
        shutil.rmtree(workdir / FROZEN, ignore_errors=True)
        return ""


def _keep_tokenizer(own: Path, tokenizer: str, begun_with: str) -> str:
    """The digest of the run's tokenizer, whose files are copied where they are not yet, or not whole.

    A missing file is for those to name who need it.
    """
    now = tokenizer_digest(tokenizer)
    if begun_with and now and begun_with != now:
        raise ConfigError(
            f"inputs.tokenizer: {tokenizer} has the digest {now}, but this run began with another, {begun_with}: its "
            f"token ids would mean other texts. Put that file back ({own} holds a copy, if the run was begun by this "
            "version), or use another --workdir"
        )
    if now and tokenizer_digest(own) != now:
        part = own.with_name(f"{own.name}.{secrets.token_hex(4)}.part")
        part.mkdir()
        try:
            copy_files(tokenizer, part)
            shutil.rmtree(own, ignore_errors=True)
            with contextlib.suppress(OSError):  # another process was quicker
                part.replace(own)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return now or begun_with


def run_record(config: RunConfig) -> dict[str, Any]:
    """What one has to know to run again: resolved config, library versions, git commit of the code (None outside)."""
    digest = tokenizer_digest(config.inputs.tokenizer)
    return {"config": to_mapping(config), "versions": versions(), "commit": commit(), "tokenizer": digest}


@functools.cache
def versions() -> dict[str, str]:
    """Installed versions of the libraries that a result depends on."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


@functools.cache
def commit() -> str | None:
    """Commit of the code, with "-dirty" when files differ from it; None where it is no git checkout."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def flatten(mapping: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as {"train.steps": 100, "data.blend[0].name": "qa", ...}."""
    if isinstance(mapping, Mapping):
        items = [(f"{prefix}.{key}" if prefix else str(key), value) for key, value in mapping.items()]
    elif isinstance(mapping, (list, tuple)) and mapping:
        items = [(f"{prefix}[{i}]", value) for i, value in enumerate(mapping)]
    else:
        return {prefix: mapping}
    return {key: leaf for name, value in items for key, leaf in flatten(value, name).items()}


def differences(old: Any, new: Any) -> list[str]:
    """One line for each key whose value differs between two nested mappings."""
    old, new = flatten(old), flatten(new)
    absent = "(absent)"
    return [
        f"{key}: {old.get(key, absent)!r} there, {new.get(key, absent)!r} now"
        for key in dict.fromkeys([*old, *new])
        if old.get(key, absent) != new.get(key, absent)
    ]


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or, when killed, nothing; of several writers at once the last to end wins."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _check_same(record: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The whole record. Raises ConfigError unless it is of this run."""
    try:
        whole = json.loads(record.read_text())
        found = whole["config"]
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{record}: no readable record of a run ({error}); use another --workdir") from error
    with contextlib.suppress(ConfigError):  # an earlier version had fewer keys, or other names for them
        found = to_mapping(from_mapping(RunConfig, found, stored=True))
    lines = [line for line in differences(found, config) if not line.startswith(FREE_KEYS)]
    if lines:
        free = ", ".join(key + "*" if key.endswith(".") else key for key in FREE_KEYS)
        raise ConfigError(
            f"{record.parent}: belongs to a run with another configuration:\n  "
            + "\n  ".join(lines)
            + f"\nUse another --workdir, or set these keys back. Free to change within a run: {free}."
        )
    return whole
