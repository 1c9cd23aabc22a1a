r"""What a field of a benchmark's record holds: a text, several, a list written as text, an option's letter.

Whether a field holds one text or a list is the publisher's form, never guessed from how a text begins: "[2017, 2023]"
and "[ \arccos \frac { 1 } { 4 } , \pi ]" are answers.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from nvlm_jax.evaluation.files import BenchmarkError

_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)


def text_of(value: Any, where: str, name: str) -> str:
    """A cell's text; a number is read as one. Raises BenchmarkError where there is none."""
    if isinstance(value, bool | int | float | str) and str(value).strip() and value == value:  # NaN differs from itself
        return str(value)
    raise BenchmarkError(f"{where}: {name} is {str(value)[:80]!r}; expected a text")


def texts_of(value: Any, where: str, name: str) -> list[str]:
    """The texts of a field that holds one or a list of them, as JSON and Parquet tell apart: no text is parsed.

    Some of a list may be blank, as a person's answer can be; not all.

    Raises:
        BenchmarkError: there is none.
    """
    if not isinstance(value, list | tuple):
        return [text_of(value, where, name)]
    if not any(str(text or "").strip() for text in value):
        raise BenchmarkError(f"{where}: {name} is {str(value)[:80]!r}; expected texts")
    return [str("" if text is None else text) for text in value]


def listed(cell: Any, where: str, name: str = "the cell") -> list[str]:
    """A field that always holds a list: one, or the text of one, as tables have it ("['a', 'b']", "['a' 'b']").

    Raises:
        BenchmarkError: it holds none.
    """
    if isinstance(cell, list | tuple):
        return [str(text) for text in cell]
    found = literal_list(str(cell or ""))
    if found is None:
        raise BenchmarkError(f"{where}: {name} is {str(cell)[:80]!r}; expected a list such as ['a', 'b']")
    return [str(text) for text in found]


def texts_in(cell: Any, where: str, name: str) -> list[str]:
    """A table's cell that holds the text of a list of texts, or one text.

    Only a list of quoted texts is taken for a list: "[2017, 2023]" and "[Aland, Borduria]" are texts.
    """
    found = literal_list(cell) if isinstance(cell, str) else None
    if found and all(isinstance(text, str) for text in found):
        return texts_of(found, where, name)
    return texts_of(cell, where, name)


def literal_list(text: str) -> list[Any] | None:
    """The list that a text writes down in Python's, JSON's or NumPy's way, else None.

    >>> literal_list("['a', 'b']"), literal_list("['a' 'b']"), literal_list("[a, b]")
    (['a', 'b'], ['a', 'b'], None)
    """
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    quoted = _QUOTED.findall(text)
    if len(quoted) > 1 and not _QUOTED.sub("", text)[1:-1].strip():  # NumPy leaves out the commas
        text = f"[{', '.join(quoted)}]"
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def letter_of(value: Any, where: str, letters: str) -> str:
    """The letter of the right option. Raises BenchmarkError for anything else."""
    letter = str("" if value is None else value).strip().upper()
    if len(letter) != 1 or letter not in letters:
        raise BenchmarkError(f"{where}: answer {value!r} is none of {', '.join(letters)}")
    return letter


def unique_ids(ids: Sequence[object]) -> list[str]:
    """Ids as texts; those that stand there more than once get their place behind them.

    >>> unique_ids([7, 8, 7])
    ['7@0', '8', '7@2']
    """
    counts = Counter(map(str, ids))
    return [str(id) if counts[str(id)] == 1 else f"{id}@{place}" for place, id in enumerate(ids)]
