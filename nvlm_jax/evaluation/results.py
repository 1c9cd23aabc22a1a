"""Predictions -> scores, and the files of one evaluation.

OUT/results.json        one model: scores of each benchmark, parameters, checkpoint
OUT/predictions.jsonl   one `Prediction` a line
OUT/pages.json          of the embedded benchmark, some pages with their tiles and tags, for the report
OUT/examples.jsonl      of the others, some answers with their pictures, for the report

In results.json `scores` are as the paper prints them (percent, OCRBench of 1,000); what is called accuracy or mean is a
fraction (0.85, not 85).
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from nvlm_jax import json_text
from nvlm_jax.evaluation import journal, paper, statistics
from nvlm_jax.evaluation.benchmark import Benchmark
from nvlm_jax.evaluation.question import Prediction
from nvlm_jax.evaluation.runner import IMAGE_VIEWS, TEXT_VIEW

RESULTS, PREDICTIONS, PAGES = "results.json", journal.PREDICTIONS, "pages.json"
TRAINED_VIEWS = ("vision", TEXT_VIEW)  # as the model was trained to see a question


def score(
    benchmark: Benchmark, predictions: Sequence[Prediction], rule: str, limit: int, arch: str = ""
) -> dict[str, Any]:
    """What results.json says of one benchmark.

    Args:
        benchmark: how its scores are averaged and shown.
        predictions: all of its own.
        rule: that they were scored by.
        limit: tokens at which an answer was cut.
        arch: "d", "x" or "h", for the paper's numbers of it.

    Returns:
        `score` and its 95 % `interval` as the paper prints them (None where the answers are not public), `mean` as a
        fraction, `items`, and of them answers that were `read_by_rule`, `judged`, `unparsed` and `cut`, `seconds`,
        `items_per_second`, `rule`, `max_new_tokens`, `prompt_hash`, `parts` and `paper` (model -> number).
    """
    asked = [p for p in predictions if p.view in TRAINED_VIEWS]
    parts = scores_by_part(asked)
    mean, bounds = statistics.mean(parts, benchmark.average), statistics.interval(parts, benchmark.average)
    seconds = sum(p.seconds for p in predictions)

    def shown(value: float | None) -> float | None:
        return None if value is None else round(benchmark.scale * value, 2)

    return {
        "title": benchmark.title,
        "score": shown(mean),
        "interval": [shown(bound) for bound in bounds] if bounds else None,
        "mean": mean,
        "items": len(asked),
        "read_by_rule": sum(p.extraction is not None and not p.judged for p in asked),
        "unparsed": sum(p.extraction is None for p in asked),
        "judged": sum(p.judged for p in asked),
        "cut": sum(p.cut for p in asked),
        "seconds": round(seconds, 4),
        "items_per_second": round(len(predictions) / seconds, 3) if seconds else None,
        "rule": rule,
        "max_new_tokens": limit,
        "prompt_hash": prompt_hash(asked),
        "parts": {
            part: {"score": shown(statistics.mean({part: values}, "items")), "items": len(values)}
            for part, values in parts.items()
        },
        "paper": {model: paper.NUMBERS[model][benchmark.paper] for model in paper.models_of(arch)
                  if benchmark.paper in paper.NUMBERS[model]},
    }  # fmt: skip


def scores_by_part(predictions: Sequence[Prediction]) -> dict[str, list[float]]:
    """Part -> scores of the answers that have one, parts in order of their names."""
    parts: dict[str, list[float]] = {}
    for prediction in sorted(predictions, key=lambda p: p.type):
        if prediction.score is not None:
            parts.setdefault(prediction.type, []).append(prediction.score)
    return parts


def prompt_hash(predictions: Iterable[Prediction]) -> str:
    """16 hexadecimal digits that change with any text of any prompt, whatever the order."""
    lines = sorted(f"{p.id} {p.prompt_digest}\n" for p in predictions)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def text_average(scores: Mapping[str, Mapping[str, Any]], backbone: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The mean of MMLU, GSM8K, MATH (or its 500) and HumanEval, and its change against the backbone's.

    Args:
        scores: of results.json.
        backbone: the same of the backbone alone; None = unknown.

    Returns:
        None unless all four are there.
    """
    own, other = _text_average(scores), _text_average(backbone or {})
    if own is None:
        return None
    return {"score": own, "backbone": other, "change": None if other is None else round(own - other, 2)}


def _text_average(scores: Mapping[str, Mapping[str, Any]]) -> float | None:
    numbers = {name: entry["score"] for name, entry in scores.items() if entry["score"] is not None}
    if "math" not in numbers and "math500" in numbers:
        numbers["math"] = numbers["math500"]
    average = paper.text_average(numbers)
    return None if average is None else round(average, 2)


# ---- the embedded benchmark's views, types and kinds


def accuracy(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Shares of right answers, 0 to 1; None for a view that nothing was asked in.

    Returns:
        `vision`, `vision_blind`, `vision_thumbnail` and `text`; `by_type` of all questions as the model was trained to
        see them; `by_kind` of those with an image (content, place); `blind_by_type` and `thumbnail_by_type`.
    """
    views = {view: [p for p in predictions if p.view == view] for view in (*IMAGE_VIEWS, TEXT_VIEW)}
    return {
        **{view: _share(asked) for view, asked in views.items()},
        "by_type": _by(views["vision"] + views["text"], lambda p: p.type),
        "by_kind": _by(views["vision"], lambda p: p.kind),
        "blind_by_type": _by(views["vision_blind"], lambda p: p.type),
        "thumbnail_by_type": _by(views["vision_thumbnail"], lambda p: p.type),
    }


def counts(predictions: Sequence[Prediction]) -> dict[str, int]:
    """Questions asked: with an image (`vision`), without (`text`), and of each type."""
    asked = [p for p in predictions if p.view in TRAINED_VIEWS]
    return dict(sorted(Counter([p.view for p in asked] + [f"type/{p.type}" for p in asked]).items()))


def _share(predictions: Sequence[Prediction]) -> float | None:
    return sum(p.correct for p in predictions) / len(predictions) if predictions else None


def _by(predictions: Sequence[Prediction], key: Callable[[Prediction], str]) -> dict[str, float | None]:
    return {name: _share([p for p in predictions if key(p) == name]) for name in sorted({key(p) for p in predictions})}


# ---- files


def write(
    out: pathlib.Path, summary: dict[str, Any], predictions: Iterable[Prediction], pages: list[dict[str, Any]]
) -> None:
    """Write all files at once; `results.json` last, so that where it stands the others are whole."""
    out.mkdir(parents=True, exist_ok=True)
    (out / RESULTS).unlink(missing_ok=True)
    journal.write(out / PREDICTIONS, predictions)
    write_summary(out, summary, pages)


def write_summary(out: pathlib.Path, summary: dict[str, Any], pages: list[dict[str, Any]]) -> None:
    """Write what comes after the predictions."""
    journal.write_atomically(out / PAGES, json.dumps(pages))
    journal.write_atomically(out / RESULTS, json.dumps(summary, indent=1) + "\n")


def read(out: pathlib.Path) -> tuple[dict[str, Any], list[Prediction], list[dict[str, Any]]]:
    """What `write` wrote.

    Raises:
        FileNotFoundError: no finished evaluation stands there.
        JsonError: a file of it is damaged; the message names it.
    """
    if not (out / RESULTS).exists():
        raise FileNotFoundError(f"{out}: no {RESULTS}; `python -m launch.evaluate --out={out}` writes it")
    summary, pages = json_text.load_object(out / RESULTS), json_text.load(out / PAGES)
    if not summary or not isinstance(summary.get("scores", {}), dict):
        raise json_text.JsonError(f"{out / RESULTS}: holds no evaluation; remove it and evaluate again")
    if not isinstance(pages, list):
        raise json_text.JsonError(f"{out / PAGES}: expected a list, got {type(pages).__name__}")
    return summary, journal.read(out / PREDICTIONS), pages
