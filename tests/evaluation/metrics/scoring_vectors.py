"""The recorded values of the reference scorers (tests/goldens/scoring) as pytest parameters."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

_FILE = pathlib.Path(__file__).parents[2] / "goldens" / "scoring" / "scoring.json"
_SCORING = json.loads(_FILE.read_text())


def primary(metric: str) -> list:
    """Parameters (vector, expected): every vector of the metric and every disagreement's primary value."""
    cases = [(vector, vector["expected"]) for vector in _SCORING["vectors"] if vector["metric"] == metric]
    for vector in _SCORING["disagreements"]:
        if vector["metric"] == metric:
            cases += [(vector, value) for source, value in _values(vector) if source == vector["primary"]]
    return [pytest.param(vector, expected, id=vector["id"]) for vector, expected in cases]


def by_source(metric: str, fragment: str) -> list:
    """Parameters (vector, value): what the evaluator whose source holds `fragment` gave, wherever it is recorded."""
    return [
        pytest.param(vector, value, id=vector["id"])
        for vector in _SCORING["vectors"] + _SCORING["disagreements"]
        if vector["metric"] == metric
        for source, value in _values(vector)
        if fragment in source
    ]


def _values(vector: dict[str, Any]) -> list[tuple[str, Any]]:
    recorded = [(entry["source"], entry["value"]) for entry in vector.get("differs", []) + vector.get("values", [])]
    return recorded + [(source, vector["expected"]) for source in vector.get("also", [])]
