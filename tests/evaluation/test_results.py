"""Predictions to shares, and the files of an evaluation."""

import json

import pytest

from nvlm_jax.evaluation import results
from nvlm_jax.evaluation.question import Prediction


def prediction(view: str, type: str, kind: str, correct: bool, id: str = "s/0") -> Prediction:
    return Prediction(id, "s", view, type, kind, "what?", "A", "A" if correct else "B", correct)


PREDICTIONS = [
    prediction("vision", "word", "content", True),
    prediction("vision", "word", "content", True),
    prediction("vision", "word", "content", False),
    prediction("vision", "cell", "place", False),
    prediction("vision_blind", "word", "content", False),
    prediction("vision_blind", "cell", "place", True),
    prediction("text", "text", "text", True),
    prediction("text", "text", "text", False),
]


def test_shares_are_counted_by_view_type_and_kind():
    assert results.accuracy(PREDICTIONS) == {
        "vision": 0.5,
        "vision_blind": 0.5,
        "vision_thumbnail": None,
        "text": 0.5,
        "by_type": {"cell": 0.0, "text": 0.5, "word": pytest.approx(2 / 3)},
        "by_kind": {"content": pytest.approx(2 / 3), "place": 0.0},
        "blind_by_type": {"cell": 1.0, "word": 0.0},
        "thumbnail_by_type": {},
    }
    assert results.counts(PREDICTIONS) == {"vision": 4, "text": 2, "type/word": 3, "type/cell": 1, "type/text": 2}


def test_what_is_written_is_read(tmp_path):
    summary = {"arch": "d", "accuracy": results.accuracy(PREDICTIONS)}
    pages = [{"id": "s", "images": []}]
    results.write(tmp_path / "out", summary, PREDICTIONS, pages)
    assert results.read(tmp_path / "out") == (summary, PREDICTIONS, pages)
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 8 and json.loads(lines[3])["type"] == "cell"


def test_an_unfinished_evaluation_is_none(tmp_path):
    results.write(tmp_path, {}, [], [])
    (tmp_path / "results.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no results\.json; `python -m launch\.evaluate --out="):
        results.read(tmp_path)
