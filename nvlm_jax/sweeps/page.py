"""The report of a sweep: one HTML page that holds everything it shows, Plotly's script included.

Text goes through an escaping template; what a data set or a log says cannot become markup.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from plotly.offline import get_plotlyjs

from nvlm_jax.evaluation import results
from nvlm_jax.sweeps import charts, compare
from nvlm_jax.sweeps.record import value
from nvlm_jax.sweeps.store import FINISHED, Run
from nvlm_jax.webpage import template

TEMPLATE = pathlib.Path(__file__).parent / "templates" / "report.html.j2"


@dataclasses.dataclass
class Line:
    """One variant in the table."""

    name: str
    base: bool
    found: list[Mapping[str, Any]]  # results of its finished seeds
    mean: compare.Mean | None
    difference: compare.Difference | None
    problem: str = ""  # why there is no difference

    def average(self, metric: str) -> float | None:
        """Mean of another number over the finished seeds."""
        numbers = [number for item in self.found if (number := value(item, metric)) is not None]
        return sum(numbers) / len(numbers) if numbers else None


def lines(plan: Mapping[str, Any], runs: Sequence[Run]) -> list[Line]:
    """Every variant with its mean and its corrected difference from the base."""
    names = list(dict.fromkeys(run.variant.name for run in runs))
    base = next(run.variant.name for run in runs if run.variant.base)
    own = {name: [run for run in runs if run.variant.name == name] for name in names}
    values = {name: _values(own[name], plan["metric"]) for name in names}
    differences: dict[str, compare.Difference | None] = {}
    problems: dict[str, str] = {}
    for name in names:
        if name == base:
            continue
        try:
            _check_planned(own, values, base, name)
            found = compare.difference(values[base], values[name], (base, name))
            if found.seeds == 1:
                found = _by_questions(plan, own[base], own[name]) or found
            differences[name] = found
        except compare.MissingSeed as error:
            problems[name] = str(error)
    corrected = compare.corrected(differences)
    return [
        Line(
            name,
            name == base,
            [run.whole_results() for run in own[name] if run.whole_results()],
            compare.mean(list(values[name].values())) if values[name] else None,
            corrected.get(name),
            problems.get(name, ""),
        )
        for name in names
    ]


def write(path: pathlib.Path, plan: Mapping[str, Any], runs: Sequence[Run]) -> list[str]:
    """Write the page; what stood in the way of a comparison, one line each.

    Raises:
        ValueError: no run of the sweep is finished.
    """
    if not any(run.whole_results() for run in runs):
        raise ValueError(f"{plan['name']}: no run is finished; run launch.sweep first")
    table = lines(plan, runs)
    finished = [item for line in table for item in line.found]
    template.write(
        path,
        TEMPLATE,
        plan=plan,
        table=table,
        percent_metric="accuracy" in plan["metric"],
        groups=[
            ("Accuracy by question type", charts.types(table), _shares(table, "by_type")),
            ("Accuracy by kind of question", "", _shares(table, "by_kind")),
        ],
        pareto=[charts.pareto(table, plan["metric"], cost) for cost in charts.COSTS],
        curves=charts.curves(runs),
        gates=charts.gates(table),
        changed=[
            {"name": name, "differences": record["differences"]}
            for name, record in plan["variants"].items()
            if record["differences"]
        ],
        states=[(run, run.state()) for run in runs if run.state()["status"] != FINISHED],
        commits=sorted({str(item["commit"]) for item in finished}),
        devices=sorted({item["device"] for item in finished}),
        script=get_plotlyjs(),
    )
    return [line.problem for line in table if line.problem]


def _values(runs: Sequence[Run], metric: str) -> dict[int, float]:
    found = {run.seed: value(run.whole_results(), metric) for run in runs}
    return {seed: figure for seed, figure in found.items() if figure is not None}


def _check_planned(
    own: Mapping[str, Sequence[Run]], values: Mapping[str, Mapping[int, float]], base: str, name: str
) -> None:
    """Raise MissingSeed where a seed that the plan has did not finish in either."""
    states = {n: {run.seed: run.state()["status"] for run in own[n]} for n in (base, name)}
    both = sorted(set(states[base]) & set(states[name]))
    lost = [f"seed {s} of {n} is missing: {states[n][s]}" for n in (base, name) for s in both if s not in values[n]]
    if lost:
        raise compare.MissingSeed("; ".join(lost))


def _by_questions(plan: Mapping[str, Any], base: Sequence[Run], other: Sequence[Run]) -> compare.Difference | None:
    """For one seed and a share of right answers to questions with an image."""
    if plan["metric"] != "accuracy.vision" or not plan["evaluations"]:
        return None
    first = next(iter(plan["evaluations"]))
    answers = []
    for runs in (base, other):
        predictions = results.read(runs[0].path / first)[1]
        answers.append({p.id: float(p.correct) for p in predictions if p.view == "vision"})
    return compare.by_questions(*answers)


def _shares(table: Sequence[Line], key: str) -> dict[str, list[float | None]]:
    names = sorted({name for line in table for item in line.found for name in item["accuracy"].get(key, {})})
    return {name: [line.average(f"accuracy.{key}.{name}") for line in table] for name in names}
