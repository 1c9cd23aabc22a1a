"""A raw dataset -> ArrayRecord shards with index, manifest and report, over all cores, resumable.

    prepare(spec, raw, out)  ->  out/NAME/  as in records.py, with report.json and faults.jsonl

The raw dataset is first cut into stretches, one for each shard, and the cut is written down; a worker then makes a
shard from its stretch alone. So shards do not depend on how many workers there are, or on where a run was killed: the
next one makes the shards that are missing, and all files have the same bytes. Until complete, a dataset is a hidden
directory; annotations are copied there first, so that they cannot change halfway. What was made stays for as long as
its settings and the raw files that it was read from are the same (reuse.py).
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import itertools
import json
import logging
import multiprocessing
import os
import pathlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from data_pipelines import beam, cut, duplicates, index, overlap, records, reuse
from data_pipelines.complete import PrepareError, complete, index_file, sketch_file, tally_file
from data_pipelines.faults import Fault, fault_of
from data_pipelines.raw.entry import Entry, Part, Spec
from data_pipelines.raw.layouts import with_own_fields
from data_pipelines.raw.samples import Limits, check
from data_pipelines.raw.watched import WatchedRoot
from data_pipelines.report import Tally, plain
from nvlm_jax import json_text
from nvlm_jax.inputs.tokenizer import Tokenizer, tokenizer_digest

log = logging.getLogger(__name__)
VERSION = 2  # of what this file makes of the same raw data; a new one makes datasets anew
SHARD = 4096  # raw records of a shard, about
Progress = Callable[[int, int], None]
Tick = Callable[[], None]
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Job:
    """All that a worker needs to make any shard."""

    spec: Spec
    raw: str
    folder: str  # the hidden directory
    shards: int
    made_from: str  # digest of the settings
    limits: Limits
    tokenizer: str = ""  # counts tokens for the index; empty = not counted
    against: str = ""  # file of overlap.Benchmarks; empty = nothing to compare with


def prepare(
    spec: Spec,
    raw: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    shard_records: int = SHARD,
    processes: int | None = None,
    limits: Limits | None = None,
    tokenizer: str = "",
    against: Sequence[str | pathlib.Path] = (),
    max_bad_share: float = 1.0,
    runner: str = "",
    beam_options: Sequence[str] = (),
    progress: Progress = lambda done, total: None,
    say: Say = log.info,
) -> dict[str, Any]:
    """Make the dataset `out`/NAME, or leave it if it is there, made from the same settings and the same raw files.

    Args:
        spec: name and layout.
        raw: the raw dataset's directory; nothing outside it is read.
        out: the directory that holds datasets.
        shard_records: raw records of a shard; files are cut where their format allows.
        processes: that work; None = one for each core, 0 = this one.
        limits: what is refused for its size.
        tokenizer: a directory with tokenizer.json; adds token counts to the index.
        against: benchmarks, as prepared datasets; samples that hold their prompts or images are rejected.
        max_bad_share: of the samples; above it the dataset is not completed.
        runner: of Apache Beam, that makes the shards instead of this machine's processes; see beam.py.
        beam_options: Beam's own, `--key=value`.
        progress: called with raw records done and (estimated) in all.
        say: called with a line on what of earlier runs is reused, what is made anew, and why.

    Returns:
        The report.

    Raises:
        DatasetError: one of `against` is no dataset.
        LayoutError: there is no such layout, or `raw` is not in it.
        PrepareError: too many samples are bad, or none is left, or a worker died, or a raw file changed meanwhile.
        BeamError: no Beam, or no such runner or option of it.
    """
    path = pathlib.Path(out) / spec.name
    limits = limits or Limits()
    settings = _settings(spec, raw, shard_records, limits, tokenizer, against)
    known = reuse.standing(path, settings, raw)
    if known.text:
        say(f"{path}: {known.text}")
    if known.report is not None:
        return known.report
    root = WatchedRoot(raw)
    folder = path.parent / f".{path.name}.preparing"
    with_own = with_own_fields(root, spec)
    stretches = cut.cut_dataset(root, spec, folder, settings, shard_records)
    compared = _benchmarks(folder, against, settings)
    made_from = reuse.digest_of(settings)
    job = Job(with_own, str(root.path), str(folder), len(stretches), made_from, limits, tokenizer, compared)
    if text := _drop_stale(job, stretches, root):
        say(f"{path}: {text}")
    if runner:
        _make_by_beam(job, stretches, runner, beam_options, progress)
    else:
        _make_shards(job, stretches, os.cpu_count() or 1 if processes is None else processes, progress)
    return complete(folder, path, job.shards, settings, max_bad_share, root.seen)


def _drop_stale(job: Job, stretches: list[list[Part]], root: WatchedRoot) -> str:
    """Forget shards of earlier runs that no longer hold; returns what is to be said of them."""
    folder, stayed, reasons = pathlib.Path(job.folder), 0, []
    for file in sorted(folder.glob("tally-*.json")):
        shard = int(file.stem.removeprefix("tally-"))
        why = ["their number is another one"]
        if shard < job.shards:
            try:
                why = reuse.stale(root, json_text.load_object(file), _key(job, stretches[shard]))
            except json_text.JsonError:  # cut short by a full disk
                why = ["their tally is damaged"]
        reasons += why
        stayed += not why
        if why:
            file.unlink()
    return reuse.say_shards(stayed, reasons, job.shards)


def _key(job: Job, stretch: Sequence[Part]) -> str:
    parts = [dataclasses.asdict(part) for part in stretch]
    return reuse.shard_key(pathlib.Path(job.folder), job.made_from, job.shards, parts)


def made_shards(path: pathlib.Path) -> tuple[int, int] | None:
    """Of a dataset that is being prepared: shards done and in all; None if it is not."""
    folder = path.parent / f".{path.name}.preparing"
    shards = cut.shards_of(folder)
    return None if shards is None else (sum(tally_file(folder, i).exists() for i in range(shards)), shards)


def _settings(
    spec: Spec,
    raw: str | pathlib.Path,
    shard_records: int,
    limits: Limits,
    tokenizer: str,
    against: Sequence[str | pathlib.Path],
) -> dict[str, Any]:
    return {
        "version": VERSION,
        "spec": dataclasses.asdict(spec) | {"fields": dict(spec.fields)},
        "raw": os.path.realpath(raw),
        "shard_records": shard_records,
        "limits": dataclasses.asdict(limits),
        "tokenizer": tokenizer,
        "tokenizer_digest": tokenizer_digest(tokenizer),
        "against": {pathlib.Path(path).name: records.read_manifest(path).fingerprint for path in against},
    }


def _benchmarks(folder: pathlib.Path, against: Sequence[str | pathlib.Path], settings: dict[str, Any]) -> str:
    """The file of the benchmarks' hashes, made if it is not there; empty if there are none."""
    file = folder / f"benchmarks-{reuse.digest_of(settings['against'])}.npz"
    if against and not file.exists():
        overlap.gather(against).save(folder / "benchmarks.partial.npz")
        (folder / "benchmarks.partial.npz").replace(file)
    return str(file) if against else ""


def _sizes(stretches: list[list[Part]]) -> list[int]:
    return [sum(part.records for part in parts) for parts in stretches]


def _missing(job: Job) -> list[int]:
    """Shards that are not made yet."""
    folder = pathlib.Path(job.folder)
    return [shard for shard in range(job.shards) if not tally_file(folder, shard).exists()]


def _make_by_beam(
    job: Job, stretches: list[list[Part]], runner: str, options: Sequence[str], progress: Progress
) -> None:
    sizes = _sizes(stretches)

    def look() -> None:
        progress(sum(sizes) - sum(sizes[shard] for shard in _missing(job)), sum(sizes))

    look()
    if missing := _missing(job):
        todo = {shard: stretches[shard] for shard in missing}
        beam.run_pipeline(functools.partial(make_shard, job), todo, runner, options, look)
    look()
    if missing := _missing(job):
        names = ", ".join(map(str, missing[:20]))
        raise PrepareError(
            f"{job.folder}: the pipeline ended without shards {names}. Its workers must write to this directory and "
            f"read {job.raw}: put both on a file system that all of them mount"
        )


def _make_shards(job: Job, stretches: list[list[Part]], processes: int, progress: Progress) -> None:
    sizes, todo = _sizes(stretches), _missing(job)
    before, total = sum(sizes) - sum(sizes[shard] for shard in todo), sum(sizes)
    progress(before, total)

    def report_done(done: int) -> None:
        progress(min(before + done, total), total)  # a total may be an estimate

    if not processes or len(todo) < 2:
        counter = itertools.count(1)
        for shard in todo:
            make_shard(job, shard, stretches[shard], lambda: report_done(next(counter)))
    else:
        _in_pool(job, stretches, todo, min(processes, len(todo)), report_done)
    progress(total, total)


def _in_pool(
    job: Job, stretches: list[list[Part]], todo: list[int], processes: int, progress: Callable[[int], None]
) -> None:
    context = multiprocessing.get_context("spawn")  # a forked child would inherit the locks of this process's threads
    done = context.Value("q", 0)
    with concurrent.futures.ProcessPoolExecutor(processes, context, _start_worker, (done,)) as pool:
        waiting = {pool.submit(_work, job, shard, stretches[shard]) for shard in todo}
        try:
            while waiting:
                ended, waiting = concurrent.futures.wait(waiting, 0.5, concurrent.futures.FIRST_COMPLETED)
                for future in ended:
                    future.result()
                progress(done.value)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise PrepareError("a worker died (killed, or out of memory); run again to go on") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_done: Any = None  # of a worker: records that all workers have read


def _start_worker(done: Any) -> None:
    global _done
    _done = done


def _work(job: Job, shard: int, parts: list[Part]) -> None:
    make_shard(job, shard, parts, _tick)


def _tick() -> None:
    with _done.get_lock():
        _done.value += 1


def make_shard(job: Job, shard: int, parts: Sequence[Part], tick: Tick = lambda: None) -> None:
    """Make one shard, its part of the index, and last its tally, whose presence says that all is there."""
    folder, root = pathlib.Path(job.folder), WatchedRoot(job.raw)
    name = records.shard_name(job.spec.name, shard, job.shards)
    encode = Tokenizer(job.tokenizer).encode if job.tokenizer else None
    count_tokens = (lambda text: len(encode(text))) if encode else None
    partial = folder / f"{name}.{secrets.token_hex(4)}.partial"  # Beam may have two workers at one shard
    writer = records.ShardWriter(partial, job.spec.name, shard, None, count_tokens)
    tally, sketches = Tally(), duplicates.Sketches()
    for found in _found(job, root, parts):
        tick()
        _take(found, root, job, writer, tally, sketches)
    writer.close()
    sketches.save(sketch_file(folder, shard))
    index.write(index_file(folder, shard), writer.rows)
    partial.replace(folder / name)
    held = tally.to_json() | {"groups": sorted(writer.groups), "digest": writer.digest.hexdigest()}
    held |= {"key": _key(job, parts), "raw": root.seen}
    cut.write_whole(tally_file(folder, shard), json.dumps(held))


def _found(job: Job, root: WatchedRoot, parts: Sequence[Part]) -> Iterator[Entry | Fault]:
    for part in parts:
        yield from cut.read_part(root, pathlib.Path(job.folder), part, job.spec)


def _take(
    found: Entry | Fault,
    root: WatchedRoot,
    job: Job,
    writer: records.ShardWriter,
    tally: Tally,
    sketches: duplicates.Sketches,
) -> None:
    if isinstance(found, Fault):
        tally.rejected.append(found)
        return
    try:
        checked = check(found, root, job.limits)
        hashes = overlap.hashes_of(checked.pixels)
        if job.against:
            _load_benchmarks(job.against).check(found.id, found.messages, hashes)
    except Exception as error:  # whatever a sample does, the others are prepared, and it is counted
        tally.rejected.append(fault_of(found.id, error))
        return
    try:
        size = writer.add(checked.sample, plain(found.source))
    except records.BadRecord as error:  # any other error is the disk's, and stops it
        tally.rejected.append(fault_of(found.id, error))
        return
    tally.add(checked.sample, [image.size for image in checked.pixels], size)
    tally.noted += checked.notes
    tally.unread.update(found.unread)
    sketches.add(checked.sample, hashes)


@functools.lru_cache(maxsize=1)
def _load_benchmarks(file: str) -> overlap.Benchmarks:
    return overlap.Benchmarks.load(file)
