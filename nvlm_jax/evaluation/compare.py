"""Two evaluations side by side: for each benchmark the difference on the same questions, and how sure it is."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from nvlm_jax.evaluation import results, statistics
from nvlm_jax.evaluation.question import Prediction


class NotComparable(Exception):
    """Two evaluations that share no question, or asked or scored the same one differently."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One benchmark in two runs."""

    benchmark: str
    paired: statistics.Paired


def compare(first: pathlib.Path, second: pathlib.Path) -> list[Comparison]:
    """Every benchmark that both directories of results have answers and scores of.

    Raises:
        FileNotFoundError: a directory without finished results.
        JsonError: a damaged one.
        NotComparable: no question is in both, or prompts or rules of a benchmark differ.
    """
    (summary, answers, _), (other, others, _) = results.read(first), results.read(second)
    own_scores, other_scores = summary.get("scores", {}), other.get("scores", {})
    names = [name for name in own_scores if name in other_scores]
    for name in names:
        _check_rules(name, own_scores[name], other_scores[name])
    found = [Comparison(name, pair) for name in names if (pair := _paired(name, answers, others))]
    if not found:
        ours, theirs = ", ".join(own_scores), ", ".join(other_scores)
        raise NotComparable(f"{first} and {second} have no scored question in common: {ours} there, {theirs} here")
    return found


def _check_rules(name: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    if one.get("rule") != other.get("rule"):
        raise NotComparable(f"{name}: scored by rule {one.get('rule')!r} in one and {other.get('rule')!r} in the other")


def _paired(name: str, first: Sequence[Prediction], second: Sequence[Prediction]) -> statistics.Paired | None:
    own, other = _scored(name, first), _scored(name, second)
    both = [key for key in own if key in other]
    for key in both:
        if own[key].prompt_digest != other[key].prompt_digest:
            raise NotComparable(f"{name}: question {key[0]!r} was asked in other words in the two runs")
    if not both:
        return None
    return statistics.paired([own[key].score for key in both], [other[key].score for key in both])


def _scored(name: str, predictions: Sequence[Prediction]) -> dict[tuple[str, str], Prediction]:
    return {
        (p.id, p.view): p
        for p in predictions
        if p.benchmark == name and p.score is not None and p.view in results.TRAINED_VIEWS
    }
