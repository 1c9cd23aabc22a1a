"""How sure a sweep's numbers are: intervals over seeds, tests against the base, correction for many of them.

A seed is the unit: two variants with the same seeds differ by the mean of their per-seed differences, with Student's t
for interval and test. With one seed in common there is nothing to tell luck from effect by; the same questions, one by
one, then say at least whether these two models differ (McNemar), and the table says which test it was.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.stats

from nvlm_jax.evaluation import statistics

LEVEL = 0.95
MOST_SEEDS = 1000  # beyond which a needed number of seeds is not worth naming


class MissingSeed(ValueError):
    """Two variants that were not run with the same seeds. The message names the seeds."""


@dataclasses.dataclass(frozen=True)
class Mean:
    """The mean over seeds with its 95 % interval, which one seed does not have."""

    mean: float
    low: float | None
    high: float | None
    seeds: int


@dataclasses.dataclass(frozen=True)
class Difference:
    """Another variant less the base. The interval is None where one question's luck is all there is."""

    mean: float
    low: float | None
    high: float | None
    p_value: float | None
    test: str  # t over seeds | McNemar over questions | none, with the reason
    seeds: int
    adjusted: float | None = None  # the p-value after Holm's correction


def mean(values: Sequence[float]) -> Mean:
    """Mean and Student's interval.

    Raises:
        ValueError: no value.
    """
    if not values:
        raise ValueError("mean: no value; at least one seed")
    centre, low, high = _interval(np.asarray(values, float))
    return Mean(centre, low, high, len(values))


def difference(base: Mapping[int, float], other: Mapping[int, float], names: tuple[str, str] = ("base", "other")):
    """The `Difference` of two variants by their values of each seed.

    Raises:
        MissingSeed: a seed that one has and the other lacks.
    """
    faults = [
        f"seed {', '.join(map(str, sorted(set(a) - set(b))))} of {name} is missing; {whose} has it"
        for a, b, name, whose in ((base, other, names[1], names[0]), (other, base, names[0], names[1]))
        if set(a) - set(b)
    ]
    if faults or not base:
        raise MissingSeed("; ".join(faults) or f"neither {names[0]} nor {names[1]} has a finished seed")
    gains = np.array([other[seed] - base[seed] for seed in sorted(base)])
    centre, low, high = _interval(gains)
    if len(gains) == 1:
        return Difference(centre, None, None, None, "none", 1)
    spread = gains.std(ddof=1)
    if not spread and centre:  # no variance to judge by: seeds that share their few questions, most likely
        return Difference(centre, None, None, None, "none: all seeds differ by the same", len(gains))
    p_value = float(scipy.stats.ttest_1samp(gains, 0.0).pvalue) if spread else 1.0
    return Difference(centre, low, high, p_value, "t over seeds", len(gains))


def by_questions(base: Mapping[str, float], other: Mapping[str, float]) -> Difference | None:
    """The `Difference` of two models on the questions that both were asked, for a single seed; None without any."""
    both = [key for key in base if key in other]
    if not both:
        return None
    found = statistics.paired([base[key] for key in both], [other[key] for key in both])
    return Difference(found.difference, found.low, found.high, found.p_value, f"{found.test} over questions", 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p-values, in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def corrected(found: Mapping[str, Difference | None]) -> dict[str, Difference | None]:
    """All differences with `adjusted` set, over those that have a p-value."""
    tested = [name for name, item in found.items() if item is not None and item.p_value is not None]
    values = dict(zip(tested, holm([found[name].p_value for name in tested]), strict=True))
    return {n: dataclasses.replace(item, adjusted=values.get(n)) if item else None for n, item in found.items()}


def seeds_needed(effect: float, spread: float) -> int | None:
    """Seeds at which a paired interval of this spread would exclude 0; None if more than MOST_SEEDS."""
    for n in range(2, MOST_SEEDS + 1):
        if scipy.stats.t.ppf(0.5 + LEVEL / 2, n - 1) * spread / math.sqrt(n) < abs(effect):
            return n
    return None


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points (cost, quality) that no other one beats in both, by rising cost.

    >>> pareto({"a": (1, 0.5), "b": (2, 0.4), "c": (3, 0.9)})
    ['a', 'c']
    """
    front, best = [], -math.inf
    for name, (_, quality) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if quality > best:
            front.append(name)
            best = quality
    return front


def _interval(values: np.ndarray) -> tuple[float, float | None, float | None]:
    centre = float(values.mean())
    if len(values) < 2:
        return centre, None, None
    half = scipy.stats.t.ppf(0.5 + LEVEL / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return centre, float(centre - half), float(centre + half)
