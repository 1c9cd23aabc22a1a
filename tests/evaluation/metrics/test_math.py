import pytest

from nvlm_jax.evaluation.metrics import gsm8k, gsm8k_extract, math_equivalent, math_extract
from tests.evaluation.metrics.scoring_vectors import by_source, primary


@pytest.mark.parametrize(("vector", "expected"), primary("math_equiv"))
def test_equivalent_as_hendrycks(vector, expected):
    assert math_equivalent(vector["prediction"], vector["answer"]) is expected
    assert math_equivalent(vector["answer"], vector["prediction"]) is expected


@pytest.mark.parametrize(("vector", "expected"), primary("math_extract"))
def test_extract_as_hendrycks(vector, expected):
    assert math_extract(vector["prediction"]) == expected


@pytest.mark.parametrize(("vector", "expected"), by_source("math_extract", "lm-eval"))
def test_extract_as_lm_eval(vector, expected):
    assert math_extract(vector["prediction"], rule="lm-eval") == expected


@pytest.mark.parametrize(("vector", "expected"), primary("gsm8k"))
def test_gsm8k_flexible_extract(vector, expected):
    assert gsm8k(vector["response"], vector["answer"]) is expected
    assert (gsm8k_extract(vector["response"]) or "[invalid]") == vector["extracted"]


@pytest.mark.parametrize(("vector", "expected"), by_source("gsm8k", "strict-match"))
def test_gsm8k_strict_match(vector, expected):
    assert gsm8k(vector["response"], vector["answer"], rule="strict-match") is expected


@pytest.mark.parametrize(
    ("prediction", "answer", "same"),
    [
        ("", "", True),
        (None, "1", False),
        ("\\sqrt2", "\\sqrt{2}", True),
        ("\\sqrt{12}", "\\sqrt12", False),  # one character belongs to the root
        ("2\\sqrt", "2\\sqrt", True),  # cannot be rewritten: equal as they stand
        ("2\\sqrt ", "2\\sqrt", False),
        ("\\frac1{72}", "\\frac{1}{72}", True),
        ("\\frac{72}1", "\\frac{72}{1}", False),
        ("\\frac1", "\\frac1", True),
        ("0.5", "\\frac12", True),
        (".5", "1/2", True),
        ("0.25", "1/4", False),
        ("3/4", "\\frac{3}{4}", True),
        ("03/4", "\\frac{3}{4}", False),
        ("a/b", "\\frac{a}{b}", False),
        ("1/2/3", "1/2/3", True),
        ("x=5", "5", True),
        ("abc=5", "5", False),
        ("5\\text{ m}\\text{ s}", "5", False),
        ("90^\\circ", "90", True),
        ("\\$5", "5", True),
        ("$5", "5", False),
        ("50\\%", "50", True),
        ("-5", "5", False),
        ("é", "é", True),
    ],
)
def test_equivalent_edges(prediction, answer, same):
    assert math_equivalent(prediction, answer) is same


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{1} \\boxed{2}", "2"),
        ("\\boxed}{1}", None),
        ("\\boxed{a} {b}", "a"),
        ("\\fbox{3}", None),
        ("\\boxed", None),
    ],
)
def test_extract_edges(text, answer):
    assert math_extract(text) == answer


def test_box_without_braces_is_read_only_as_lm_eval():
    assert math_extract("so $\\boxed 5$ and $x$") is None
    assert math_extract("so $\\boxed 5$ and $x$", rule="lm-eval") == "5"


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("The answer is 42.", "It is <<6*7=42>>42\n#### 42", True),
        ("#### 1,000", "1000", True),
        ("-7", "#### -7", True),
        ("42.0", "42", False),
        ("5%", "5", True),
        ("so 5...", "5", False),  # one period goes, no more
        ("so 5 ...", "5", False),  # the dots are the last match
        ("nan", "nan", False),
    ],
)
def test_gsm8k_edges(response, answer, right):
    assert gsm8k(response, answer) is right


def test_unparsed_is_wrong_even_for_a_strange_answer():
    assert gsm8k_extract("none") is None
    assert gsm8k("none", "") is False


def test_gsm8k_strict_takes_the_first():
    assert gsm8k_extract("#### 42 or #### 43", rule="strict-match") == "42"
    assert gsm8k_extract("42", rule="strict-match") is None


def test_unknown_rule_fails():
    with pytest.raises(ValueError, match="rule 'sympy' is unknown"):
        math_extract("1", rule="sympy")
    with pytest.raises(ValueError, match="rule 'flexible' is unknown; choose one of 'flexible-extract'"):
        gsm8k("1", "1", rule="flexible")
