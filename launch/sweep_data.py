"""What a sweep's runs need beside their configurations: found, or made, before the first of them starts."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_pipelines import embedded, loader
from data_pipelines.loader import make_plan
from data_pipelines.plan import PlanError
from data_pipelines.records import DatasetError, RecordSource, read_manifest
from data_pipelines.remote import is_remote
from nvlm_jax.config import DatasetConfig, RunConfig
from nvlm_jax.inputs.tokenizer import Tokenizer
from nvlm_jax.sweeps.sweep_file import Sweep, SweepError
from nvlm_jax.sweeps.variants import CHAIN

INIT = ("vision", "llm", "projector", "checkpoint")
TESTS = ("qa-test", "text-test")  # what launch.evaluate takes unless told otherwise
_tokenizer = functools.cache(Tokenizer)


def file_faults(config: RunConfig) -> list[str]:
    """Initial weights, tokenizer and datasets that are not there, a line each. Embedded datasets will be made."""
    places = {f"init.{key}": getattr(config.init, key) for key in INIT}
    faults = [
        f"{key}: {place}: no such file or directory"
        for key, place in places.items()
        if place not in ("", CHAIN) and not pathlib.Path(place).exists()
    ]
    try:
        _tokenizer(config.inputs.tokenizer)
    except (OSError, ValueError) as error:
        faults.append(str(error))
    return faults + [f"data.blend: {text}" for text in _missing(dataset.path for dataset in config.data.blend)]


def check_evaluations(plan: Sweep) -> None:
    """Raise SweepError, with all of them, for embedded test sets that neither are there nor can be made."""
    faults = [
        f"EVALUATIONS[{name!r}]: {text}" for name, asked in plan.evaluations.items() for text in _missing(_tests(asked))
    ]
    if faults:
        raise SweepError(f"{plan.path}: no variant was started:\n  " + "\n  ".join(faults))


def check_rows(plan: Sweep) -> None:
    """Plan a step of every stage from its data; lengths that are measured for it stay beside the data.

    Raises:
        SweepError: budgets of a row that no sample of a dataset fits, and blends of nothing, by variant.
    """
    faults = {}
    for variant in plan.variants:
        for stage, config in variant.stages.items():
            try:
                make_plan(config, 1)
            except (PlanError, DatasetError) as error:
                faults[f"variant {variant.name}, stage {stage}: {error}"] = None
    if faults:
        raise SweepError(f"{plan.path}: no variant was started, for these have no batch:\n  " + "\n  ".join(faults))


def fingerprints(plan: Sweep) -> dict[str, dict[str, Any]]:
    """Of every dataset that the plan trains or is evaluated on, by path, as `data_pipelines.loader.fingerprints`."""
    stages = [config for variant in plan.variants for config in variant.stages.values()]
    datasets = [dataset for config in stages for dataset in config.data.blend]
    tests = [path for asked in plan.evaluations.values() for path in _tests(asked)]
    datasets += [DatasetConfig(pathlib.Path(path).name, path) for path in tests]
    return loader.fingerprints({dataset.path: dataset for dataset in datasets}.values())


def prepare(plan: Sweep) -> None:
    """Make the embedded datasets that the plan names and that are not there yet."""
    stages = [config for variant in plan.variants for config in variant.stages.values()]
    paths = [dataset.path for config in stages for dataset in config.data.blend]
    paths += [path for asked in plan.evaluations.values() for path in _tests(asked)]
    needed: dict[pathlib.Path, dict[str, None]] = {}
    for path in map(pathlib.Path, filter(_makeable, paths)):
        needed.setdefault(path.parent, {})[path.name] = None
    for where, names in needed.items():
        if made := embedded.prepare(where, list(names)):
            print(f"made {', '.join(made)} in {where}", flush=True)


def _missing(paths: Iterable[str]) -> list[str]:
    faults = []
    for path in paths:
        if not _makeable(path):
            try:
                RecordSource(path)
            except DatasetError as error:
                faults.append(str(error))
    return faults


def _makeable(path: str) -> bool:
    """Whether an embedded dataset is to be made: one, or nothing, stands there. What a user calls alike is left."""
    place = pathlib.Path(path)
    if is_remote(path) or place.name not in embedded.ALL:
        return False
    try:
        return "generator" in read_manifest(place).settings
    except DatasetError:
        return not place.exists()


def _tests(asked: Mapping[str, Any]) -> list[str]:
    """The embedded test sets of one evaluation's flags."""
    if not {"embedded", "all"} & set(_listed(asked.get("benchmarks", "embedded"))):
        return []
    return [f"{asked.get('data', 'runs/data')}/{name}" for name in _listed(asked.get("embedded", TESTS))]


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    """A list's flag as text or as a list."""
    return value.split(",") if isinstance(value, str) else value
