"""The variants of a sweep: what its file says, resolved to configurations of all stages, checked, named, compared."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from nvlm_jax.config import ConfigError, RunConfig, from_mapping, to_mapping
from nvlm_jax.sweeps.sweep_file import Sweep, SweepError, Variant, call, load_module, make_variant, read_settings
from nvlm_jax.training.initial import check_same_model
from nvlm_jax.training.workdir import flatten

CHAIN = "(the stage before)"  # what init.checkpoint holds until the sweep's directory is known
ABSENT = "(absent)"
Check = Callable[[RunConfig], Iterable[str]]  # a configuration's faults


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
