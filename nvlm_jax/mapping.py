"""Nested mappings of plain values <-> dataclasses, with the nearest key for one that is mistyped."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any


class Unsaid(str):
    """A default text, to be told from the same text said outright."""


def to_mapping(value: Any) -> Any:
    """The inverse of `from_mapping`: nested dicts and tuples of plain values."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_mapping(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return tuple(to_mapping(v) for v in value)
    return value


def build(cls: type, mapping: Any, faults: list[str], renamed: Mapping[str, str], prefix: str = "") -> Any:
    """The dataclass `cls` with the values of a nested mapping; where one is wrong, its default.

    Args:
        cls: a dataclass, whose fields may be dataclasses or tuples of them.
        mapping: its keys and values.
        faults: gets a line for every unknown key (with the nearest valid one) and every value of the wrong type.
        renamed: key of an earlier version -> today's.
        prefix: of the keys in messages, with a dot behind it.
    """
    if not isinstance(mapping, Mapping):
        faults.append(f"{prefix.rstrip('.') or 'config'}: expected keys of {cls.__name__}, got {mapping!r}")
        return cls()
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    kwargs = {}
    for key, value in mapping.items():
        key = renamed.get(key, key)
        if key not in names:
            faults.append(f"{prefix}{key}: no such key; did you mean {prefix}{nearest_key(cls, str(key))}?")
            continue
        known = len(faults)
        item = _coerce(hints[key], value, prefix + key, faults, renamed)
        if len(faults) == known or dataclasses.is_dataclass(item):
            kwargs[key] = item
    return cls(**kwargs)


def nearest_key(cls: type, key: str) -> str:
    """The key of a dataclass, dotted where it lies deeper, that a mistyped one most likely stands for.

    Keys of the same folder count first, then keys of any folder with that last name: `steps` is `train.steps`.
    """
    folder, _, name = key.rpartition(".")
    keys = list(dotted_keys(cls))
    here = [each for each in keys if each.rpartition(".")[0] == folder]
    if close := difflib.get_close_matches(key, here, n=1, cutoff=0.75):
        return close[0]
    names: dict[str, str] = {}
    for each in sorted(keys, key=lambda each: each.count(".")):
        names.setdefault(each.rpartition(".")[2], each)
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.75):
        return names[close[0]]
    return difflib.get_close_matches(key, here if here and not folder else keys, n=1, cutoff=0.0)[0]


def dotted_keys(cls: type, prefix: str = "") -> Iterator[str]:
    """Every key of a dataclass, folders too: `train`, `train.steps` ...; of a list's items without its index."""
    for name, hint in typing.get_type_hints(cls).items():
        yield prefix + name
        kinds = [hint, *typing.get_args(hint)]
        inner = next((each for each in kinds if dataclasses.is_dataclass(each)), None)
        if inner:
            yield from dotted_keys(inner, f"{prefix}{name}.")


def _coerce(hint: Any, value: Any, key: str, faults: list[str], renamed: Mapping[str, str]) -> Any:
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    if dataclasses.is_dataclass(hint):
        return build(hint, value, faults, renamed, key + ".")
    if typing.get_origin(hint) is tuple:
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            faults.append(f"{key}: expected a list, got {value!r}")
            return ()
        item = typing.get_args(hint)[0]
        return tuple(_coerce(item, v, f"{key}[{i}]", faults, renamed) for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            return float(value)
    if type(value) is not hint:
        faults.append(f"{key}: expected {hint.__name__}, got {value!r}")
    return value
