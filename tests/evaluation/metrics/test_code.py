import pytest

from nvlm_jax.evaluation.metrics import pass_at_k
from tests.evaluation.metrics.scoring_vectors import primary


@pytest.mark.parametrize(("vector", "expected"), primary("pass_at_k"))
def test_as_human_eval(vector, expected):
    assert pass_at_k(vector["n"], vector["c"], vector["k"]) == pytest.approx(expected, abs=1e-6)


def test_one_sample_each_is_the_share_that_passed():
    assert pass_at_k(200, 50, 1) == pytest.approx(0.25)


def test_large_counts_neither_overflow_nor_lose_precision():
    # 1 - (1 - k/n)(1 - k/(n-1)) for c = 2
    assert pass_at_k(10_000, 2, 100) == pytest.approx(1 - (1 - 100 / 10_000) * (1 - 100 / 9_999), rel=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(1, 0, 2), (5, 6, 1), (5, -1, 1), (5, 1, -1)])
def test_impossible_counts_fail(n, c, k):
    with pytest.raises(ValueError, match=f"got n={n}, c={c}, k={k}; needs 0 <= c <= n and 0 <= k <= n"):
        pass_at_k(n, c, k)
