import pytest

from nvlm_jax.evaluation.metrics import normalize_textvqa, normalize_vqa, textvqa_accuracy, vqa_accuracy
from tests.evaluation.metrics.scoring_vectors import by_source, primary


@pytest.mark.parametrize(("vector", "expected"), primary("vqa_accuracy"))
def test_vqa_as_lmms_eval(vector, expected):
    assert vqa_accuracy(vector["prediction"], vector["references"]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("vector", "expected"), by_source("vqa_accuracy", "evaluate_vqav2.py"))
def test_vqa_as_megatron(vector, expected):
    got = vqa_accuracy(vector["prediction"], vector["references"], rule="megatron")
    assert got == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("vector", "expected"), by_source("vqa_accuracy", "vqaEval.py"))
def test_vqa_as_the_challenge_script(vector, expected):
    got = vqa_accuracy(vector["prediction"], vector["references"], rule="vqaeval")
    assert got == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("vector", "expected"), primary("textvqa_accuracy"))
def test_textvqa_as_mmf(vector, expected):
    assert textvqa_accuracy(vector["prediction"], vector["references"]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("vector", "expected"), by_source("textvqa_accuracy", "evaluate_vqav2.py"))
def test_textvqa_as_megatron(vector, expected):
    got = textvqa_accuracy(vector["prediction"], vector["references"], rule="megatron")
    assert got == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("matches", "left_out", "all_ten"),
    [(0, 0, 0), (1, 0.3, 1 / 3), (2, 0.6, 2 / 3), (3, 0.9, 1), (4, 1, 1), (10, 1, 1)],
)
def test_soft_agreement(matches, left_out, all_ten):
    references = ["cat"] * matches + ["dog"] * (10 - matches)
    assert vqa_accuracy("cat", references) == pytest.approx(left_out)
    assert vqa_accuracy("cat", references, rule="megatron") == pytest.approx(all_ten)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("", ""),
        ("The", ""),
        ("A dog, the cat", "dog cat"),
        ("red-white", "red white"),  # no blank beside the mark: a blank takes its place
        ("red - white", "red white"),
        ("red-white - blue", "redwhite blue"),  # a blank beside one hyphen removes all
        ("1,000-2,000", "10002000"),  # a number with a comma removes every mark
        ("1,,000", "1000"),
        ("3.14.", "3.14"),
        ("U.S.", "us"),
        ("-5", "5"),
        ("50%", "50%"),
        ("None", "0"),
        ("TEN", "10"),
        ("eleven", "eleven"),
        ("couldntve", "couldntve"),  # two apostrophes are missing, only one is ever repaired
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("lets", "lets"),
        ("Im", "im"),
        ("'ow'sat", "'ow's'at"),
        ("CAFÉ", "café"),
        ("１", "１"),
        ("nan", "nan"),
        ("." * 33, "."),  # 32 periods are removed, no more
    ],
)
def test_normal_form(text, normal):
    assert normalize_vqa(text) == normal


def test_textvqa_tokenizes_first():
    assert normalize_textvqa("McDonald's") == "mcdonald 's"
    assert normalize_textvqa("red,white") == "redwhite"
    assert normalize_textvqa("1,000-2,000") == "1000 2000"


def test_challenge_script_overlooks_a_run_of_commas():
    references = ["1000 2"] * 4 + ["x"] * 6
    assert vqa_accuracy("1,,000 2", references) == 1.0
    assert vqa_accuracy("1,,000 2", references, rule="vqaeval") == 0.0


@pytest.mark.parametrize("metric", [vqa_accuracy, textvqa_accuracy])
def test_wrong_calls_fail(metric):
    with pytest.raises(TypeError, match="must be a list of answers, got the string 'yes'"):
        metric("yes", "yes")
    with pytest.raises(ValueError, match="references is empty"):
        metric("yes", [])
    with pytest.raises(ValueError, match=r"rule 'official' is unknown; choose one of .*'megatron'"):
        metric("yes", ["yes"] * 10, rule="official")


def test_references_are_left_as_they_were():
    references = ["The Cat."] * 10
    vqa_accuracy("cat", references)
    textvqa_accuracy("cat", references)
    assert references == ["The Cat."] * 10
