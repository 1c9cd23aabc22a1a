"""From a run's config to its batches, through Grain.

    plan = make_plan(config)                                  the order of the whole run, from lengths alone
    for batch, info in batches(config, plan, start_step):     NumPy arrays, the same for any number of hosts

The batch of step s is rows [s * B, (s + 1) * B) of the plan, so the position in the data is the step's number and
nothing else. A host reads a contiguous part of each batch's rows.

Importing this file leaves JAX alone. Grain imports JAX for its pytrees when the first batch is asked for; worker
processes are told to see the CPU only, so none of them touches a device.
"""

from __future__ import annotations

import hashlib
import logging
import re
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from data_pipelines.blend import Blend, shares
from data_pipelines.faults import BadSamples, Fault, fault_of
from data_pipelines.index import builder_key, lengths
from data_pipelines.plan import Budgets, Lengths, Plan, plan_rows
from data_pipelines.records import RecordSource
from nvlm_jax.config import DatasetConfig, RunConfig
from nvlm_jax.inputs import dense
from nvlm_jax.inputs.batch import Batch, Example
from nvlm_jax.inputs.errors import BadSample
from nvlm_jax.inputs.example import ExampleBuilder
from nvlm_jax.inputs.packing import pack_batch, weigh
from nvlm_jax.inputs.tags import tag_room_of

AHEAD = 2  # batches that are kept ready, of each worker


class DataWorkerDied(RuntimeError):
    """A worker process of the data has ended before the run."""


class BatchInfo(NamedTuple):
    """What a step's batch is made of. All but the last three is of the global batch, on every host."""

    step: int
    sample_ids: tuple[tuple[str, ...], ...]  # `dataset/id` of each row's samples, in the plan's order
    sample_hash: str  # of `sample_ids`: 16 hexadecimal digits of their SHA-256
    token_fill: float  # share of the B x S token places that the plan fills
    tile_fill: float  # share of the B x T tile places
    samples: int  # in the plan
    read: int  # samples that this process tried to read
    dropped_turns: int  # turns that it cut from conversations longer than a row
    bad: tuple[Fault, ...]  # those of them that are not in the batch, with reasons


def make_plan(config: RunConfig, steps: int | None = None) -> Plan:
    """The rows of the run: `steps` (default: `train.steps`) times `train.batch_rows`.

    The first call for a dataset and a model measures every sample and keeps the lengths beside the data, and the first
    one for a blend keeps the plan in the directory that holds its first dataset. Samples that exceed a row's budget
    alone are left out, named in `plan.dropped` and in a warning.

    Raises:
        DatasetError: a dataset of the blend is absent or incomplete.
        PlanError: the blend or the budgets make no plan.
    """
    sources = open_sources(config)
    blend, measured = open_blend(config, sources)
    groups = {group for source in sources for group in source.manifest.groups}
    if config.inputs.template == "dense":
        groups = {dense.GROUP}
    data, train = config.data, config.train
    plan = plan_rows(
        blend,
        measured,
        (train.steps if steps is None else steps) * train.batch_rows,
        Budgets(data.tokens_per_row, data.tiles_per_row, data.pack_window),
        sorted(groups),
        sources[0].path.parent if sources else None,
    )
    for name, samples in plan.dropped.items():
        logging.getLogger(__name__).warning(
            "dataset %s: %d samples exceed a row of %d tokens and %d tiles and are left out, the first are %s",
            *(name, len(samples), data.tokens_per_row, data.tiles_per_row, samples[:10].tolist()),
        )
    return plan


def samples_per_step(config: RunConfig, most: int = 50) -> float:
    """Mean samples of a step over the first `most`. Raises as `make_plan` does."""
    plan = make_plan(config, min(config.train.steps, most))
    return float(plan.counts().sum()) / len(plan) * config.train.batch_rows


def open_blend(config: RunConfig, sources: Sequence[RecordSource], limited: bool = True) -> tuple[Blend, list[Lengths]]:
    """The run's blend before its first draw, and the lengths of its datasets' samples.

    Args:
        config: of the run.
        sources: from `open_sources`.
        limited: whether conversations that are longer than a row are measured as cut to it.

    Raises:
        PlanError: as `make_plan`.
    """
    data, builder = config.data, ExampleBuilder(config.inputs, config.model)
    limits = (data.tokens_per_row, data.tiles_per_row) if limited else (None, None)
    key = builder_key(config.inputs, config.model)
    measured = [lengths(source, builder, *limits, key) for source in sources]
    text = [not tiles.any() for _, tiles in measured]
    sizes = [len(source) for source in sources]
    weights = shares([d.weight for d in data.blend], sizes, data.size_exponent, text, data.text_share)
    return Blend([d.name for d in data.blend], sizes, weights.tolist(), config.seed), measured


def fingerprints(blend: Iterable[DatasetConfig]) -> dict[str, dict[str, Any]]:
    """By path, each dataset's name, number of samples and fingerprint.

    Raises:
        DatasetError: a dataset is absent or incomplete.
    """
    about = {}
    for dataset in blend:
        manifest = RecordSource(dataset.path).manifest
        about[dataset.path] = {
            "name": dataset.name,
            "samples": manifest.samples,
            "fingerprint": manifest.fingerprint,
        }
    return about


class Drawn(NamedTuple):
    """What a run takes from one dataset."""

    name: str
    size: int
    drawn: int  # samples of all rows
    epochs: float
    repeats: int  # draws of samples that were drawn before


def drawn(config: RunConfig, plan: Plan) -> list[Drawn]:
    """What the plan's rows take from each dataset, epochs and repeats counted."""
    sizes = [len(source) for source in open_sources(config)]
    counts = zip(plan.names, sizes, plan.counts().tolist(), strict=True)
    return [Drawn(name, size, n, n / max(size, 1), max(0, n - size)) for name, size, n in counts]


def batches(
    config: RunConfig,
    plan: Plan,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    bad: BadSamples | None = None,
) -> Iterator[tuple[Batch, BatchInfo]]:
    """The batches of steps `start_step`, ... to the end of the plan. Close the iterator to end its workers early.

    Args:
        config: of the run that `plan` was made for.
        plan: from `make_plan`.
        start_step: the first step; any is reached at once.
        process_index: this host's number.
        process_count: hosts; must divide `train.batch_rows`.
        bad: counts bad samples, from a resumed run for instance; default a new one.

    Yields:
        This host's rows [B / process_count, ...] of the batch, with positions as in `Batch`, and the step's BatchInfo.

    Raises:
        TooManyBadSamples: the share of samples that could not be read or built exceeds `data.max_bad_share`.
        DataWorkerDied: a worker process was killed, for want of memory for instance.
        ValueError: a start beyond the plan, or hosts that do not divide the batch.
    """
    rows, steps = config.train.batch_rows, len(plan) // config.train.batch_rows
    if not 0 <= start_step <= steps:
        raise ValueError(f"start_step {start_step} is outside a plan of {steps} steps")
    if rows % process_count or not 0 <= process_index < process_count:
        raise ValueError(
            f"process {process_index} of {process_count} with train.batch_rows={rows}: "
            "the number of processes must divide the rows, and count from 0"
        )
    bad = BadSamples(config.data.max_bad_share) if bad is None else bad
    return _batches(config, plan, start_step, process_index, process_count, bad)


def _batches(
    config: RunConfig, plan: Plan, start_step: int, process_index: int, process_count: int, bad: BadSamples
) -> Iterator[tuple[Batch, BatchInfo]]:
    ids = [source.ids() for source in open_sources(config)]
    local = config.train.batch_rows // process_count
    iterator = iter(_dataset(config, plan, start_step, process_index * local, local))
    try:
        for step, (batch, read, dropped_turns, faults) in enumerate(_of_workers(iterator), start_step):
            info = describe(plan, ids, step, config.train.batch_rows)
            info = info._replace(read=read, dropped_turns=dropped_turns, bad=tuple(faults))
            bad.add(read, info.bad)
            bad.check()
            # Plain arrays, also where the memory is shared with a worker.
            yield Batch(*map(np.asarray, batch)), info
        bad.check(end=True)
    finally:
        iterator.close()


def _of_workers(iterator: Iterator[Any]) -> Iterator[Any]:
    """What the workers make. Raises DataWorkerDied where one of their processes has ended."""
    try:
        yield from iterator
    except RuntimeError as error:
        if not (ended := re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))):
            raise
        code = int(ended[1])
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        raise DataWorkerDied(
            f"a process that reads data {how}. What is saved is kept: start the same command again; if the machine "
            "was short of memory, with fewer --config.data.workers"
        ) from error


def describe(plan: Plan, ids: Sequence[Any], step: int, batch_rows: int) -> BatchInfo:
    """What the plan says of a step, without reading a sample; the last three fields are empty.

    Args:
        plan: of the run.
        ids: of each dataset of the plan, `RecordSource.ids()`.
        step: which step.
        batch_rows: B.
    """
    first, last = step * batch_rows, (step + 1) * batch_rows
    sample_ids = tuple(
        tuple(f"{plan.names[dataset]}/{ids[dataset][sample].as_py()}" for dataset, sample in plan.row(row))
        for row in range(first, last)
    )
    text = "\n".join("\t".join(row) for row in sample_ids)
    token_fill, tile_fill = plan.fill(first, last)
    return BatchInfo(
        step=step,
        sample_ids=sample_ids,
        sample_hash=hashlib.sha256(text.encode()).hexdigest()[:16],
        token_fill=token_fill,
        tile_fill=tile_fill,
        samples=sum(map(len, sample_ids)),
        read=0,
        dropped_turns=0,
        bad=(),
    )


def _dataset(config: RunConfig, plan: Plan, start_step: int, first_row: int, local: int) -> Any:
    """Grain's dataset of (this host's batch, samples read, turns dropped, faults), from `start_step` on."""
    import grain  # here, because it imports JAX

    steps = len(plan) // config.train.batch_rows
    row_numbers = _RowNumbers(start_step, steps, config.train.batch_rows, first_row, local)
    dataset = grain.MapDataset.source(row_numbers).map(_RowReader(config, plan))
    dataset = dataset.batch(local, batch_fn=_RowPacker(config))
    # One thread reads while the device works; more of them would only share this process's interpreter lock.
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD))
    if config.data.workers:
        if not flags.FLAGS.is_parsed():  # in a notebook or a test: Grain reads its own flags, so let defaults hold
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=config.data.workers, per_worker_buffer_size=AHEAD)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_leave_devices_alone)
    return dataset


class _RowNumbers:
    """The numbers of the rows that one host reads, as a random-access source."""

    def __init__(self, start_step: int, steps: int, batch_rows: int, first_row: int, local: int):
        self._start_step, self._steps = start_step, steps
        self._batch_rows, self._first_row, self._local = batch_rows, first_row, local

    def __len__(self) -> int:
        return (self._steps - self._start_step) * self._local

    def __getitem__(self, i: int) -> int:
        step, row = divmod(int(i), self._local)
        return (self._start_step + step) * self._batch_rows + self._first_row + row

    def __repr__(self) -> str:
        return f"_RowNumbers({len(self)} from step {self._start_step})"


class _Row(NamedTuple):
    """A row's examples, not packed yet."""

    examples: list[Example]
    read: int  # samples tried
    dropped_turns: int
    faults: list[Fault]


class _RowReader:
    """Row number -> its examples. Sources and builder are made where they are used, in a worker for instance."""

    def __init__(self, config: RunConfig, plan: Plan):
        self._config, self._plan = config, plan
        self._sources: list[RecordSource] = []
        self._lock = threading.Lock()

    def __call__(self, row: int) -> _Row:
        with self._lock:
            if not self._sources:
                self._builder = ExampleBuilder(self._config.inputs, self._config.model, self._plan.groups)
                self._sources = open_sources(self._config)
        samples, dropped_turns = self._plan.row(row), 0
        examples: list[Example] = []
        faults: list[Fault] = []
        for (dataset, sample), tokens, tiles in zip(samples, *self._plan.lengths(row), strict=True):
            try:
                example, dropped = self._build(dataset, sample, tokens, tiles)
            except Exception as error:  # whatever a sample does, the run goes on, and counts it
                faults.append(fault_of(self._name(dataset, sample), error))
                continue
            examples.append(example)
            dropped_turns += dropped
        return _Row(examples, len(samples), dropped_turns, faults)

    def _build(self, dataset: int, sample: int, tokens: int, tiles: int) -> tuple[Example, int]:
        plan, source = self._plan, self._sources[dataset]
        example, dropped = self._builder.build_counted(source[sample], plan.tokens_per_row, plan.tiles_per_row)
        if (len(example.tokens), len(example.tiles)) != (tokens, tiles):
            raise BadSample(
                "other_length",
                f"sample {example.id!r}: {len(example.tokens)} tokens and {len(example.tiles)} tiles, planned with "
                f"{tokens} and {tiles}; remove lengths-*.npy from {source.path} to measure anew",
            )
        return example, dropped

    def _name(self, dataset: int, sample: int) -> str:
        return f"{self._plan.names[dataset]}/{self._sources[dataset].ids()[sample].as_py()}"

    def __getstate__(self) -> dict[str, Any]:
        return {"_config": self._config, "_plan": self._plan}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_config"], state["_plan"])


class _RowPacker:
    """Rows -> (batch, samples read, turns dropped, faults)."""

    def __init__(self, config: RunConfig):
        data, model = config.data, config.model
        self._loss_per = data.loss_per
        room = tag_room_of(config.inputs, model)
        self._sizes = (data.tokens_per_row, data.tiles_per_row, model.vision.image_size, model.tokens_per_tile, room)

    def __call__(self, rows: Sequence[_Row]) -> tuple[Batch, int, int, list[Fault]]:
        examples = [[weigh(example, self._loss_per) for example in row.examples] for row in rows]
        batch = pack_batch(examples, *self._sizes)
        faults = [fault for row in rows for fault in row.faults]
        return batch, sum(row.read for row in rows), sum(row.dropped_turns for row in rows), faults


def open_sources(config: RunConfig) -> list[RecordSource]:
    """The blend's datasets in order. Raises DatasetError if one is absent."""
    return [RecordSource(dataset.path) for dataset in config.data.blend]


def _leave_devices_alone(worker: int, workers: int) -> None:
    """Run in each worker before it touches anything: Grain has imported JAX there, but it must claim no accelerator."""
    import jax

    jax.config.update("jax_platforms", "cpu")
