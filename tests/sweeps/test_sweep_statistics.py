"""Intervals, tests and corrections against scipy, published examples and cases worked by hand."""

import numpy as np
import pytest
import scipy.stats

from nvlm_jax.sweeps import compare


def test_mean_and_its_interval_are_students():
    values = [0.61, 0.64, 0.58, 0.66, 0.60]
    found = compare.mean(values)
    low, high = scipy.stats.t.interval(0.95, 4, np.mean(values), scipy.stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert compare.mean([0.5]) == compare.Mean(0.5, None, None, 1)
    with pytest.raises(ValueError, match="at least one seed"):
        compare.mean([])


def test_differences_are_paired_by_seed():
    base, other = {0: 0.50, 1: 0.60, 2: 0.40}, {2: 0.46, 0: 0.55, 1: 0.67}
    found = compare.difference(base, other)
    reference = scipy.stats.ttest_rel([0.55, 0.67, 0.46], [0.50, 0.60, 0.40])
    interval = reference.confidence_interval(0.95)
    expected = (0.06, interval.low, interval.high, reference.pvalue)
    assert (found.mean, found.low, found.high, found.p_value) == pytest.approx(expected)
    assert found.seeds == 3 and found.test == "t over seeds"
    same = compare.difference(base, base)
    assert same.p_value == 1.0 and same.mean == 0.0
    assert compare.difference({0: 0.1}, {0: 0.2}).p_value is None


def test_a_missing_seed_is_named():
    with pytest.raises(compare.MissingSeed) as error:
        compare.difference({0: 1.0, 1: 1.0, 2: 1.0}, {0: 1.0, 7: 1.0}, ("tags=1d", "tags=none"))
    text = "seed 1, 2 of tags=none is missing; tags=1d has it; seed 7 of tags=1d is missing; tags=none has it"
    assert str(error.value) == text
    with pytest.raises(compare.MissingSeed, match="neither a nor b has a finished seed"):
        compare.difference({}, {}, ("a", "b"))


def test_holm():
    # By hand: 5 x 0.01, 4 x 0.02, 3 x 0.03, and no later one below an earlier one.
    assert compare.holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert compare.holm([0.6, 0.001, 0.9]) == pytest.approx([1.0, 0.003, 1.0])
    assert compare.holm([]) == []
    found = compare.corrected({"a": compare.difference({0: 0.0, 1: 0.1}, {0: 0.2, 1: 0.31}), "b": None,
                               "c": compare.difference({0: 1.0}, {0: 1.1})})  # fmt: skip
    assert found["a"].adjusted == found["a"].p_value and found["b"] is None and found["c"].adjusted is None


def test_seeds_that_would_decide():
    # As many seeds as it takes for the half width to fall below the effect, by its own formula at n and n - 1.
    n = compare.seeds_needed(0.01, 0.02)
    half = [scipy.stats.t.ppf(0.975, k - 1) * 0.02 / k**0.5 for k in (n - 1, n)]
    assert half[0] >= 0.01 > half[1] and 15 < n < 25
    assert compare.seeds_needed(0.0, 0.02) is None


def test_one_seed_is_compared_question_by_question():
    base = {str(i): float(i < 4) for i in range(20)}
    other = {str(i): float(i < 14) for i in range(20)} | {"more": 1.0}
    found = compare.by_questions(base, other)
    assert found.mean == 0.5 and found.test == "McNemar over questions"
    assert found.p_value == pytest.approx(scipy.stats.binomtest(10, 10).pvalue)
    assert compare.by_questions(base, {"else": 1.0}) is None


def test_pareto_front():
    points = {"cheap": (1, 0.2), "bad": (2, 0.1), "tie": (1, 0.1), "good": (3, 0.9), "dear": (9, 0.9)}
    assert compare.pareto(points) == ["cheap", "good"]
