"""What a field's value says: that it is missing, or a text.

null, NaN, NaT, pandas' NA     missing, as in every table that lost a value; never the text "nan"
0, False                       values: "0", "False"
3.0                            "3": a column of whole numbers becomes one of floats as soon as one is missing
"""

from __future__ import annotations

import decimal
import math
from typing import Any

import numpy as np

from nvlm_jax.inputs.errors import BadSample

MAX_DEPTH = 32  # of lists and objects within a record; what lies deeper is left as it is
WHOLE = 2**53  # below it every whole number has a float of its own


def is_missing(value: Any) -> bool:
    """Whether the value is null, NaN, or another library's word for no value."""
    if value is None:
        return True
    if isinstance(value, str | bytes | bool | int | list | dict):
        return False
    try:
        return bool(value != value)  # NaN and NaT differ from themselves
    except TypeError:  # pandas' NA is neither
        return type(value).__name__ == "NAType"
    except ValueError:  # an array
        return False


def without_missing(value: Any, depth: int = 0) -> Any:
    """The value with None in place of all that is missing within it."""
    if depth < MAX_DEPTH and isinstance(value, dict):
        return {key: without_missing(item, depth + 1) for key, item in value.items()}
    if depth < MAX_DEPTH and isinstance(value, list):
        return [without_missing(item, depth + 1) for item in value]
    return None if is_missing(value) else value


def text_of(value: Any, name: str) -> str:
    """A field's text; bytes as UTF-8, numbers in digits, truth values as `True` and `False`.

    Args:
        value: as a reader gave it.
        name: of the field, for messages.

    Raises:
        BadSample: `missing_field`, `invalid_utf8`, or `wrong_field` (a list, an object, an infinite number).
    """
    if is_missing(value):
        raise BadSample("missing_field", f"field {name!r} has no value (null or NaN)")
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise BadSample("invalid_utf8", f"field {name!r}: {error}") from error
    if isinstance(value, decimal.Decimal) and value.is_finite():
        return f"{value:f}"
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < WHOLE else str(value)
    if not isinstance(value, str | int):
        shown = value if isinstance(value, float | decimal.Decimal) else type(value).__name__
        raise BadSample("wrong_field", f"field {name!r} is {shown}; a text or a number is expected")
    return str(value)
