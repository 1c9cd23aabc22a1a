"""Predictions to shares, and the files of an evaluation."""

import dataclasses
import json

import pytest

from nvlm_jax.evaluation import results
from nvlm_jax.evaluation.benchmarks import registry
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


def test_the_score_of_a_benchmark_says_how_sure_it_is():
    benchmark = registry()["ocrbench"]
    answers = [
        Prediction(f"q/{i}", "s", "vision", part, "content", "?", "A", "A", i % 4 > 0, "ocrbench", float(i % 4 > 0))
        for i, part in enumerate(["Doc-oriented VQA"] * 40 + ["Handwriting Recognition"] * 20)
    ]
    answers = [
        dataclasses.replace(p, extraction="A" if i else None, seconds=0.5, cut=i < 3, prompt_digest=f"{i}")
        for i, p in enumerate(answers)
    ]
    entry = results.score(benchmark, answers, "lmms-eval", 128, "d")
    assert entry["score"] == 750.0 and entry["mean"] == 0.75 and entry["items"] == 60
    assert entry["interval"][0] < 750 < entry["interval"][1] and entry["interval"][0] > 600
    assert (entry["unparsed"], entry["cut"], entry["seconds"], entry["items_per_second"]) == (1, 3, 30.0, 2.0)
    assert entry["parts"]["Handwriting Recognition"] == {"score": 750.0, "items": 20}
    assert entry["paper"] == {"NVLM-D-72B": 853, "NVLM-D-34B": 819}
    assert entry["prompt_hash"] == results.prompt_hash(answers[::-1])
    assert entry["prompt_hash"] != results.prompt_hash([dataclasses.replace(p, prompt_digest="x") for p in answers])


def test_a_test_set_without_answers_has_no_score():
    answer = dataclasses.replace(prediction("vision", "", "content", False), benchmark="docvqa_test", extraction="A")
    entry = results.score(registry()["docvqa_test"], [answer], "lmms-eval", 64, "x")
    assert entry["score"] is None and entry["interval"] is None and entry["items"] == 1 and entry["parts"] == {}
    assert entry["paper"]["NVLM-X-72B"] == 82.9


def test_the_text_average_takes_four_and_its_change_the_backbones():
    def scores(*numbers):
        return {name: {"score": n} for name, n in zip(("mmlu", "gsm8k", "math500", "humaneval"), numbers, strict=True)}

    own, backbone = scores(82.0, 92.9, 73.1, 88.4), scores(82.3, 91.1, 59.7, 86.0)
    assert results.text_average(own, backbone) == {"score": 84.1, "backbone": 79.78, "change": 4.32}
    assert results.text_average(own, None)["change"] is None
    assert results.text_average({"mmlu": {"score": 82.0}}, backbone) is None
