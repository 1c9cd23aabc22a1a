import itertools
import re

import pytest

from nvlm_jax.evaluation.metrics import choice, mmmu_choice, mmmu_open, multiple_choice, realworldqa
from tests.evaluation.metrics.scoring_vectors import by_source, primary

COLORS = ["red", "green", "blue", "yellow"]


@pytest.mark.parametrize(("vector", "expected"), primary("mmmu_mc"))
def test_mmmu_choice_as_mmmu(vector, expected):
    letter = mmmu_choice(vector["response"], vector["options"])
    assert letter == expected
    assert (letter == vector["answer"]) == vector.get("correct", expected == vector["answer"])


@pytest.mark.parametrize(("vector", "expected"), by_source("mmmu_mc", "Megatron-LM"))
def test_mmmu_choice_as_megatron(vector, expected):
    assert mmmu_choice(vector["response"], vector["options"], rule="megatron") == expected


@pytest.mark.parametrize(("vector", "expected"), primary("mmmu_open"))
def test_mmmu_open_as_megatron(vector, expected):
    assert mmmu_open(vector["response"], vector["answer"]) is expected


@pytest.mark.parametrize(("vector", "expected"), primary("mc_letter"))
def test_multiple_choice_as_vlmevalkit(vector, expected):
    assert multiple_choice(vector["response"], vector["options"]) == (expected or None)


@pytest.mark.parametrize(("vector", "expected"), by_source("mc_letter", "mcq_extract.py"))
def test_multiple_choice_as_lmms_eval(vector, expected):
    assert multiple_choice(vector["response"], vector["options"], rule="lmms-eval") == (expected or None)


@pytest.mark.parametrize(("vector", "expected"), primary("realworldqa"))
def test_realworldqa_as_lmms_eval(vector, expected):
    assert realworldqa(vector["response"], vector["answer"]) is expected


@pytest.mark.parametrize(("vector", "expected"), by_source("realworldqa", "evaluate_vqav2.py"))
def test_realworldqa_as_megatron(vector, expected):
    assert realworldqa(vector["response"], vector["answer"], rule="megatron") is expected


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("", None),
        ("   ", None),
        ("A. ", None),  # the blank at the end shields the period
        ("'B'", "B"),
        (".,B", None),  # the comma's turn came before the period was gone
        (",.B", "B"),
        ("(A) (D) (B)", "B"),
        ("(A) is not C", "A"),  # brackets go first
        ("it must be the green one or red", "A"),  # by text, the last
        ("the green one", None),  # five words or fewer: no search by text
        ("b", None),
        ("E", None),  # no such option
    ],
)
def test_mmmu_choice_edges(response, letter):
    assert mmmu_choice(response, COLORS) == letter


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("", "", True),
        ("3,000", "3000", True),
        ("It is -1.2e3.", "-1200", True),
        ("the answer is: 5", ["4", "5"], True),
        ("7 and so on", ["5", "6"], False),
        ("x = 3", "3", True),
        ("x = 3\nso it is done", "3", False),  # "=" counts in the last line only
        ("so x = 3 it is done\ny = 4", "4", True),
        ("b is ,", "b", True),  # a trivial rest, so the whole response counts
        ("b is ,;", "b", False),
        ("NaN", "nan", False),
        ("-inf", "-Infinity", True),
        ("50%", "50", True),
        ("b", "b", True),
        ("東京", "東京", True),
    ],
)
def test_mmmu_open_edges(response, answer, right):
    assert mmmu_open(response, answer) is right


# As MMMU's evaluator writes them; a run of digits takes them the square of its length.
PATTERNS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)


def test_numbers_are_those_of_the_evaluators_patterns():
    for length in range(1, 7):
        for letters in itertools.product("1,.-ex", repeat=length):
            text = "".join(letters)
            assert [p.findall(text) for p in choice._NUMBERS] == [re.findall(p, text) for p in PATTERNS], text


@pytest.mark.parametrize("text", ["1" * 200_000 + "x", "1" * 100_000 + "e", "1," * 50_000, "111," * 50_000 + "1111x"])
def test_long_runs_of_digits_are_read_in_one_pass(text):
    assert not mmmu_open(text, "5")


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("", None),
        ("C", "C"),
        ("c", None),
        ("B is what one should really pick here", None),  # not among the last four words, no text
        ("The answer is **B**. Here is a long reason of many words", "B"),
        ("My answer is d, for it is what it looks like", "D"),
        ("A or B", None),
        ("A or B, but the answer is b", "B"),
        ("Sorry, I can't help with images of people yet.", "Z"),
        ("Failed to obtain answer via API", None),
        ("blue " * 9, None),  # longer than twice all options
        ("GREEN!", "B"),
    ],
)
def test_multiple_choice_edges(response, letter):
    assert multiple_choice(response, COLORS) == letter


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("", None),
        ("  ", None),
        ("!?", None),
        ("B", "B"),
        ("(A) or (B)", "B"),
        ("A: no, it is (C) I think", "A"),  # the first place tells more than brackets
        ("Not (A) nor C", "C"),  # so does the last
        ("I choose something like Dogs", "D"),
        ("Car", "C"),
        ("car", None),
        ("답은 B 입니다", "B"),
    ],
)
def test_most_telling_letter(response, letter):
    assert multiple_choice(response, COLORS, rule="lmms-eval") == letter


def test_an_option_without_text_is_found_everywhere():
    assert mmmu_choice("one two three four five six", ["", "x y z"]) == "A"
    assert multiple_choice("q", ["", "some text"]) == "A"


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        (" B ", " b ", True),  # outer blanks of the answer do not count, nor its case
        ("Both", "B", True),
        ("", "A", False),
        ("42..", "42", True),
        ("-5", "5", False),
        ("50%", "50%", True),
        ("E", "E", True),
    ],
)
def test_realworldqa_edges(response, answer, right):
    assert realworldqa(response, answer) is right


@pytest.mark.parametrize("metric", [mmmu_choice, multiple_choice])
def test_wrong_calls_fail(metric):
    with pytest.raises(TypeError, match="options must be a list of texts, got the string 'red'"):
        metric("A", "red")
    with pytest.raises(ValueError, match="got 0 options; letters exist for 1 to 26"):
        metric("A", [])
    with pytest.raises(ValueError, match="got 27 options"):
        metric("A", ["x"] * 27)
    with pytest.raises(ValueError, match="rule 'random' is unknown"):
        metric("A", COLORS, rule="random")
