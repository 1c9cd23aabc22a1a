"""The report: one HTML page that holds everything it shows, for one model or several side by side.

The page is drawn by `report.html.j2` with every text escaped: what a model or a data set says cannot become markup.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from nvlm_jax.evaluation.chart import Chart, line_chart
from nvlm_jax.evaluation.question import Prediction

TEMPLATE = "report.html.j2"
MISTAKES = 12  # shown of each model
TEXTS = 8  # text-only questions shown


@dataclasses.dataclass(frozen=True)
class Run:
    """One evaluated model."""

    label: str
    results: Mapping[str, Any]  # of results.json
    predictions: Sequence[Prediction]
    pages: Sequence[Mapping[str, Any]]  # of pages.json
    training: Mapping[str, Sequence[Mapping[str, Any]]] = dataclasses.field(default_factory=dict)  # stage -> metrics


def write_report(path: pathlib.Path, runs: Sequence[Run], title: str = "NVLM evaluation") -> None:
    """Write the page. It makes no request and runs no script."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "thousands": lambda count: f"{count:,}"}
    page = environment.get_template(TEMPLATE).render(
        title=title,
        runs=runs,
        types=_names(runs, "by_type"),
        kinds=_names(runs, "by_kind"),
        parts=list(dict.fromkeys(part for run in runs for part in run.results["params"])),
        charts=_charts(runs),
        pages=_pages(runs),
        texts=_rows([p for p in runs[0].predictions if p.view == "text"][:TEXTS], runs),
        mistakes=[
            (run, [p for p in run.predictions if p.view == "vision" and not p.correct][:MISTAKES]) for run in runs
        ],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none where there is no such file. A line cut short by a crash is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def percent(share: float | None) -> str:
    """0.853 -> 85.3; a dash where nothing was asked."""
    return "–" if share is None else f"{100 * share:.1f}"


def _names(runs: Sequence[Run], key: str) -> list[str]:
    return sorted({name for run in runs for name in run.results["accuracy"][key]})


def _charts(runs: Sequence[Run]) -> list[Chart]:
    """Loss of each stage, all models in one chart."""
    stages = dict.fromkeys(stage for run in runs for stage in run.training)
    charts = []
    for stage in stages:
        series = {
            run.label: [(row["step"], row["loss"]) for row in run.training.get(stage, ()) if "loss" in row]
            for run in runs
        }
        charts.append(line_chart(f"{stage}: loss of a trained token by step", series))
    return [chart for chart in charts if chart]


def _pages(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every page that some model chose, once, with what each model answered about it."""
    pages = {page["id"]: page for run in runs for page in run.pages}
    asked = [p for p in runs[0].predictions if p.view == "vision"]
    return [dict(page, rows=_rows([p for p in asked if p.sample == id], runs)) for id, page in pages.items()]


def _rows(asked: Sequence[Prediction], runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For each question each model's prediction and, where there is one, its prediction with blanked images."""
    answers = {(i, p.view, p.id): p for i, run in enumerate(runs) for p in run.predictions}
    return [
        {
            "question": p.prompt.replace("<image>\n", ""),
            "type": p.type,
            "answer": p.answer,
            "outputs": [answers.get((i, p.view, p.id)) for i in range(len(runs))],
            "blind": [answers.get((i, "vision_blind", p.id)) for i in range(len(runs))],
        }
        for p in asked
    ]
