"""What a model is asked, word for word, and what is read out of its answer."""

import pytest

from nvlm_jax.evaluation.benchmark import ask
from nvlm_jax.evaluation.benchmarks import ai2d, gsm8k, humaneval, mathvista, mmlu, mmmu, registry
from nvlm_jax.evaluation.files import BenchmarkError
from tests.evaluation.benchmarks import miniature


def first(tmp_path, name: str):
    miniature.write(tmp_path, name)
    return next(iter(registry()[name].load(tmp_path)))


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("vqav2", "\nAnswer the question using a single word or phrase."),
        ("chartqa", "\nAnswer the question using a single word or phrase."),
        ("docvqa", "\nAnswer the question using a single word, phrase, or number."),
        ("textvqa", "\nAnswer the question using a single word, phrase, or number."),
        ("ai2d", "\nD. one table\nAnswer with the option's letter from the given choices directly."),
    ],
)
def test_prompts_end_in_the_benchmarks_words(tmp_path, name, ending):
    question = first(tmp_path, name)
    page = miniature.pages()[0]
    assert question.text.startswith(f"<image>\n{page.text}\n") and question.text.endswith(ending)
    assert [m.role for m in question.messages] == ["user"]


def test_ocrbench_asks_the_bare_question(tmp_path):
    assert first(tmp_path, "ocrbench").text == f"<image>\n{miniature.pages()[0].text}"


def test_mathvista_asks_the_published_query_as_a_math_expert(tmp_path):
    question = first(tmp_path, "mathvista")
    assert question.messages[0].role == "system" and "math" in question.messages[0].content
    assert question.text.startswith("<image>\nHint: answer as asked.")


def test_mmmu_puts_images_where_the_text_names_them(tmp_path):
    miniature.write(tmp_path, "mmmu")
    opened, choice, *_ = registry()["mmmu"].load(tmp_path)
    page = miniature.pages()[1]
    assert choice.messages[0].content == "Answer the questions."
    assert choice.text.startswith(f"<image> {page.text}\n(A) <image>\n(B) ")
    assert choice.text.endswith("Answer with the option's letter from the given choices directly.")
    assert choice.images == (page.picture, miniature.pages()[0].picture) and choice.type == "Accounting"
    assert opened.text.endswith("\nAnswer the question using a single word or phrase.")


def test_images_that_the_text_does_not_name_come_first():
    assert mmmu.place_images("<image 2>?", {1: b"", 2: b""}, "") == ("<image>\n<image>?", [1, 2])
    with pytest.raises(BenchmarkError, match=r"here: names <image 3>, and has images \[1\]"):
        mmmu.place_images("<image 3>?", {1: b""}, "here")


def test_mmlu_shows_five_solved_questions_of_the_subject(tmp_path):
    question = first(tmp_path, "mmlu")
    assert question.text.startswith(
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        "What is 0 + 0?\nA. -1\nB. 0\nC. 1\nD. 2\nAnswer: B\n\nWhat is 1 + 1?"
    )
    assert question.text.count("Answer: B") == 5 and question.text.endswith("Answer:") and not question.images


def test_mmlu_reads_the_first_line_of_a_model_that_goes_on():
    question = ask("q", "?", (), {"letter": "B", "options": ["red", "green", "blue", "grey"]})
    assert mmlu.score(question, "B\n\nWhat is next?\nA. x\nAnswer: A", "vlmevalkit") == ("B", 1.0)


@pytest.mark.parametrize(
    ("kind", "output", "extraction"),
    [
        (("free_form", "integer", None), "There are 3 rows of 4, so the answer is 12.", "12"),
        (("free_form", "integer", None), "3 + 1,200 = 1,203", "1203"),
        (("free_form", "float", None), "Answer: $0.5$ since 1/2", "0.5"),
        (("free_form", "float", None), "about -1.25", "-1.25"),
        (("free_form", "list", None), "the years [1990, 2000]", "[1990, 2000]"),
        (("free_form", "list", None), "1990 and 2000", None),
        (("free_form", "integer", None), "I cannot tell", None),
        (("multi_choice", "text", ["oak", "elm"]), "The answer is (B).", "B"),
        (("multi_choice", "text", ["oak", "elm"]), "elm", "B"),
        (("multi_choice", "text", ["oak", "elm"]), "a tree", None),
    ],
)
def test_mathvista_reads_answers_by_rules(kind, output, extraction):
    question_type, answer_type, choices = kind
    true = {"question_type": question_type, "answer_type": answer_type, "choices": choices}
    assert mathvista.extract(output, ask("q", "?", (), true)) == extraction


@pytest.mark.parametrize(
    ("output", "extraction", "score"),
    [
        ("3 + 4 = 7\n#### 7", "7", 1.0),
        ("#### 7\nThat is 2 more than 5.", "7", 1.0),
        ("####7 pens, not 5", "7", 1.0),
        ("#### $7", "$7", 1.0),
        ("#### 5\nWait, that is wrong.\n#### 7\n", "7", 1.0),
        ("#### 1. Count\nThere are 7.", "7.", 1.0),
        ("She has 7.\n\nQuestion: Bob has 9 pens. How many?\nAnswer: 9\n#### 9", "7.", 1.0),
        ("She has 5, or 7", "7", 1.0),
        ("#### 5\nor 7", "5", 0.0),
        ("many", None, 0.0),
    ],
)
def test_gsm8k_reads_the_number_behind_the_marks(output, extraction, score):
    assert gsm8k.score(ask("q", "?", (), "7"), output, "flexible-extract") == (extraction, score)


@pytest.mark.parametrize(
    ("output", "said", "right"),
    [("B", "B", True), ("(b).", "B", True), ("B elm", "B ELM", False), ("", None, False), ("the oak", "OAK", False)],
)
def test_the_papers_rule_takes_ai2ds_letter_alone(output, said, right):
    question = ask("q", "?", (), {"letter": "B", "options": ["oak", "elm"]})
    assert ai2d.score(question, output, "megatron") == (said, float(right))


def test_the_papers_rule_reads_nothing_as_option_a():
    a, b = (ask("q", "?", (), {"letter": x, "answer": x, "options": ["oak", "elm"]}) for x in "AB")
    assert [ai2d.score(q, "", "megatron").score for q in (a, b)] == [1.0, 0.0]
    for output in ("", "a tree", "\\boxed{?}"):
        assert [mmmu.score(q, output, "megatron") for q in (a, b)] == [(None, 1.0), (None, 0.0)]
        assert [mmmu.score(q, output, "mmmu") for q in (a, b)] == [(None, 0.0)] * 2
    assert mmmu.score(b, "It is \\boxed{(B)}, not (A)", "megatron") == ("B", 1.0)
    assert mmmu.score(b, "It is \\boxed{(B)}, not (A)", "mmmu") == ("A", 0.0)


PROMPT = 'import math\n\n\ndef f(x):\n    """Root."""\n'


@pytest.mark.parametrize(
    "output",
    [
        "    return math.sqrt(x)\n",
        "Sure:\n```python\ndef f(x):\n    return math.sqrt(x)\n```\nDone.",
        "```\n    return math.sqrt(x)\n```",
        "```python\nimport math\n\ndef g(x):\n    return x\n\ndef f(x):\n    return g(math.sqrt(x))",
        "def f(x):\n    return math.sqrt(x)",
    ],
)
def test_humaneval_takes_the_rest_or_the_whole_function(output):
    space: dict = {}
    exec(humaneval.program(output, PROMPT, "f"), space)
    assert space["f"](9) == 3


def test_humaneval_takes_nothing_for_nothing():
    assert humaneval.program("  \n", PROMPT, "f") is None


def test_a_placeholder_in_a_question_is_text():
    question = ask("q", "What does <image> mean?", (b"x",))
    assert question.text == "<image>\nWhat does < image > mean?"
