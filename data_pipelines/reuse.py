"""What of an earlier run of prepare still holds, and why the rest does not.

A finished dataset stands for its raw data while its settings are the same and no raw file has changed; so does a shard
of one that was not completed. Datasets of earlier versions have no record of their raw files: they are left as they
are, and that nothing could be compared is said.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_pipelines import records, report
from data_pipelines.raw import watched
from data_pipelines.raw.entry import LayoutError
from data_pipelines.raw.root import Root
from nvlm_jax import json_text

RAW = "raw.parquet"  # of a dataset: the notes of raw/watched.py
LISTED = 3  # reasons in a message
WHOLE = ("fields", "against")  # settings whose keys are data


class Standing(NamedTuple):
    """What is known of the dataset that stands at a path."""

    report: dict[str, Any] | None  # its report, if it can stay
    text: str  # what to say of it; empty if nothing stands there


def standing(path: pathlib.Path, settings: Mapping[str, Any], raw: str | pathlib.Path) -> Standing:
    """Whether the dataset at `path` was made from these settings and from the raw files as they are.

    Args:
        path: of the dataset.
        settings: JSON values that it depends on.
        raw: directory of the raw dataset.
    """
    try:
        manifest = records.RecordSource(path).manifest
        made = json_text.load(path / report.REPORT)
    except (records.DatasetError, OSError, ValueError) as error:
        return Standing(None, f"made anew: {error}" if path.exists() else "")
    if other := settings_changed(manifest.settings, settings):
        return Standing(None, f"made anew, for {_few(other)}")
    try:
        seen = watched.load(path / RAW)
    except (OSError, ValueError):
        text = "its maker, an earlier version, kept no record of the raw files, so whether they changed is not known"
        return Standing(made, f"reused as it is; {text}. Delete it to have it made anew")
    try:
        changed = watched.changes(Root(raw), seen)
    except LayoutError:
        return Standing(made, f"reused as it is, nothing to compare it with: {raw} is not there any more")
    if changed:
        return Standing(None, f"made anew, for raw files changed: {_few(changed)}")
    files = sum(key.startswith(watched.FILE) for key in seen)
    return Standing(made, f"reused, nothing to do: its settings and the {files:,} raw files looked at are the same")


def settings_changed(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """A line for each setting that differs. What an earlier version did not record yet counts as equal."""
    lines = []
    for key, value in then.items():
        if key not in now:
            lines.append(f"{prefix}{key} was {value!r:.60}, and is no setting now")
        elif isinstance(value, dict) and isinstance(now[key], dict) and key not in WHOLE:
            lines += settings_changed(value, now[key], f"{prefix}{key}.")
        elif value != now[key]:
            lines.append(f"{prefix}{key} was {value!r:.60}, now {now[key]!r:.60}")
    return lines


def shard_key(folder: pathlib.Path, made_from: str, shards: int, parts: Sequence[Mapping[str, Any]]) -> str:
    """A hash of what a shard is made from, but for the raw files that it reads.

    Args:
        folder: of the dataset under preparation.
        made_from: digest of the settings.
        shards: in all.
        parts: the shard's parts as mappings; the content of those that lie in `folder` counts.
    """
    digest = hashlib.sha256(json.dumps([made_from, shards, list(parts)]).encode())
    for part in parts:
        if part["spooled"]:
            digest.update((folder / part["file"]).read_bytes())
    return digest.hexdigest()[:32]


def digest_of(settings: Mapping[str, Any]) -> str:
    """Of JSON values."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def stale(root: Root, tally: Mapping[str, Any], key: str) -> list[str]:
    """Why a shard has to be made anew; empty if it can stay.

    Args:
        root: of the raw dataset.
        tally: what the shard's maker left.
        key: `shard_key` now.
    """
    if tally.get("key") != key:
        return ["its records or the settings are others"]
    return watched.changes(root, tally["raw"])


def say_shards(stayed: int, reasons: Sequence[str], total: int) -> str:
    """What is said of shards from an earlier run; empty where there were none.

    Args:
        stayed: shards that are reused.
        reasons: why shards are made anew.
        total: shards in all.
    """
    if not stayed and not reasons:
        return ""
    why = f", for {_few(list(dict.fromkeys(reasons)))}" if reasons else ""
    return f"of an earlier run {stayed} of {total} shards are reused, {total - stayed} are made{why}"


def _few(lines: Sequence[str]) -> str:
    more = f" and {len(lines) - LISTED:,} more" if len(lines) > LISTED else ""
    return "; ".join(lines[:LISTED]) + more
