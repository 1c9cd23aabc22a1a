"""Whether a run's results.json will have the number that METRIC names: said before anything is trained."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from nvlm_jax.models.nvlm import PARTS

NUMBERS = ("loss", "samples_per_second", "seconds", "flops", "parameters", "trained_parameters", "seed")
VIEWS = ("vision", "vision_blind", "vision_thumbnail", "text")
KINDS = ("by_type", "by_kind", "blind_by_type", "thumbnail_by_type")
EMBEDDED = "embedded"


def metric_fault(metric: str, stages: Sequence[str], evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    """What is wrong with a METRIC, with the nearest that would be right; empty where it may be there.

    Names that only the data knows (a question's type, a report group) are taken as they are.

    >>> metric_fault("accuracy.vison", ["sft"], {"evaluation": {}})
    "METRIC: results.json will have no 'accuracy.vison'; did you mean accuracy.vision?"

    Args:
        metric: as in the sweep file; `a - b` and a minus in front are read.
        stages: of the sweep file.
        evaluations: of the sweep file.
    """
    known = _names(stages, evaluations)
    for path in (part.removeprefix("-") for part in metric.split(" - ")):
        if path in known or any(name.endswith(".") and path.startswith(name) and path != name for name in known):
            continue
        shown = [name + "..." if name.endswith(".") else name for name in known]
        near = (difflib.get_close_matches(path, shown, n=1, cutoff=0.6) or [", ".join(shown)])[0]
        return f"METRIC: results.json will have no {path!r}; did you mean {near}?"
    return ""


def _names(stages: Sequence[str], evaluations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Dotted names of numbers; one that ends in a dot stands for all below it."""
    names = [*NUMBERS, "loss_by_group.", *(f"params.{part}" for part in PARTS)]
    names += [f"{key}.{stage}" for key in ("steps", "samples", "train_seconds") for stage in stages]
    for number, (name, flags) in enumerate(evaluations.items()):
        own = _of_evaluation(flags)
        names += [each for each in own if number == 0 and each.startswith("accuracy.")]
        names += [f"evaluations.{name}.{each}" for each in own]
    return names


def _of_evaluation(flags: Mapping[str, Any]) -> list[str]:
    asked = _list(flags.get("benchmarks", EMBEDDED))
    names = ["scores."] if "all" in asked else [f"scores.{name}" for name in asked]
    if EMBEDDED in asked or "all" in asked:
        views = [view for view in VIEWS if view == "text" or view in _list(flags.get("views", VIEWS))]
        names += [*(f"accuracy.{view}" for view in views), *(f"accuracy.{kind}." for kind in KINDS), "counts."]
    return names


def _list(given: Any) -> list[str]:
    return given.split(",") if isinstance(given, str) else list(map(str, given))
