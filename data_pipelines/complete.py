"""The last part of preparing: what the shards' makers left, joined to a dataset, or refused with the list of faults."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from data_pipelines import duplicates, index, records, report, reuse
from data_pipelines.raw import watched
from data_pipelines.report import Tally
from nvlm_jax import json_text


class PrepareError(RuntimeError):
    """Preparing stopped. What is done is kept, and the message says how to go on."""


class Joined(NamedTuple):
    """All shards' tallies together."""

    tally: Tally
    counts: list[int]  # samples of each shard
    groups: set[str]
    fingerprint: str
    raw: watched.Notes


def tally_file(folder: pathlib.Path, shard: int) -> pathlib.Path:
    """A shard's counts and faults; its presence says that all of the shard is there."""
    return folder / f"tally-{shard:05d}.json"


def index_file(folder: pathlib.Path, shard: int) -> pathlib.Path:
    """A shard's part of the index."""
    return folder / f"index-{shard:05d}.parquet"


def sketch_file(folder: pathlib.Path, shard: int) -> pathlib.Path:
    """A shard's hashes of texts and images."""
    return folder / f"sketches-{shard:05d}.npz"


def complete(
    folder: pathlib.Path,
    path: pathlib.Path,
    shards: int,
    settings: dict[str, Any],
    max_bad_share: float,
    seen: Mapping[str, str],
) -> dict[str, Any]:
    """Join what the workers left in `folder`, and give the dataset its name.

    Args:
        folder: the hidden directory.
        path: of the dataset.
        shards: how many.
        settings: JSON values that the dataset depends on.
        max_bad_share: of the samples.
        seen: notes of the raw files that the cut was made from.

    Returns:
        The report.

    Raises:
        PrepareError: too many samples are bad, none is left, or a raw file changed while it was read.
    """
    joined = _join(folder, path, shards, seen)
    made = report.make_report(path.name, joined.tally)
    made["compared_with"] = settings["against"]
    _check(joined.tally, made, path, max_bad_share)
    index.join(folder / index.INDEX, (index_file(folder, shard) for shard in range(shards)))
    ids = index.read(folder, ["id"])["id"].to_pylist()
    made["repeated"] = duplicates.find([sketch_file(folder, shard) for shard in range(shards)], ids)
    report.write(folder, made, joined.tally)
    watched.save(folder / reuse.RAW, joined.raw)
    kept = {records.shard_name(path.name, shard, shards) for shard in range(shards)}
    kept |= {index.INDEX, report.REPORT, report.FAULTS, reuse.RAW}
    for file in folder.iterdir():
        if file.name not in kept:
            file.unlink()
    records.finish(folder, path, joined.counts, joined.groups, joined.fingerprint, settings)
    _forget_refusal(path)
    return made


def _join(folder: pathlib.Path, path: pathlib.Path, shards: int, seen: Mapping[str, str]) -> Joined:
    tally, counts, groups, digest, raw = Tally(), [], set(), hashlib.sha256(), dict(seen)
    for shard in range(shards):
        left = json_text.load(tally_file(folder, shard))
        groups.update(left.pop("groups"))
        digest.update(bytes.fromhex(left.pop("digest")))
        del left["key"]
        notes = left.pop("raw")
        changed = [key for key in notes.keys() & raw.keys() if notes[key] != raw[key]]
        if changed:
            name = min(changed).removeprefix(watched.FILE)
            raise PrepareError(f"{path}: {name} changed while the raw dataset was read; run again")
        raw |= notes
        part = Tally.from_json(left)
        counts.append(part.samples)
        tally.merge(part)
    return Joined(tally, counts, groups, digest.hexdigest(), raw)


def _check(tally: Tally, made: dict[str, Any], path: pathlib.Path, max_bad_share: float) -> None:
    if tally.samples and tally.bad_share() <= max_bad_share:
        return
    folder = _refusal(path)
    folder.mkdir(parents=True, exist_ok=True)
    report.write(folder, made, tally)
    stays = f"; {path} stays as it was made before" if path.exists() else ""
    if not tally.samples:
        fault = f"none of {len(tally.rejected):,} samples could be used"
        way = "repair the raw data, or say where its fields are (--fields, --layout), and run again"
    else:
        fault = f"{tally.bad_share():.2%} of the samples are bad, more than max_bad_share={max_bad_share}"
        way = "repair the raw data, or raise the share and run again"
    raise PrepareError(
        f"{path}: {fault}{stays}; {way} (what is sound is not made a second time):\n"
        f"{report.summary(made)}\n  all of them: {folder / report.FAULTS}"
    )


def _refusal(path: pathlib.Path) -> pathlib.Path:
    """Where the list of faults is left for a dataset that was not completed."""
    return path.with_name(f"{path.name}.rejected")


def _forget_refusal(path: pathlib.Path) -> None:
    folder = _refusal(path)
    for name in (report.REPORT, report.FAULTS):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # none, or something of the user's lies there
        folder.rmdir()
