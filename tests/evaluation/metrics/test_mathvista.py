import pytest

from nvlm_jax.evaluation.metrics import mathvista, mmmu_choice
from tests.evaluation.metrics.scoring_vectors import by_source, primary

FIELDS = ("prediction", "answer", "question_type", "answer_type", "precision", "choices")


@pytest.mark.parametrize(("vector", "expected"), primary("mathvista"))
def test_as_lmms_eval(vector, expected):
    assert mathvista(*(vector[field] for field in FIELDS)) is expected


@pytest.mark.parametrize(("vector", "expected"), by_source("mathvista", "evaluate_mathvista.py"))
def test_as_megatron(vector, expected):
    # Ours answers where Megatron fails on an empty text, and is wrong where Megatron takes the first choice for want
    # of any.
    choices = vector["choices"]
    unread = choices is not None and mmmu_choice(vector["prediction"], choices, rule="megatron") is None
    if unread or expected == "error: IndexError":
        expected = False
    assert mathvista(*(vector[field] for field in FIELDS), rule="megatron") is expected


@pytest.mark.parametrize(
    ("prediction", "answer", "kind", "precision", "right"),
    [
        ("1e400", "1", "integer", None, False),
        ("nan", "1", "integer", None, False),
        (" 4.9 ", "4", "integer", None, True),
        ("-0.4", "0", "integer", None, True),
        ("nan", "nan", "float", 1, True),
        ("inf", "inf", "float", 2, True),
        ("50%", "50.0", "float", 1, False),
        ("1.0", "1.0", "float", 1.0, False),  # the reference cannot round to a float's number of places
        ("2.4", "2", "float", None, True),
        ("", "", "text", None, True),
        (" [1] ", "[1]", "list", None, True),
    ],
)
def test_free_form_edges(prediction, answer, kind, precision, right):
    assert mathvista(prediction, answer, "free_form", kind, precision, None) is right


@pytest.mark.parametrize(
    ("prediction", "choice"),
    [("", "no"), ("(b)", "maybe"), ("(Z) yes", "no"), ("b", "no"), ("YES", "no"), ("may", "maybe")],
)
def test_choice_edges(prediction, choice):
    choices = ["no", "maybe", "yes"]
    assert [mathvista(prediction, c, "multi_choice", "text", None, choices) for c in choices] == [
        c == choice for c in choices
    ]


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [("3.149", "3.14", True), ("3.00", "3", True), ("answer is 7 apples", "7", True), ("5%", "5", True)],
)
def test_megatron_reads_numbers(prediction, answer, right):
    assert mathvista(prediction, answer, "free_form", "float", 2, None, rule="megatron") is right


def test_wrong_calls_fail():
    with pytest.raises(ValueError, match="mathvista: got 0 options"):
        mathvista("A", "x", "multi_choice", "text", None, None)
    with pytest.raises(ValueError, match="rule 'gpt' is unknown"):
        mathvista("1", "1", "free_form", "integer", None, None, rule="gpt")
