"""The report: one HTML page that holds everything it shows, for one model or several side by side.

The page is drawn by `report.html.j2` with every text escaped: what a model or a data set says cannot become markup.
"""

from __future__ import annotations

import dataclasses
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


def percent(share: float | None) -> str:
    """0.853 -> 85.3; a dash where nothing was asked."""
    return "–" if share is None else f"{100 * share:.1f}"


def _names(runs: Sequence[Run], key: str) -> list[str]:
    return sorted({name for run in runs for name in run.results["accuracy"][key]})


def _charts(runs: Sequence[Run]) -> list[Chart]:
    """The loss of each stage, all models in one chart; then the gates of each model that has some."""
    found = []
    for stage in dict.fromkeys(stage for run in runs for stage in run.training):
        series = {run.label: _series(run.training.get(stage, ()), "loss") for run in runs}
        found.append(line_chart(f"{stage}: loss of a trained token by step", series))
    for run in runs:
        for stage, rows in run.training.items():
            for gate in sorted({key for key in (rows[-1] if rows else ()) if key.startswith("tanh_gate/")}):
                _, name, layer = gate.split("/")
                if layer == "0":
                    layers = sorted(key for key in rows[-1] if key.startswith(f"tanh_gate/{name}/"))
                    series = {key.rsplit("/")[-1]: _series(rows, key) for key in layers}
                    title = f"{run.label}, {stage}: tanh({name.replace('_', ' ')}) of each layer by step"
                    found.append(line_chart(title, series))
    return [chart for chart in found if chart]


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(row["step"], row[key]) for row in rows if key in row]


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
