"""The report: one HTML page that holds everything it shows, for one model or several side by side.

The page is drawn by `report.html.j2` with every text escaped: what a model or a data set says cannot become markup.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from nvlm_jax.evaluation import examples, paper, results
from nvlm_jax.evaluation.chart import Chart, line_chart
from nvlm_jax.evaluation.compare import Comparison
from nvlm_jax.evaluation.question import Prediction
from nvlm_jax.training.telemetry import METRICS, read_metrics

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
    examples: Sequence[Mapping[str, Any]] = ()  # of examples.jsonl


def load_run(out: pathlib.Path, label: str, workdir: pathlib.Path | None = None) -> Run:
    """The evaluation that stands in `out`, with the metrics of the run in `workdir`.

    Raises:
        FileNotFoundError: no finished evaluation stands there.
    """
    summary, predictions, pages = results.read(out)
    training = {"training": read_metrics(workdir)} if workdir and (workdir / METRICS).exists() else {}
    return Run(label, summary, predictions, pages, training, examples.read(out))


def write_report(
    path: pathlib.Path,
    runs: Sequence[Run],
    title: str = "NVLM evaluation",
    comparisons: Sequence[Comparison] = (),
) -> None:
    """Write the page. It makes no request and runs no script."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "thousands": lambda count: f"{count:,}"}
    embedded = [run for run in runs if "accuracy" in run.results]  # generated pages have sections of their own
    page = environment.get_template(TEMPLATE).render(
        title=title,
        runs=runs,
        embedded=embedded,
        benchmarks=_benchmarks(runs),
        paper_models=list(dict.fromkeys(m for run in runs for m in paper.models_of(run.results.get("arch", "")))),
        averages=[run.results.get("text_average") for run in runs],
        comparisons=comparisons,
        shown=[(run, _shown(run)) for run in runs],
        types=_names(embedded, "by_type"),
        kinds=_names(embedded, "by_kind"),
        parts=list(dict.fromkeys(part for run in runs for part in run.results["params"])),
        charts=_charts(runs),
        pages=_pages(embedded),
        texts=_rows(_asked(embedded, "text")[:TEXTS], embedded),
        mistakes=[(run, [p for p in _asked([run], "vision") if not p.correct][:MISTAKES]) for run in embedded],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def percent(share: float | None) -> str:
    """0.853 -> 85.3; a dash where nothing was asked."""
    return "–" if share is None else f"{100 * share:.1f}"


def _names(runs: Sequence[Run], key: str) -> list[str]:
    return sorted({name for run in runs for name in run.results.get("accuracy", {}).get(key, ())})


def _asked(runs: Sequence[Run], view: str) -> list[Prediction]:
    """What the first of the runs was asked of the embedded pages in a view."""
    return [p for run in runs[:1] for p in run.predictions if p.benchmark == "embedded" and p.view == view]


def _benchmarks(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each benchmark: its title, each run's entry, the paper's numbers and the parts."""
    names = dict.fromkeys(name for run in runs for name in run.results.get("scores", {}) if name != "embedded")
    rows = []
    for name in names:
        entries = [run.results.get("scores", {}).get(name) for run in runs]
        there = [entry for entry in entries if entry]
        parts = list(dict.fromkeys(part for entry in there for part in entry["parts"]))
        numbers = {model: number for entry in there for model, number in entry["paper"].items()}
        rows.append({"name": name, "title": there[0]["title"], "entries": entries, "parts": parts, "paper": numbers})
    return rows


def _shown(run: Run) -> list[dict[str, Any]]:
    """The run's examples with what was asked and answered."""
    answers = {(p.benchmark, p.id): p for p in run.predictions if p.view in results.TRAINED_VIEWS}
    keys = [(example, (example["benchmark"], example["id"])) for example in run.examples]
    return [dict(example, prediction=answers[key]) for example, key in keys if key in answers]


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
    asked = _asked(runs, "vision")
    return [dict(page, rows=_rows([p for p in asked if p.sample == id], runs)) for id, page in pages.items()]


def _rows(asked: Sequence[Prediction], runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For each question each model's prediction and, where there is one, its prediction with blanked images."""
    answers = {(i, p.view, p.id): p for i, run in enumerate(runs) for p in run.predictions if p.benchmark == "embedded"}
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
