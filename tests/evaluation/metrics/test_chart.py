import pytest

from nvlm_jax.evaluation.metrics import relaxed_accuracy
from tests.evaluation.metrics.scoring_vectors import by_source, primary


@pytest.mark.parametrize(("vector", "expected"), primary("relaxed_accuracy"))
def test_as_lmms_eval(vector, expected):
    assert relaxed_accuracy(vector["prediction"], vector["answer"]) == expected


@pytest.mark.parametrize(("vector", "expected"), by_source("relaxed_accuracy", "evaluate_vqav2.py"))
def test_as_megatron(vector, expected):
    assert relaxed_accuracy(vector["prediction"], vector["answer"], rule="megatron") == expected


@pytest.mark.parametrize(
    ("prediction", "answer", "score"),
    [
        ("-95", "-100", 1.0),
        ("-94", "-100", 0.0),
        ("0.95", "95%", 1.0),
        ("95", "95%", 0.0),
        ("%", "%", 1.0),  # not a number: compared as text
        ("nan", "nan", 0.0),  # a number that equals nothing
        ("inf", "inf", 0.0),
        ("0", "0.0", 0.0),  # an answer of zero is compared as text
        ("1_000", "1000", 1.0),  # Python reads it as a number, and so does the reference
        ("١٠", "10", 1.0),
        ("Yes ", "Yes", 0.0),
        ("['a', 'b']", "['A', 'B']", 1.0),
    ],
)
def test_edges(prediction, answer, score):
    assert relaxed_accuracy(prediction, answer) == score


def test_unknown_rule_fails():
    with pytest.raises(ValueError, match="rule 'strict' is unknown; choose one of 'lmms-eval', 'megatron'"):
        relaxed_accuracy("1", "1", rule="strict")
