"""Intervals cover what they should; paired tests see a difference where there is one."""

import numpy as np
import pytest
import scipy.stats

from nvlm_jax.evaluation import statistics


def test_items_and_parts_are_averaged_differently():
    parts = {"human": [1.0], "augmented": [0.0, 0.0, 0.0]}
    assert statistics.mean(parts, "items") == 0.25 and statistics.mean(parts, "parts") == 0.5
    assert statistics.mean({}, "items") is None and statistics.interval({"x": []}, "items") is None


def test_the_interval_of_a_share_is_the_binomials():
    scores = [1.0] * 300 + [0.0] * 700
    low, high = statistics.interval({"": scores}, "items")
    expected = np.array([-1, 1]) * 1.96 * np.sqrt(0.3 * 0.7 / 1000) + 0.3
    np.testing.assert_allclose([low, high], expected, atol=0.003)
    assert statistics.interval({"": [1.0] * 9}, "items") == (1.0, 1.0)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(1)
    values, chances = [0.0, 0.3, 0.6, 0.9, 1.0], [0.3, 0.1, 0.1, 0.1, 0.4]
    covered = 0
    for _ in range(200):
        low, high = statistics.interval({"": random.choice(values, 150, p=chances)}, "items", draws=400)
        covered += low <= np.dot(values, chances) <= high
    assert 180 <= covered <= 198


def test_parts_are_resampled_by_themselves():
    low, high = statistics.interval({"a": [1.0] * 50, "b": [0.0] * 5}, "parts")
    assert (low, high) == (0.5, 0.5)


def test_mcnemar_is_exact_for_right_or_wrong():
    first = [1.0] * 50 + [1.0] * 5 + [0.0] * 15 + [0.0] * 30
    second = [1.0] * 50 + [0.0] * 5 + [1.0] * 15 + [0.0] * 30
    found = statistics.paired(first, second)
    assert (found.only_first, found.only_second, found.test) == (5, 15, "McNemar")
    assert found.p_value == pytest.approx(2 * scipy.stats.binom.cdf(5, 20, 0.5))
    assert found.difference == pytest.approx(0.1) and found.low < 0.1 < found.high


def test_equal_runs_do_not_differ():
    found = statistics.paired([0.3, 1.0, 0.0], [0.3, 1.0, 0.0])
    assert (found.p_value, found.difference, found.low, found.high) == (1.0, 0.0, 0.0, 0.0)


def test_soft_scores_are_tested_by_the_bootstrap():
    random = np.random.default_rng(2)
    first = random.choice([0.0, 0.3, 0.6, 1.0], 400)
    better = np.minimum(1.0, first + (random.random(400) < 0.2) * 0.3)
    found = statistics.paired(first, better)
    assert found.test == "bootstrap" and found.p_value < 0.01 and found.low > 0
    same = statistics.paired(first, random.permutation(first))
    assert same.p_value > 0.05 and same.low < 0 < same.high


def test_runs_over_other_items_are_refused():
    with pytest.raises(ValueError, match="paired: 1 and 2 scores; the same items of both"):
        statistics.paired([1.0], [1.0, 0.0])
