"""What every metric checks of its arguments, so that a wrong call fails instead of scoring 0."""

from __future__ import annotations

import string
from collections.abc import Sequence


def check_rule(metric: str, rule: str, known: Sequence[str]) -> None:
    """Raises ValueError, naming the known rules, when `rule` is none of them."""
    if rule not in known:
        raise ValueError(f"{metric}: rule {rule!r} is unknown; choose one of {', '.join(map(repr, known))}")


def check_references(metric: str, references: Sequence[str]) -> None:
    """Raises TypeError for a lone string (it would be read letter by letter), ValueError for no reference."""
    if isinstance(references, str):
        raise TypeError(f"{metric}: references must be a list of answers, got the string {references!r}")
    if not references:
        raise ValueError(f"{metric}: references is empty; a score needs at least one reference answer")


def option_letters(metric: str, options: Sequence[str]) -> str:
    """The letters "ABC..." of as many options. Raises TypeError for a lone string, ValueError for none or over 26."""
    if isinstance(options, str):
        raise TypeError(f"{metric}: options must be a list of texts, got the string {options!r}")
    if not 1 <= len(options) <= 26:
        raise ValueError(f"{metric}: got {len(options)} options; letters exist for 1 to 26")
    return string.ascii_uppercase[: len(options)]
