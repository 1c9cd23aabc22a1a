"""How sure a score is: bootstrap intervals, and whether two runs over the same questions differ.

A score is the mean over items, or the mean of the means of parts. Resampling n items draws how often each of the
distinct scores comes, which is one multinomial draw: exact, and quick for 200,000 items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import bdtr

DRAWS = 2000
LEVEL = 0.95
SEED = 0


@dataclasses.dataclass(frozen=True)
class Paired:
    """Two runs on the items that both answered. Scores are fractions; `difference` is the second's less the first's."""

    items: int
    first: float
    second: float
    difference: float
    low: float  # of the difference's 95 % interval
    high: float
    only_first: int  # items where the first's score is the higher
    only_second: int
    p_value: float
    test: str  # McNemar | bootstrap


def mean(parts: Mapping[str, Sequence[float]], average: str) -> float | None:
    """The mean of all items (`average` "items") or of the parts' means ("parts"); None where there is no item."""
    arrays = [np.asarray(scores, float) for scores in parts.values() if len(scores)]
    if not arrays:
        return None
    return float(np.mean([a.mean() for a in arrays]) if average == "parts" else np.concatenate(arrays).mean())


def interval(parts: Mapping[str, Sequence[float]], average: str, draws: int = DRAWS) -> tuple[float, float] | None:
    """The bootstrap's 95 % interval of `mean`; with `average` "parts" each part is resampled by itself."""
    arrays = [np.asarray(scores, float) for scores in parts.values() if len(scores)]
    if not arrays:
        return None
    if average != "parts":
        arrays = [np.concatenate(arrays)]
    random = np.random.default_rng(SEED)
    drawn = np.mean([_resampled_means(a, draws, random) for a in arrays], axis=0)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return float(low), float(high)


def paired(first: Sequence[float], second: Sequence[float], draws: int = DRAWS) -> Paired:
    """Whether two runs differ on the same items, in the same order.

    Right-or-wrong scores are tested by McNemar's exact test (a binomial test of the items that only one got right),
    others by the bootstrap: twice the smaller share of resampled mean differences on either side of 0.

    Raises:
        ValueError: no items, or another number of them.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    if len(a) != len(b) or not len(a):
        raise ValueError(f"paired: {len(a)} and {len(b)} scores; the same items of both, at least one")
    gains = b - a
    drawn = _resampled_means(gains, draws, np.random.default_rng(SEED))
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    worse, better = int((gains < 0).sum()), int((gains > 0).sum())
    binary = set(np.unique(np.concatenate([a, b]))) <= {0.0, 1.0}
    if worse + better == 0:
        p_value = 1.0
    elif binary:
        # Both tails of the binomial with p = 1/2, which is symmetric: no need of scipy.stats, which loads for seconds.
        p_value = min(1.0, 2 * float(bdtr(min(better, worse), better + worse, 0.5)))
    else:
        # One more draw on each side, so that no finite number of draws claims certainty.
        p_value = min(1.0, 2 * (min((drawn <= 0).sum(), (drawn >= 0).sum()) + 1) / (draws + 1))
    test = "McNemar" if binary else "bootstrap"
    means = float(a.mean()), float(b.mean()), float(gains.mean())
    return Paired(len(a), *means, float(low), float(high), worse, better, float(p_value), test)


def _resampled_means(values: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """float [draws]: means of as many values drawn with replacement."""
    distinct, counts = np.unique(values, return_counts=True)
    return random.multinomial(len(values), counts / len(values), size=draws) @ distinct / len(values)
