"""What results.json says of one finished run."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping
from typing import Any

from nvlm_jax import json_text
from nvlm_jax.evaluation import results
from nvlm_jax.models.build import abstract_model, parameter_counts
from nvlm_jax.models.flops import step_flops
from nvlm_jax.sweeps.store import Run
from nvlm_jax.training.telemetry import read_metrics
from nvlm_jax.training.workdir import commit, versions

LAST = 10  # steps whose mean is "the loss"
GATES = ("attention_gate", "mlp_gate")


def collect(plan: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Settings, cost and scores of a run whose stages and evaluations are done.

    Accuracies are fractions, seconds wall-clock, `flops` those of full rows, `samples_per_second` the last stage's
    median, `loss` a trained token's over its last steps, `gates` tanh of each layer's at its end.
    """
    variant, stages = run.variant, run.stages
    metrics = {stage: read_metrics(run.workdir(stage)) for stage in stages}
    last = metrics[list(stages)[-1]]
    found = {name: results.read(run.path / name)[0] for name in plan["evaluations"]}
    first = next(iter(found.values()), {})
    params = first.get("params") or parameter_counts(abstract_model(list(stages.values())[-1].model))
    record = plan["variants"].get(variant.name, {})
    trained = _run_record(run, list(stages)[-1])
    return {
        "sweep": plan["name"],
        "variant": variant.name,
        "seed": run.seed,
        "argument": variant.argument,
        "settings": record.get("settings", {}),
        "config_hash": record.get("config_hash", ""),
        "commit": trained.get("commit") or commit(),
        "versions": trained.get("versions") or versions(),
        "datasets": {stage: _run_record(run, stage).get("datasets", {}) for stage in stages},
        "device": trained.get("device") or first.get("device") or platform.processor() or platform.machine(),
        "params": params,
        "parameters": sum(params.values()),
        "trained_parameters": _trained(params, run),
        "steps": {stage: config.train.steps for stage, config in stages.items()},
        "flops": sum(config.train.steps * sum(step_flops(config).values()) for config in stages.values()),
        "samples": {stage: sum(row["samples"] for row in rows) for stage, rows in metrics.items()},
        "train_seconds": {stage: round(sum(row["seconds"] for row in rows), 2) for stage, rows in metrics.items()},
        "seconds": round(sum(row["seconds"] for rows in metrics.values() for row in rows), 2),
        "samples_per_second": statistics.median(row["samples_per_second"] for row in last),
        "loss": statistics.fmean(row["loss"] for row in last[-LAST:]),
        "loss_by_group": {key[5:]: value for key, value in last[-1].items() if key.startswith("loss/")},
        "gates": _gates(last),
        "accuracy": first.get("accuracy", {}),
        "evaluations": {
            name: {key: summary[key] for key in ("accuracy", "counts", "checkpoint_hash") if key in summary}
            | {"scores": {b: entry["score"] for b, entry in summary.get("scores", {}).items()}}
            for name, summary in found.items()
        },
    }


def _run_record(run: Run, stage: str) -> dict[str, Any]:
    """What the stage noted as it began: it may have been on another device, by other code."""
    record = run.workdir(stage) / "config.json"
    return json_text.load_object(record) if record.exists() else {}


def value(found: Mapping[str, Any] | None, metric: str) -> float | None:
    """The number at a dotted path; with a minus in front its negative; of "a - b" the difference. None without one.

    >>> value({"accuracy": {"by_type": {"word": 0.5}}}, "accuracy.by_type.word")
    0.5
    """
    if " - " in metric:
        first, second = (value(found, part) for part in metric.split(" - "))
        return None if first is None or second is None else first - second
    sign, path = (-1, metric[1:]) if metric.startswith("-") else (1, metric)
    place: Any = found
    for part in path.split("."):
        place = place.get(part) if isinstance(place, Mapping) else None
    return None if place is None or isinstance(place, (Mapping, str, list)) else sign * float(place)


def _trained(params: Mapping[str, int], run: Run) -> int:
    parts = list(run.stages.values())[-1].train.trainable
    return sum(params.get(part, 0) for part in parts)


def _gates(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    if not rows:
        return {}
    found = {}
    for gate in GATES:
        prefix = f"tanh_gate/{gate}/"
        layers = sorted((int(key[len(prefix) :]), v) for key, v in rows[-1].items() if key.startswith(prefix))
        if layers:
            found[gate] = [v for _, v in layers]
    return found
