"""The plan and the state of a sweep as tables for a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from nvlm_jax.models.build import abstract_model, parameter_counts
from nvlm_jax.number_format import flops
from nvlm_jax.sweeps.budgets import planned_flops
from nvlm_jax.sweeps.record import value
from nvlm_jax.sweeps.store import DAMAGED, FAILED, RUNNING, STOPPED, WAITING, Run
from nvlm_jax.sweeps.sweep_file import Sweep, Variant
from nvlm_jax.sweeps.variants import differences
from nvlm_jax.training.telemetry import METRICS, read_metrics

SHOWN = 6  # differences of a variant that the plan's table lists
RECENT = 20  # steps whose mean time gives the ETA


def plan_table(sweep: Sweep, hours: Mapping[str, float] | None = None) -> Table:
    """A row for each variant: seeds, steps, parameters, planned FLOPs of one seed, differences from the base.

    Args:
        sweep: what will run.
        hours: by variant, chip-hours of one seed; a column more.
    """
    seeds = sum(len(variant.seeds) for variant in sweep.variants)
    table = Table(title=f"{sweep.name}: {len(sweep.variants)} variants, {seeds} runs, matched: {sweep.match}")
    named = ["variant", "seeds", *(f"{stage}, steps" for stage in sweep.stages), "parameters", "FLOPs a seed"]
    for name in [*named, *(["chip-hours a seed"] if hours else [])]:
        table.add_column(name, justify="left" if name == "variant" else "right")
    table.add_column("differs from the base in", overflow="fold")
    for variant in sweep.variants:
        steps = [f"{config.train.steps:,}" for config in variant.stages.values()]
        cost = [flops(planned_flops(variant)), *([f"{hours[variant.name]:,.3g}"] if hours else [])]
        name = f"{variant.name} (base)" if variant.base else variant.name
        table.add_row(
            name, _numbers(variant.seeds), *steps, f"{parameters(variant):,}", *cost, _changes(sweep.base, variant)
        )
    table.caption = f"all seeds: {flops(sum(len(v.seeds) * planned_flops(v) for v in sweep.variants))}"
    if hours:
        table.caption += f", {sum(len(v.seeds) * hours[v.name] for v in sweep.variants):,.3g} chip-hours"
    return table


def parameters(variant: Variant) -> int:
    """Parameters of the last stage's model."""
    return sum(parameter_counts(abstract_model(list(variant.stages.values())[-1].model)).values())


def status_table(plan: Mapping[str, Any], runs: Sequence[Run]) -> Table:
    """A row for each run: its state, progress, time left of the stage it is in, score or last loss."""
    metric = plan["metric"]
    table = Table(title=f"{plan['name']}: {_counts(runs)}", caption=_best(plan, runs))
    for name in ("variant", "seed", "state", "stage", "steps", "ETA", metric, "loss"):
        table.add_column(name, justify="left" if name in ("variant", "state", "stage") else "right")
    for run in runs:
        state, found = run.state(), run.whole_results()
        score = value(found, metric)
        progress, left, loss = _progress(run, state)
        if found:
            progress, left, loss = "", "", f"{found['loss']:.3f}"
        shown = "" if score is None else f"{score:.4g}"
        stage = "" if found else state.get("stage", "")
        table.add_row(run.variant.name, str(run.seed), state["status"], stage, progress, left, shown, loss)
    return table


def _counts(runs: Sequence[Run]) -> str:
    statuses = [run.state()["status"] for run in runs]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    return (counts or "nothing planned") + _left(runs)


def _left(runs: Sequence[Run]) -> str:
    """From the finished runs' mean time; one run at a time."""
    spent = [sum(run.state().get("seconds", {}).values()) for run in runs if run.whole_results()]
    open_ones = sum(run.state()["status"] in (WAITING, RUNNING, STOPPED) for run in runs)
    if not spent or not open_ones:
        return ""
    return f"; about {statistics.fmean(spent) * open_ones / 60:.0f} minutes of runs left"


def _best(plan: Mapping[str, Any], runs: Sequence[Run]) -> str:
    scores: dict[str, list[float]] = {}
    for run in runs:
        if (score := value(run.whole_results(), plan["metric"])) is not None:
            scores.setdefault(run.variant.name, []).append(score)
    if not scores:
        return "no variant has a finished run"
    best = max(scores, key=lambda name: statistics.fmean(scores[name]))
    mean, count = statistics.fmean(scores[best]), len(scores[best])
    return f"best so far: {best}, {plan['metric']} {mean:.4g} (mean of {count} seed{'s' * (count > 1)})"


def _progress(run: Run, state: Mapping[str, Any]) -> tuple[str, str, str]:
    stage = state.get("stage", "")
    if state["status"] == WAITING or stage not in run.stages or not (run.workdir(stage) / METRICS).exists():
        return "", "", ""
    rows, steps = read_metrics(run.workdir(stage)), run.stages[stage].train.steps
    if not rows:
        return f"0/{steps}", "", ""
    seconds = statistics.fmean(row["seconds"] for row in rows[-RECENT:]) * (steps - rows[-1]["step"])
    left = f"{int(seconds) // 60}:{int(seconds) % 60:02d}" if state["status"] == RUNNING else ""
    return f"{rows[-1]['step']}/{steps}", left, f"{rows[-1]['loss']:.3f}"


def failures(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(label, last lines) of each run that failed or whose results are damaged."""
    states = [(run.label, run.state()) for run in runs]
    return [(label, state.get("error", "")) for label, state in states if state["status"] in (FAILED, DAMAGED)]


def _changes(base: Variant, variant: Variant) -> str:
    found = [f"{key}: {old!r} -> {new!r}" for key, (old, new) in differences(base, variant).items()]
    more = [f"... {len(found) - SHOWN} more, in sweep.json"] if len(found) > SHOWN else []
    return "\n".join(found[:SHOWN] + more)


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
