"""What a sweep runs. A sweep file is Python that a researcher reads and diffs:

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
import hashlib
import importlib.util
import json
import pathlib
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from nvlm_jax.config import ConfigError, RunConfig, from_mapping, to_mapping
from nvlm_jax.training.initial import check_same_model
from nvlm_jax.training.workdir import flatten

MATCHES = ("none", "steps", "samples", "flops")
# Of launch.evaluate, that EVALUATIONS may set; the sweep sets checkpoint and out.
EVALUATE_FLAGS = (
    *("backbone", "batch_size", "benchmarks", "data", "dtype", "embedded", "judge", "judge_model", "limit"),
    *("max_new_tokens", "rules", "views"),
)
DEFAULTS = {
    "STAGES": ("pretrain", "sft"),
    "SEEDS": (0,),
    "EVALUATIONS": {"evaluation": {}},
    "MATCH": "none",
    "METRIC": "accuracy.vision",
}
TAKEN = ("tensorboard",)  # folders of a run besides its stages'
CHAIN = "(the stage before)"  # what init.checkpoint holds until the sweep's directory is known
ABSENT = "(absent)"
Check = Callable[[RunConfig], Iterable[str]]  # a configuration's faults


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
        raise SweepError(f"{path}: has no function get_config(argument); see nvlm_jax/sweeps/variants.py")
    return module


def load(path: str | pathlib.Path, check: Check = lambda config: ()) -> Sweep:
    """A sweep file's variants, all of them checked.

    Args:
        path: of the file.
        check: a configuration's faults that its keys do not show, such as files that are not there.

    Raises:
        SweepError: an empty sweep, variants that are the same, or configurations that cannot run; all are listed.
    """
    module = load_module(path)
    if not callable(getattr(module, "sweep", None)):
        raise SweepError(f"{path}: has no function sweep(add); a file with search(trial) alone needs --search")
    added: list[Variant] = []

    def add(
        argument: str = "",
        changes: Mapping[str, Any] | None = None,
        *,
        seeds: Sequence[int] | None = None,
        base: bool = False,
        label: str = "",
    ) -> None:
        chosen = settings.seeds if seeds is None else seeds
        added.append(make_variant(label, argument, {} if changes is None else changes, chosen, base))

    settings = read_settings(module, path)
    call(path, "sweep(add)", module.sweep, add)
    if not added:
        raise SweepError(f"{path}: sweep(add) added no variant; call add(argument, changes) at least once")
    return dataclasses.replace(settings, variants=resolve(module, settings, added, check))


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
        metric=given["METRIC"],
        variants=(),
        claim=to_mapping(getattr(module, "CLAIM", None)),
    )


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


def resolve(
    module: ModuleType, settings: Sweep, added: Sequence[Variant], check: Check = lambda config: ()
) -> tuple[Variant, ...]:
    """Resolve, check and name what `sweep(add)` added. Arguments as for `load`.

    Raises:
        SweepError: lists every fault of every variant.
    """
    faults: list[str] = []
    built = []
    for place, variant in enumerate(added):
        shown = variant.name or described(variant)
        faults += [f"variant {shown}: {text}" for text in _seed_faults(variant)]
        built.append(dataclasses.replace(variant, stages=_stages(module, settings, variant, shown, check, faults)))
        if variant.base and any(other.base for other in added[:place]):
            faults.append(f"variant {shown}: base=True, as an earlier one has; one variant is the base")
    if faults:
        raise SweepError(f"{settings.path}: no variant was started, for these cannot run:\n  " + "\n  ".join(faults))
    if not any(variant.base for variant in built):
        built[0] = dataclasses.replace(built[0], base=True)
    named = tuple(dataclasses.replace(v, name=n) for v, n in zip(built, names(built), strict=True))
    _check_distinct(settings.path, named)
    return named


def described(variant: Variant) -> str:
    """`arch=x inputs.tile_tags=none`, for messages before there are names."""
    changes = [f"{key}={value!r}" for key, value in variant.changes.items()]
    return " ".join([variant.argument, *changes]).strip() or "(no change)"


def _seed_faults(variant: Variant) -> list[str]:
    if not variant.seeds:
        return ["no seed; leave out seeds= or name at least one"]
    if bad := [seed for seed in variant.seeds if not isinstance(seed, int) or seed < 0]:
        return [f"seeds {bad}; whole numbers from 0 on would be right"]
    twice = [seed for seed, count in Counter(variant.seeds).items() if count > 1]
    return [f"seeds {twice} are named twice"] if twice else []


def _stages(
    module: ModuleType, settings: Sweep, variant: Variant, shown: str, check: Check, faults: list[str]
) -> dict[str, RunConfig]:
    stages: dict[str, RunConfig] = {}
    for number, stage in enumerate(settings.stages):
        try:
            mapping = _base(module, settings.path, ",".join(filter(None, (variant.argument, f"stage={stage}"))))
            _change(mapping, variant.changes, stage, settings.stages)
            if number:  # the whole model comes from the stage before
                mapping["init"] = {"checkpoint": CHAIN}
            mapping["seed"] = variant.seeds[0] if variant.seeds else 0
            stages[stage] = from_mapping(RunConfig, mapping)
            found = (*_own_faults(stages[stage]), *check(stages[stage]))
            faults += [f"variant {shown}, stage {stage}: {text}" for text in found]
            if number:
                before = settings.stages[number - 1]
                if before in stages:
                    check_same_model(stages[before], stages[stage], before, f"stage {stage}")
        except (ConfigError, SweepError) as error:
            text = str(error).replace("invalid configuration:\n", "").strip()
            faults.append(f"variant {shown}, stage {stage}: {text}")
    return stages


def _base(module: ModuleType, path: str, argument: str) -> dict[str, Any]:
    config = call(path, f"get_config({argument!r})", module.get_config, argument)
    try:
        return json.loads(json.dumps(to_mapping(config.to_dict())))
    except (AttributeError, TypeError) as error:
        raise SweepError(f"get_config({argument!r}): a ConfigDict of plain values would be right ({error})") from error


def _change(mapping: dict[str, Any], changes: Mapping[str, Any], stage: str, stages: Sequence[str]) -> None:
    for key, value in changes.items():
        first, _, rest = key.partition(".")
        if first in stages:
            if first != stage:
                continue
            key = rest
        *folders, leaf = key.split(".")
        place = mapping
        for depth, folder in enumerate(folders):
            if not isinstance(place.get(folder), dict):
                where = ".".join(folders[: depth + 1])
                what = f"is {place[folder]!r}" if folder in place else "no such key"
                raise ConfigError(f"{key}: cannot be set, for {where}: {what}")
            place = place[folder]
        place[leaf] = to_mapping(value)


def _own_faults(config: RunConfig) -> list[str]:
    faults = []
    warmup, steps = config.optimizer.warmup_steps, config.train.steps
    if warmup > steps:
        faults.append(f"optimizer.warmup_steps: {warmup} are more than train.steps {steps}; fewer would be right")
    parts = ["vision", "projector", "decoder"] + ["cross_attention"] * (config.model.cross_attention is not None)
    if config.model.dense_labels:
        parts = ["vision", "norm", "head"]
    if unknown := sorted(set(config.train.trainable) - set(parts)):
        faults.append(f"train.trainable: {unknown} are no parts of this model, which has {parts}")
    return faults


# ---- names and differences


def names(variants: Sequence[Variant]) -> list[str]:
    """A name for each variant from the settings that differ among them, as `arch=x,tile_tags=none`."""
    found = []
    for variant, settings in zip(variants, settings_table(variants), strict=True):
        pairs = [f"{key}={_text(value)}" for key, value in settings.items()]
        found.append(_safe(variant.name or ",".join(pairs) or "base"))
    return found


def settings_table(variants: Sequence[Variant]) -> list[dict[str, Any]]:
    """For each variant its value of every setting that differs among them, by the setting's short name."""
    settings = [_settings(variant) for variant in variants]
    keys = list(dict.fromkeys(key for own in settings for key in own))
    values = {key: [_value(v, own, key) for v, own in zip(variants, settings, strict=True)] for key in keys}
    differing = [key for key in keys if len({json.dumps(value) for value in values[key]}) > 1]
    short = _short(differing)
    return [{short[key]: values[key][i] for key in differing} for i in range(len(variants))]


def _settings(variant: Variant) -> dict[str, Any]:
    pairs = (item.partition("=") for item in variant.argument.split(",") if item)
    return {key: value for key, _, value in pairs} | dict(variant.changes)


def _value(variant: Variant, own: Mapping[str, Any], key: str) -> Any:
    """What the variant was given for a key, or what its configuration has there."""
    if key in own:
        return to_mapping(own[key])
    first, _, rest = key.partition(".")
    stage, path = (first, rest) if first in variant.stages else (next(iter(variant.stages), ""), key)
    path = {"arch": "model.arch"}.get(path, path)
    value: Any = to_mapping(variant.stages[stage]) if stage else {}
    for part in path.split("."):
        value = value.get(part, ABSENT) if isinstance(value, Mapping) else ABSENT
    return value


def _short(keys: Sequence[str]) -> dict[str, str]:
    """Each key's last parts, as few as tell it from the others."""
    for key_parts in range(1, 1 + max((key.count(".") + 1 for key in keys), default=1)):
        short = {key: ".".join(key.split(".")[-key_parts:]) for key in keys}
        if len(set(short.values())) == len(keys):
            return short
    return {key: key for key in keys}


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        if all(isinstance(item, Mapping) and "name" in item for item in value):
            return "+".join(f"{item['name']}-{item.get('weight', 1):g}" for item in value)
        return "+".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _safe(name: str) -> str:
    """For a folder: no blanks, slashes or colons, at most 120 characters."""
    name = re.sub(r"[^A-Za-z0-9_.,=+-]+", "-", name).strip("-.") or "variant"
    if len(name) <= 120:
        return name
    return f"{name[:110]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _check_distinct(path: str, variants: Sequence[Variant]) -> None:
    faults = []
    for i, variant in enumerate(variants):
        for other in variants[:i]:
            if digest(variant.stages) == digest(other.stages):
                both = f"{other.name} ({described(other)}) and {variant.name} ({described(variant)})"
                faults.append(f"{both} are the same configuration; use seeds= to repeat one")
            elif variant.name == other.name:
                faults.append(f"two variants are called {variant.name}; give them other values of label=")
    if faults:
        raise SweepError(f"{path}: variants must differ:\n  " + "\n  ".join(faults))


def digest(stages: Mapping[str, RunConfig]) -> str:
    """16 hexadecimal digits of a chain of stages; the directory it runs in does not matter.

    Of the values that are not their key's default: a key that later code adds, or drops, with its default changes no
    digest.
    """
    text = json.dumps([[stage, _said(config)] for stage, config in stages.items()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _said(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        named = [(f, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return {f.name: _said(held) for f, held in named if held != _default(f)}
    return [_said(item) for item in value] if isinstance(value, (tuple, list)) else value


def _default(field: dataclasses.Field) -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def differences(base: Variant, other: Variant) -> dict[str, tuple[Any, Any]]:
    """Key -> (value of the base, value of the other), stage by stage; keys that differ alike in all stages once."""
    found: dict[str, tuple[Any, Any]] = {}
    by_stage = {s: _flat_differences(base.stages[s], other.stages[s]) for s in base.stages if s in other.stages}
    for stage, changed in by_stage.items():
        for key, pair in changed.items():
            everywhere = all(rest.get(key) == pair for rest in by_stage.values())
            found[key if everywhere else f"{stage}.{key}"] = pair
    return found


def _flat_differences(base: RunConfig, other: RunConfig) -> dict[str, tuple[Any, Any]]:
    ours, theirs = flatten(to_mapping(base)), flatten(to_mapping(other))
    keys = [key for key in dict.fromkeys([*ours, *theirs]) if key not in ("name", "seed")]
    pairs = {key: (ours.get(key, ABSENT), theirs.get(key, ABSENT)) for key in keys}
    # A section that one side lacks is None there; its keys say the rest.
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1] and set(pair) != {None, ABSENT}}
