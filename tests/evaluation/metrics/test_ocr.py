import pytest

from nvlm_jax.evaluation.metrics import ocrbench
from tests.evaluation.metrics.scoring_vectors import by_source, primary


@pytest.mark.parametrize(("vector", "expected"), primary("ocrbench"))
def test_as_lmms_eval(vector, expected):
    assert ocrbench(vector["prediction"], vector["references"], vector["dataset"]) == expected


@pytest.mark.parametrize(("vector", "expected"), by_source("ocrbench", "evaluate_ocrbench.py"))
def test_as_megatron(vector, expected):
    assert ocrbench(vector["prediction"], vector["references"], vector["dataset"], rule="megatron") == expected


def test_formulas_keep_case_and_tabs():
    assert ocrbench("x + Y\n", ["x+Y"], "HME100k") == 1
    assert ocrbench("X + Y", ["x+y"], "HME100k") == 0
    assert ocrbench("x\t+y", ["x+y"], "HME100k") == 0
    assert ocrbench("ｘ", ["x"], "HME100k") == 0


def test_full_width_letters_are_ascii_elsewhere():
    assert ocrbench("ＡＢＣ！", ["abc!"], "svt") == 1
    assert ocrbench("～！", ["~!"], "svt") == 1  # the first and the last of them
    assert ocrbench("ＡＢＣ！", ["abc!"], "svt", rule="megatron") == 0


def test_one_reference_may_be_a_string():
    assert ocrbench("the word", "word", "svt") == 1
    assert ocrbench("the", "word", "svt") == 0


def test_wrong_calls_fail():
    with pytest.raises(ValueError, match="references is empty"):
        ocrbench("a", [], "svt")
    with pytest.raises(ValueError, match="rule 'x' is unknown"):
        ocrbench("a", ["a"], "svt", rule="x")
