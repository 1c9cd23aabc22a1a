import pytest

from nvlm_jax.evaluation.metrics import anls, edit_distance
from tests.evaluation.metrics.scoring_vectors import by_source, primary


@pytest.mark.parametrize(("vector", "expected"), primary("anls"))
def test_as_lmms_eval(vector, expected):
    assert anls(vector["prediction"], vector["references"]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("vector", "expected"), by_source("anls", "anls 0.0.2 (PyPI)"))
def test_as_the_anls_package(vector, expected):
    assert anls(vector["prediction"], vector["references"], rule="anls") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("vector", "expected"), by_source("anls", "compute_vqa_accuracy(SPDocVQA)"))
def test_as_megatron(vector, expected):
    assert anls(vector["prediction"], vector["references"], rule="megatron") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "edits"),
    [("", "", 0), ("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3), ("intention", "execution", 5),
     ("ab", "ba", 2), ("東京都", "東京", 1), ("é", "e\u0301", 2)],
)  # fmt: skip
def test_edit_distance(a, b, edits):
    assert edit_distance(a, b) == edit_distance(b, a) == edits


def test_exactly_one_half_counts_only_by_default():
    assert anls("ab", ["abcd"]) == 0.5
    assert anls("ab", ["abcd"], rule="anls") == 0.0


def test_length_is_that_of_the_raw_text():
    assert anls("   ", ["a"]) == pytest.approx(2 / 3)
    assert anls("   ", ["a"], rule="anls") == 0.0
    assert anls("straße", ["strasse"]) == pytest.approx(1 - 2 / 7)  # in upper case the longer one has 7 letters


def test_wrong_calls_fail():
    with pytest.raises(TypeError, match="got the string '12 May'"):
        anls("12 May", "12 May")
    with pytest.raises(ValueError, match="references is empty"):
        anls("12 May", [])
    with pytest.raises(ValueError, match="rule 'mmf' is unknown"):
        anls("12 May", ["12 May"], rule="mmf")
