"""Predictions -> accuracies, and the files of one evaluation.

OUT/results.json        one model: accuracies as fractions (0.85, not 85), parameters, checkpoint
OUT/predictions.jsonl   one `Prediction` a line
OUT/pages.json          some pages with their tiles and tags, for the report
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from nvlm_jax.evaluation.question import Prediction
from nvlm_jax.evaluation.runner import IMAGE_VIEWS, TEXT_VIEW

RESULTS, PREDICTIONS, PAGES = "results.json", "predictions.jsonl", "pages.json"


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
    trained_view = [p for p in predictions if p.view in ("vision", "text")]
    names = [p.view for p in trained_view] + [f"type/{p.type}" for p in trained_view]
    return {name: names.count(name) for name in sorted(set(names))}


def write(
    out: pathlib.Path, summary: dict[str, Any], predictions: Iterable[Prediction], pages: list[dict[str, Any]]
) -> None:
    """Write the three files; `results.json` last, so that where it stands the others are whole."""
    out.mkdir(parents=True, exist_ok=True)
    (out / RESULTS).unlink(missing_ok=True)
    lines = (json.dumps(dataclasses.asdict(p), ensure_ascii=False) + "\n" for p in predictions)
    (out / PREDICTIONS).write_text("".join(lines))
    (out / PAGES).write_text(json.dumps(pages))
    partial = out / f".{RESULTS}.partial"
    partial.write_text(json.dumps(summary, indent=1) + "\n")
    partial.rename(out / RESULTS)


def read(out: pathlib.Path) -> tuple[dict[str, Any], list[Prediction], list[dict[str, Any]]]:
    """What `write` wrote.

    Raises:
        FileNotFoundError: no finished evaluation stands there.
    """
    if not (out / RESULTS).exists():
        raise FileNotFoundError(f"{out}: no {RESULTS}; `python -m launch.evaluate --out={out}` writes it")
    lines = (out / PREDICTIONS).read_text().splitlines()
    predictions = [Prediction(**json.loads(line)) for line in lines]
    return json.loads((out / RESULTS).read_text()), predictions, json.loads((out / PAGES).read_text())


def _share(predictions: Sequence[Prediction]) -> float | None:
    return sum(p.correct for p in predictions) / len(predictions) if predictions else None


def _by(predictions: Sequence[Prediction], key: Callable[[Prediction], str]) -> dict[str, float | None]:
    return {name: _share([p for p in predictions if key(p) == name]) for name in sorted({key(p) for p in predictions})}
