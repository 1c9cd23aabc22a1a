"""What a sweep file says, nothing resolved yet. It is Python that a researcher reads and diffs:

    STAGES = ("pretrain", "sft")                        stages of a variant, each `get_config("...,stage=NAME")`
    SEEDS = (0, 1, 2)
    EVALUATIONS = {"evaluation": {"limit": 50}}         folder -> flags of launch.evaluate; "stage" names another stage

    def get_config(argument): ...                       the base, as in configs/nvlm.py

    def sweep(add):
        for arch in ("d", "x"):
            for tags in ("1d", "none"):
                add(f"arch={arch}", {"inputs.tile_tags": tags})

The first variant added is the base, unless one says `base=True`. A key of the changes may begin with a stage's name:
`sft.train.steps` changes that stage alone. Every stage after the first begins from the one before.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pathlib
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from nvlm_jax.config import ConfigError, RunConfig, to_mapping
from nvlm_jax.mapping import Unsaid
from nvlm_jax.sweeps.metrics import metric_fault

MATCHES = ("none", "steps", "samples", "flops")
# Of launch.evaluate, that EVALUATIONS may set; the sweep sets checkpoint and out.
EVALUATE_FLAGS = (
    *("backbone", "batch_size", "benchmarks", "data", "dtype", "embedded", "judge", "judge_model", "limit"),
    *("max_new_tokens", "rules", "views"),
)
# METRIC where it is not said: the accuracy on pages, or the loss where no evaluation asks them.
UNSAID, LOSS = Unsaid("accuracy.vision"), "-loss"
DEFAULTS = {
    "STAGES": ("pretrain", "sft"),
    "SEEDS": (0,),
    "EVALUATIONS": {"evaluation": {}},
    "MATCH": "none",
    "METRIC": UNSAID,
}
TAKEN = ("tensorboard",)  # folders of a run besides its stages'


class SweepError(ValueError):
    """A sweep that cannot be run. The message names the file, the variants and what would be right."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One point of a sweep: a chain of stages, for each seed."""

    name: str
    argument: str  # of get_config
    changes: Mapping[str, Any]
    seeds: tuple[int, ...]
    base: bool = False
    stages: Mapping[str, RunConfig] = dataclasses.field(default_factory=dict)  # resolved, with the first seed

    def seeded(self, seed: int) -> dict[str, RunConfig]:
        """The stages with another seed."""
        return {stage: dataclasses.replace(config, seed=seed) for stage, config in self.stages.items()}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """All that a sweep file says."""

    name: str
    path: str
    doc: str
    stages: tuple[str, ...]
    seeds: tuple[int, ...]
    evaluations: Mapping[str, Mapping[str, Any]]
    match: str
    metric: str  # of results.json, dotted, larger is better
    variants: tuple[Variant, ...]
    kind: str = "sweep"  # or search: variants come one by one
    claim: Mapping[str, Any] | None = None  # what the sweep is to decide, see claims.py
    scale: float = 1.0  # times the file's steps; another than 1 is a trial

    @property
    def base(self) -> Variant:
        return next(variant for variant in self.variants if variant.base)

def load_module(path: str | pathlib.Path) -> ModuleType:
    """Run a sweep file.

    Raises:
        SweepError: there is none, it does not run, or it lacks `get_config`.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise SweepError(f"{path}: no such file; expected a sweep such as configs/sweeps/smoke.py")
    spec = importlib.util.spec_from_file_location(f"sweep_{path.stem}", path)
    if spec is None:
        raise SweepError(f"{path}: is no Python file; expected a sweep such as configs/sweeps/smoke.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SweepError(f"{path}: does not run: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, "get_config", None)):
        raise SweepError(f"{path}: has no function get_config(argument); see nvlm_jax/sweeps/sweep_file.py")
    return module


def call(path: str | pathlib.Path, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a sweep file's function returns.

    Raises:
        SweepError: whatever it raises, with the file, the line and the function's name; ConfigError stays one.
    """
    try:
        return function(*arguments)
    except ConfigError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if pathlib.Path(f.filename).name == pathlib.Path(path).name]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        what = str(error) if isinstance(error, SweepError) else f"{type(error).__name__}: {error}"
        raise SweepError(f"{where}: {name}: {what}") from error


def make_variant(label: Any, argument: Any, changes: Any, seeds: Any, base: bool = False) -> Variant:
    """A variant as a sweep file gives it, not resolved yet.

    Raises:
        SweepError: an argument of the wrong type, with what would be right.
    """
    for name, given in (("argument", argument), ("label", label)):
        if not isinstance(given, str):
            raise SweepError(f"{name}: {given!r}; a text such as 'arch=x' would be right")
    if not isinstance(changes, Mapping) or not all(isinstance(key, str) for key in changes):
        raise SweepError(f"changes: {changes!r}; keys and values such as {{'inputs.tile_tags': 'none'}} would be right")
    try:
        json.dumps(to_mapping(list(changes.values())))
    except TypeError as error:
        raise SweepError(f"changes: {changes!r}; plain values would be right ({error})") from error
    if not _is_list(seeds):
        raise SweepError(f"seeds: {seeds!r}; a list such as (0, 1, 2) would be right")
    return Variant(label, argument, dict(changes), tuple(seeds), base)


def _is_list(given: Any) -> bool:
    return isinstance(given, (list, tuple, range))


def read_settings(module: ModuleType, path: str | pathlib.Path) -> Sweep:
    """The constants of a sweep file, without its variants.

    Raises:
        SweepError: one of them is of the wrong kind.
    """
    path = pathlib.Path(path)
    given = {name: getattr(module, name, default) for name, default in DEFAULTS.items()}
    if faults := _setting_faults(**given):
        raise SweepError(f"{path}:\n  " + "\n  ".join(faults))
    return Sweep(
        name=path.stem,
        path=str(path),
        doc=(module.__doc__ or "").strip(),
        stages=tuple(given["STAGES"]),
        seeds=tuple(given["SEEDS"]),
        evaluations=dict(given["EVALUATIONS"]),
        match=given["MATCH"],
        metric=_default_metric(given) if given["METRIC"] is UNSAID else given["METRIC"],
        variants=(),
        claim=to_mapping(getattr(module, "CLAIM", None)),
    )


def _default_metric(given: Mapping[str, Any]) -> str:
    return LOSS if metric_fault(UNSAID, given["STAGES"], given["EVALUATIONS"]) else str(UNSAID)


def _setting_faults(STAGES: Any, SEEDS: Any, EVALUATIONS: Any, MATCH: Any, METRIC: Any) -> list[str]:
    faults = []
    if not _is_list(STAGES) or not all(isinstance(stage, str) for stage in STAGES):
        return [f"STAGES: {STAGES!r}; a list such as ('pretrain', 'sft') would be right"]
    if not STAGES or len(set(STAGES)) < len(STAGES):
        faults.append(f"STAGES: names {'a stage twice' if STAGES else 'no stage'}")
    if bad := [stage for stage in STAGES if not re.fullmatch("[A-Za-z0-9_-]+", stage) or stage in TAKEN]:
        faults.append(f"STAGES: {bad} name folders; letters, digits, _ and - would be right, and not {TAKEN[0]}")
    if not _is_list(SEEDS):
        faults.append(f"SEEDS: {SEEDS!r}; a list such as (0, 1, 2) would be right")
    if MATCH not in MATCHES:
        faults.append(f"MATCH: {MATCH!r} is none of {', '.join(MATCHES)}")
    if not isinstance(METRIC, str) or not METRIC:
        faults.append(f"METRIC: {METRIC!r}; a name in results.json such as 'accuracy.vision' would be right")
    if not isinstance(EVALUATIONS, Mapping):
        return [*faults, f"EVALUATIONS: {EVALUATIONS!r}; such as {{'evaluation': {{'limit': 50}}}} would be right"]
    for name, flags in EVALUATIONS.items():
        faults += [f"EVALUATIONS[{name!r}]: {text}" for text in _evaluation_faults(name, flags, STAGES)]
    if not faults and METRIC is not UNSAID and (fault := metric_fault(METRIC, STAGES, EVALUATIONS)):
        faults.append(fault)
    return faults


def _evaluation_faults(name: Any, flags: Any, stages: Sequence[str]) -> list[str]:
    if not isinstance(flags, Mapping):
        return [f"{flags!r}; flags of launch.evaluate such as {{'limit': 50}} would be right"]
    faults = []
    if not isinstance(name, str) or not re.fullmatch("[a-z0-9-]+", name) or name in (*stages, *TAKEN):
        taken = ", ".join((*stages, *TAKEN))
        faults.append(f"names a folder: lower-case letters, digits and hyphens would be right, and none of {taken}")
    if "stage" in flags and flags["stage"] not in stages:
        faults.append(f"stage {flags['stage']!r} is none of {', '.join(stages)}")
    if unknown := sorted(str(flag) for flag in set(flags) - {"stage", *EVALUATE_FLAGS}):
        faults.append(f"no flag {', '.join(unknown)}; there are {', '.join(EVALUATE_FLAGS)}")
    return faults
