"""The fields of a record: by name, by path, and which of them nobody reads."""

from __future__ import annotations

import json
from typing import Any

from data_pipelines.raw.entry import Picture, Record, Spec
from data_pipelines.raw.pictures import picture_of, with_ending
from data_pipelines.raw.trained import LOSS_KEYS, ignored
from nvlm_jax.inputs.errors import BadSample

ID = "id|question_id|questionId|__key__"


def get(record: Record, names: str) -> Any:
    """The first of the names `a|b.c` that the record has; None if it has none.

    A dot leads into an object, or into a text that holds one as JSON.

    Raises:
        BadSample: `bad_json`, such a text is none.
    """
    for name in names.split("|"):
        value: Any = record
        for key in [name] if name in record else name.split("."):  # a tar's member may end in `gt.txt`
            value = _parsed(value, name) if isinstance(value, str) else value
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None


def _parsed(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadSample("bad_json", f"field {name!r}: {error}: {text[:80]!r}") from error


def listed(value: Any) -> list[Any]:
    """The value as a list: itself if it is one, none if it says nothing."""
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]


def pictures(place: str, record: Record, names: str) -> tuple[Picture, ...]:
    """The images of a field, one or a list; none if there is no such field, or nothing in it.

    Raises:
        BadSample: as `picture_of`.
    """
    found = []
    for value in listed(get(record, names)):
        picture = picture_of(place, value)
        if picture is not None:
            found.append(with_ending(picture, record, value, names))
    field = next((name for name in names.split("|") if get(record, name) is not None), "")
    return tuple(picture._replace(field=field) for picture in found)


def entry_id(place: str, record: Record, spec: Spec) -> str:
    """The record's own id, or where it stands."""
    value = get(record, spec.fields.get("id", ID))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and value != "" else place


def unread(record: Record, spec: Spec, *names: str) -> tuple[str, ...]:
    """The record's keys that hold something and that are none of `names`, nor read in every layout."""
    read = {part.split(".")[0] for name in (*names, spec.fields.get("id", ID)) for part in name.split("|")}
    read |= {part for name in names for part in name.split("|")} | {"__key__", "json", *LOSS_KEYS, *ignored(spec)}
    return tuple(key for key, value in record.items() if key not in read and value not in (None, "", [], {}))
