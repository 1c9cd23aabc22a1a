"""The report: one HTML page that holds everything it shows, for one model or several side by side.

The page is drawn by `report.html.j2` with every text escaped: what a model or a data set says cannot become markup.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nvlm_jax.evaluation import examples, paper, results
from nvlm_jax.evaluation.chart import Chart, line_chart
from nvlm_jax.evaluation.compare import Comparison
from nvlm_jax.evaluation.question import Prediction
from nvlm_jax.training.telemetry import METRICS, read_metrics
from nvlm_jax.webpage import template

TEMPLATE = pathlib.Path(__file__).with_name("report.html.j2")
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
    embedded = [run for run in runs if "accuracy" in run.results]  # generated pages have sections of their own
    benchmarks = _benchmarks(runs)
    template.write(
        path,
        TEMPLATE,
        title=title,
        runs=runs,
        embedded=embedded,
        benchmarks=benchmarks,
        paper_models=_paper_models(runs, benchmarks),
        paper_average=lambda model: paper.text_average(paper.NUMBERS[model]),
        averages=[run.results.get("text_average") for run in runs],
        comparisons=comparisons,
        shown=[{"label": run.label, "examples": examples} for run in runs if (examples := _shown(run))],
        views=_views(embedded),
        types=_names(embedded, "by_type"),
        kinds=_names(embedded, "by_kind"),
        parameters=list(dict.fromkeys(part for run in runs for part in run.results["params"])),
        charts=_charts(runs),
        pages=_pages(embedded),
        texts=_rows(_asked(embedded, "text")[:TEXTS], embedded),
        mistakes=[{"label": run.label, "wrong": _mistakes(run)} for run in embedded],
    )


def _paper_models(runs: Sequence[Run], benchmarks: Sequence[Mapping[str, Any]]) -> list[str]:
    """The paper's models of these architectures that have a number of some benchmark here."""
    models = dict.fromkeys(model for run in runs for model in paper.models_of(run.results.get("arch", "")))
    return [model for model in models if any(model in row["paper"] for row in benchmarks)]


def _views(embedded: Sequence[Run]) -> dict[str, bool]:
    """Which of the views of the embedded pages some run was asked in."""
    keys = {"blind": "vision_blind", "thumbnail": "vision_thumbnail", "text": "text"}
    asked = [run.results["accuracy"] for run in embedded]
    return {name: any(accuracy.get(key) is not None for accuracy in asked) for name, key in keys.items()}


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


def _mistakes(run: Run) -> list[Prediction]:
    return [p for p in _asked([run], "vision") if not p.correct][:MISTAKES]


def _charts(runs: Sequence[Run]) -> dict[str, list[Chart]]:
    """By the name of their group: the loss of each stage, all models in one chart; then each model's gates."""
    groups: dict[str, list[Chart | None]] = {"loss": []}
    for stage in dict.fromkeys(stage for run in runs for stage in run.training):
        series = {run.label: _series(run.training.get(stage, ()), "loss") for run in runs}
        groups["loss"].append(line_chart(f"{stage}: loss of a trained token by step", series))
    for run in runs:
        groups[f"{run.label}: gates"] = [c for stage, rows in run.training.items() for c in _gates(run, stage, rows)]
    kept = {name: [chart for chart in charts if chart] for name, charts in groups.items()}
    return {name: charts for name, charts in kept.items() if charts}


def _gates(run: Run, stage: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[Chart | None]:
    """A chart for each kind of gate, a line for each layer."""
    keys = [key for key in (rows[-1] if rows else ()) if key.startswith("tanh_gate/")]
    for name in sorted({key.split("/")[1] for key in keys}):
        layers = sorted((key for key in keys if key.split("/")[1] == name), key=lambda key: int(key.split("/")[2]))
        series = {key.rsplit("/")[-1]: _series(rows, key) for key in layers}
        yield line_chart(f"{run.label}, {stage}: tanh({name.replace('_', ' ')}) of each layer by step", series)


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
