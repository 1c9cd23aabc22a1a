"""Claims of the paper, re-tested in miniature: what a sweep has to show, the verdict, and the page of all verdicts.

A claim is a few comparisons, each of two numbers over the same seeds. With the 95 % interval of their difference:

    greater   holds: the interval lies above 0; does not hold: it lies below the smallest effect of interest
    kept      holds: the interval lies above minus that effect; does not hold: it lies below it
    equal     holds: no difference at all, with any seed; does not hold otherwise

and undecided else, as with fewer than five seeds, where both are at the floor of what is measured, or where all seeds
differ by the same. A claim holds if all its needed comparisons do: each must pass by itself, so nothing has to be
corrected for their number. It does not hold as soon as one does not.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from nvlm_jax import json_text
from nvlm_jax.sweeps import compare
from nvlm_jax.sweeps.record import value
from nvlm_jax.sweeps.store import FINISHED, Run
from nvlm_jax.sweeps.texts import text_environment
from nvlm_jax.sweeps.variants import digest

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided at this size"
KINDS = ("greater", "kept", "equal")
TEMPLATE = "claims.md.j2"
MINIMUM_SEEDS = 5


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One number against another: `other` less `base`, or their ratio's logarithm for speeds."""

    label: str
    base: str  # name of a variant
    other: str
    metric: str = "accuracy.vision"  # of results.json, dotted; a minus in front where less is better
    base_metric: str = ""  # where the base's number stands elsewhere
    kind: str = "greater"
    margin: float = 0.01  # the smallest effect of interest
    ratio: bool = False
    needed: bool = True  # counts for the verdict
    floor: float = 0.0  # where both means are nearer to 0 than this, both have all there is to learn
    paper: str = ""  # its numbers


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a claim's sweep is to decide."""

    number: int
    title: str
    statement: str
    comparisons: tuple[Comparison, ...]
    note: str = ""  # what is different here from the paper


def from_mapping(mapping: Mapping[str, Any]) -> Claim:
    """A claim as sweep.json holds it."""
    comparisons = tuple(Comparison(**item) for item in mapping["comparisons"])
    return Claim(**{**mapping, "comparisons": comparisons})


def decide(plan: Mapping[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    """The claim's comparisons and verdict, with all that it takes to repeat them: what docs/claims/ holds.

    Raises:
        MissingSeed: a comparison whose variants lack a seed; those that failed or are not finished are named.
        ValueError: the sweep is no claim, was a trial, or a comparison names no variant of it.
    """
    if not plan.get("claim"):
        raise ValueError(f"{plan['name']}: is no claim; its file has no CLAIM")
    if plan["scale"] != 1.0:
        raise ValueError(f"{plan['name']}: was a trial with --steps_scale={plan['scale']}, which decides nothing")
    claim = from_mapping(plan["claim"])
    found = [_compare(comparison, runs) for comparison in claim.comparisons]
    needed = [item for item in found if item["needed"]]
    finished = [run.results() for run in runs if run.state()["status"] == FINISHED]
    return {
        "claim": claim.number,
        "title": claim.title,
        "statement": claim.statement,
        "note": claim.note,
        "verdict": combine([item["verdict"] for item in needed]),
        "comparisons": found,
        "variants": _variants(plan, runs),
        "seconds": round(sum(item["seconds"] for item in finished), 1),
        "commits": sorted({str(item["commit"]) for item in finished}),
        "device": sorted({item["device"] for item in finished}),
        "ran": [{key: item[key] for key in ("variant", "seed", "device", "commit", "seconds")} for item in finished],
        "versions": finished[0]["versions"],
        "command": f"make claims CLAIM={claim.number}",
    }


def combine(verdicts: Sequence[str]) -> str:
    """The verdict of all needed comparisons together."""
    if FAILS in verdicts:
        return FAILS
    return HOLDS if verdicts and set(verdicts) == {HOLDS} else UNDECIDED


def verdict(kind: str, gains: Sequence[float], found: compare.Difference, margin: float) -> str:
    """Of one comparison; see the top of this file."""
    if kind == "equal":
        return HOLDS if not any(gains) else FAILS
    if found.low is None or found.high is None:
        return UNDECIDED
    if kind == "kept":
        return HOLDS if found.low > -margin else FAILS if found.high < -margin else UNDECIDED
    return HOLDS if found.low > 0 else FAILS if found.high < margin else UNDECIDED


def _seeds_needed(kind: str, gains: Sequence[float], margin: float) -> int | None:
    """Seeds that would decide an effect and a spread like these, either way; None if that is out of reach."""
    if kind == "equal" or len(gains) < 2:
        return None
    effect = statistics.fmean(gains)
    distance = abs(effect + margin) if kind == "kept" else max(effect, margin - effect)  # to an edge that decides
    return compare.seeds_needed(distance, statistics.stdev(gains))


def _compare(c: Comparison, runs: Sequence[Run]) -> dict[str, Any]:
    names = {run.variant.name for run in runs}
    if lost := [name for name in (c.base, c.other) if name not in names]:
        raise ValueError(f"comparison {c.label!r}: no variant {', '.join(lost)}; there are {', '.join(sorted(names))}")
    base = _values(runs, c.base, c.base_metric or c.metric)
    other = _values(runs, c.other, c.metric)
    planned = {run.seed for run in runs if run.variant.name in (c.base, c.other)}
    for name, values in ((c.base, base), (c.other, other)):
        if lacking := sorted(planned - set(values)):
            states = [f"{s} ({_state(runs, name, s)})" for s in lacking]
            raise compare.MissingSeed(f"comparison {c.label!r}: seed {', '.join(states)} of {name} has no result")
    if c.ratio:
        base, other = ({s: math.log(v) for s, v in values.items()} for values in (base, other))
    found = compare.difference(base, other, (c.base, c.other))
    at_floor = all(abs(statistics.fmean(values.values())) < c.floor for values in (base, other))
    gains = [other[seed] - base[seed] for seed in sorted(base)]
    shown = math.exp if c.ratio else float
    return dataclasses.asdict(c) | {
        "seeds": sorted(base),
        "base_values": [shown(base[seed]) for seed in sorted(base)],
        "other_values": [shown(other[seed]) for seed in sorted(base)],
        "effect": shown(found.mean),
        "low": None if found.low is None else shown(found.low),
        "high": None if found.high is None else shown(found.high),
        "p_value": found.p_value,
        "standardised": _standardised(gains),
        "seeds_needed": None if at_floor else _seeds_needed(c.kind, gains, c.margin),
        "at_floor": at_floor,
        "verdict": UNDECIDED if at_floor or len(gains) < MINIMUM_SEEDS else verdict(c.kind, gains, found, c.margin),
    }


def _values(runs: Sequence[Run], name: str, metric: str) -> dict[int, float]:
    found = {run.seed: value(run.results(), metric) for run in runs if run.variant.name == name}
    return {seed: number for seed, number in found.items() if number is not None}


def _state(runs: Sequence[Run], name: str, seed: int) -> str:
    states = [run.state()["status"] for run in runs if (run.variant.name, run.seed) == (name, seed)]
    return states[0] if states else "not planned"


def _standardised(gains: Sequence[float]) -> float | None:
    """Cohen's d of paired differences: their mean over their standard deviation."""
    spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
    return statistics.fmean(gains) / spread if spread else None


def _variants(plan: Mapping[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    own = {run.variant.name: digest(run.variant.seeded(0)) for run in runs}
    keys = ("seeds", "steps", "flops", "settings")
    return {n: {"config_hash": d} | {key: plan["variants"][n][key] for key in keys} for n, d in own.items()}


def read_records(directory: pathlib.Path) -> dict[int, dict[str, Any]]:
    """Claim -> what docs/claims/claim_N.json holds.

    Raises:
        ValueError: there is no such directory, or a record is damaged.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory}: no directory; docs/claims has the claims' records")
    records = {}
    for file in sorted(directory.glob("claim_*.json")):
        record = json_text.load_object(file)
        if "claim" not in record:
            raise ValueError(f"{file}: does not say which `claim` it is of; launch.report --record writes it")
        records[record["claim"]] = record
    return records


def page(claims: Sequence[Claim], records: Mapping[int, Mapping[str, Any]]) -> str:
    """docs/claims.md: every claim, with its verdict where it was run."""
    environment = text_environment()
    environment.filters["signed"] = lambda number, ratio: f"x {number:.2f}" if ratio else _short(number, "+")
    environment.filters["each"] = lambda values: ", ".join(_short(value) for value in values)
    environment.filters["mean"] = lambda values: _short(statistics.fmean(values))
    return environment.get_template(TEMPLATE).render(claims=claims, records=records, minimum=MINIMUM_SEEDS)


def _short(number: float, sign: str = "") -> str:
    """Three places, or three digits of what is smaller than that."""
    return f"{number:{sign}.3f}" if abs(number) >= 0.01 or not number else f"{number:{sign}.2g}"
