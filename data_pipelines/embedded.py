"""The embedded datasets by name: generated pages and questions, written once as ordinary datasets.

A run's config names them (`runs/data/qa` ...). Training sets hold no word, value or handwritten digit of the test sets.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from data_pipelines import generated, records
from data_pipelines.generated.pages import GRIDS
from data_pipelines.generated.samples import GeneratedSource
from data_pipelines.index import INDEX
from nvlm_jax.inputs.batch import Sample

CHUNK = 64  # samples of one task of a worker process
SHARD = 5000  # samples of a shard, at most


@dataclasses.dataclass(frozen=True)
class Embedded:
    """One dataset: what `GeneratedSource` is given."""

    variant: str
    split: str
    size: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


ONE_TILE = {"grids": ((1, 1),)}
TWO_TILES = {"grids": tuple(grid for grid in GRIDS if grid[0] * grid[1] == 2)}
THREE_TILES = {"grids": tuple(grid for grid in GRIDS if grid[0] * grid[1] <= 3)}
MANY_TILES = {"grids": tuple(grid for grid in GRIDS if grid[0] * grid[1] >= 5)}
NUMBER = {"reference": "number"}
EXACT_TILES = {
    n: NUMBER | {"grids": tuple(grid for grid in GRIDS if grid[0] * grid[1] == n), "questions": 2} for n in (1, 2, 4, 6)
}
DESCRIBED = {"reads": 1, "lists": 2, "scramble": 0.5}
DATASETS = {
    "caption-1": Embedded("qa", "train", 3000, ONE_TILE | {"reads": 1, "questions": 1}),
    "aligned": Embedded("qa", "train", 24000, ONE_TILE | {"lists": 1, "questions": 0}),
    "qa-1": Embedded("qa", "train", 6000, ONE_TILE | {"lists": 1, "questions": 0}),
    "qa-2": Embedded("qa", "train", 5000, TWO_TILES | {"lists": 1, "questions": 0}),
    "qa": Embedded("qa", "train", 4000),
    "text": Embedded("text", "train", 12000, {"questions": 4}),
    "described-1": Embedded("described", "train", 20000, DESCRIBED | ONE_TILE),
    "described-3": Embedded("described", "train", 20000, DESCRIBED | THREE_TILES),
    "described": Embedded("described", "train", 30000, DESCRIBED),
    "dense": Embedded("dense", "train", 12000),
    "qa-test": Embedded("qa", "test", 500),
    "text-test": Embedded("text", "test", 500),
}
# Made when a sweep of configs/sweeps asks. Questions call a tile by its number, whatever tags the model is given.
FOR_SWEEPS = {
    "smoke": Embedded("qa", "train", 600, NUMBER),
    "caption-number-1": Embedded("qa", "train", 6000, NUMBER | ONE_TILE | {"reads": 1, "questions": 1}),
    "qa-number": Embedded("qa", "train", 6000, NUMBER),
    "qa-number-1": Embedded("qa", "train", 6000, NUMBER | ONE_TILE | {"lists": 1, "questions": 0}),
    "qa-number-2": Embedded("qa", "train", 5000, NUMBER | TWO_TILES | {"lists": 1, "questions": 0}),
    "qa-number-few": Embedded("qa", "train", 6000, NUMBER | THREE_TILES),
    "qa-number-test": Embedded("qa", "test", 500, NUMBER),
    "qa-number-few-test": Embedded("qa", "test", 300, NUMBER | THREE_TILES),
    "qa-number-more-test": Embedded("qa", "test", 300, NUMBER | MANY_TILES),
    "read-pages": Embedded("qa", "train", 64, NUMBER | MANY_TILES | {"reads": 6, "questions": 1}),
    **{f"tiles-{n}": Embedded("qa", "train", 600, exact) for n, exact in EXACT_TILES.items()},
}
ALL = DATASETS | FOR_SWEEPS


def prepare(
    out: str | pathlib.Path,
    names: Sequence[str] = tuple(DATASETS),
    seed: int = 0,
    samples: int = 0,
    processes: int | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, size: None,
) -> list[str]:
    """Make the datasets `names` as directories of `out`; those that are ready stay as they are.

    Args:
        out: the directory that holds the datasets.
        names: of ALL.
        seed: of the generator.
        samples: of each dataset, instead of its own number; 0 leaves that.
        processes: that generate; None = one for each core, 0 = this one.
        progress: called with a dataset's name, its samples written so far and in all.

    Returns:
        The names of the datasets that were made.

    Raises:
        ValueError: an unknown name.
    """
    unknown = [name for name in names if name not in ALL]
    if unknown:
        raise ValueError(f"no embedded dataset {', '.join(map(repr, unknown))}; there are {', '.join(ALL)}")
    out = pathlib.Path(out)
    made = []
    with contextlib.ExitStack() as stack:
        pool = None
        for name in names:
            spec = ALL[name]
            spec = dataclasses.replace(spec, size=samples or spec.size)
            settings = settings_of(spec, seed)
            if ready(out / name, settings):
                progress(name, spec.size, spec.size)
                continue
            if pool is None and processes != 0:
                # Spawned: a forked child would inherit the locks of this process's threads.
                pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(processes or os.cpu_count()))
            with _alone(out, name):
                if ready(out / name, settings):  # made by another process meanwhile
                    continue
                stream = _report(_generate(spec, seed, pool), name, spec.size, progress)
                records.write_dataset(out / name, stream, -(-spec.size // SHARD), spec.size, settings)
                made.append(name)
    return made


@contextlib.contextmanager
def _alone(out: pathlib.Path, name: str) -> Iterator[None]:
    """Waits until no other process makes the dataset `name`: two sweeps started at once need the same ones."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def settings_of(spec: Embedded, seed: int) -> dict[str, Any]:
    """What a dataset is made from, in JSON values: its spec, the seed, and a hash of the generator's code."""
    digest = hashlib.sha256()
    for file in sorted(pathlib.Path(generated.__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    settings = dataclasses.asdict(spec) | {"seed": seed, "generator": digest.hexdigest()[:16]}
    return json.loads(json.dumps(settings))


def ready(path: pathlib.Path, settings: dict[str, Any]) -> bool:
    """Whether a whole dataset made from `settings` stands at `path`."""
    try:
        source = records.RecordSource(path)
    except records.DatasetError:
        return False
    return source.manifest.settings == settings and (path / INDEX).exists()


def _generate(spec: Embedded, seed: int, pool: Any) -> Iterator[Sample]:
    starts = range(0, spec.size, CHUNK)
    tasks = ((spec, seed, start, min(start + CHUNK, spec.size)) for start in starts)
    for chunk in pool.imap(_chunk, tasks) if pool else map(_chunk, tasks):
        yield from chunk


def _chunk(task: tuple[Embedded, int, int, int]) -> list[Sample]:
    spec, seed, start, stop = task
    source = GeneratedSource(spec.variant, spec.split, seed, spec.size, **spec.options)
    return [source[i] for i in range(start, stop)]


def _report(
    samples: Iterator[Sample], name: str, size: int, progress: Callable[[str, int, int], None]
) -> Iterator[Sample]:
    for done, sample in enumerate(samples, 1):
        yield sample
        if done % CHUNK == 0 or done == size:
            progress(name, done, size)
