"""Loader -> prompts -> a fake answerer -> scores, for every benchmark in every layout that it is published in."""

import dataclasses

import pytest

from nvlm_jax.evaluation import sandbox
from nvlm_jax.evaluation.benchmark import Scored
from nvlm_jax.evaluation.benchmarks import registry
from nvlm_jax.evaluation.question import Prediction
from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER
from nvlm_jax.inputs.tiling import open_image
from tests.evaluation.benchmarks import miniature

CASES = [(name, layout) for name, layouts in miniature.LAYOUTS.items() for layout in layouts]
COUNTS = {"chartqa": 12, "mmlu": 6, "gsm8k": 3, "math": 3, "math500": 3, "humaneval": 2}
UNPUBLISHED = ("docvqa_test", "vqav2_testdev")


def right_answer(name: str, question) -> str:
    """What a model that knows everything says, in a form that the prompt asks for."""
    true = question.answer
    if name == "humaneval":
        [row] = [row for row in miniature.HUMANEVAL if row["entry_point"] == true["entry_point"]]
        return f"Here it is:\n```python\n{row['prompt']}{row['canonical_solution']}```\nIt adds."
    if name == "math" or name == "math500":
        return f"So it is $\\boxed{{{true}}}$."
    if name == "mmmu":
        return str(true["answer"] if true["options"] else true["answer"][0])
    if name in ("ai2d", "ai2d_no_mask", "mmlu"):
        return true["letter"]
    if name == "ocrbench":
        return f"It says {true['references'][0]}"
    if name == "mathvista":
        return f"The answer is {true['answer']}."
    return true[0] if isinstance(true, list) else str(true)


def takes_first(name: str, question) -> bool:
    """Whether the paper's evaluator, which takes the first option where it reads none, is right by it."""
    true = question.answer
    if name == "mmmu":
        return true["answer"] == "A"
    return name == "mathvista" and bool(true["choices"]) and true["choices"][0] == true["answer"]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def case(request, tmp_path):
    name, layout = request.param
    if name == "humaneval":
        try:
            sandbox.isolation()
        except sandbox.SandboxError as error:
            pytest.skip(str(error))
    miniature.write(tmp_path, name, layout)
    benchmark = registry()[name]
    return benchmark, list(benchmark.load(tmp_path))


def test_every_question_is_there_once_with_its_pictures(case):
    benchmark, questions = case
    expected = COUNTS.get(benchmark.name, miniature.COUNT)
    if benchmark.name == "mmmu":
        expected = 12 if questions[0].type == "Accounting" else 5
    assert len(questions) == len({q.id for q in questions}) == expected
    for question in questions:
        assert question.text.count(IMAGE_PLACEHOLDER) == len(question.images)
        assert question.messages[-1].role == "user" and question.digest
        for image in question.images:
            assert open_image(image).width >= 32
    assert len({q.digest for q in questions}) > 1


def test_right_answers_score_one_and_wrong_ones_nothing(case):
    benchmark, questions = case
    if benchmark.name in UNPUBLISHED:
        return
    for rule in filter(None, (benchmark.rule, benchmark.paper_rule)):
        for question in questions:
            scored = benchmark.score(question, right_answer(benchmark.name, question), rule)
            # The paper's rule for MathVista takes no list and no sentence, only "answer is" and a number.
            if not (benchmark.name == "mathvista" and rule == "megatron"):
                assert scored.score == 1 and scored.extraction, (rule, question, scored)
            for wrong in ("qqqqqq zzzz", "")[: 1 if rule == "megatron" else 2]:  # Megatron reads nothing as "A"
                scored = benchmark.score(question, wrong, rule)
                assert bool(scored.score) == (rule == "megatron" and takes_first(benchmark.name, question)), question


def test_what_cannot_be_read_is_none_not_a_guess(case):
    benchmark, questions = case
    if benchmark.name in ("ai2d", "ai2d_no_mask", "mmlu", "gsm8k", "math", "math500"):
        for question in questions:
            assert benchmark.score(question, "?!", benchmark.rule) == Scored(None, 0.0)


def test_test_sets_without_answers_make_a_submission(case):
    benchmark, questions = case
    if benchmark.name not in UNPUBLISHED:
        return
    assert all(benchmark.score(q, " FOX ", benchmark.rule) == Scored("FOX", None) for q in questions)
    said = [
        Prediction(q.id, q.sample, "vision", q.type, q.kind, q.text, None, "FOX", False, benchmark.name)
        for q in questions
    ]
    key = "questionId" if benchmark.name == "docvqa_test" else "question_id"
    assert benchmark.submission(said)[0] == {key: int(questions[0].id), "answer": "FOX"}


def test_the_registry_has_the_papers_thirteen_and_their_variants():
    names = set(registry())
    assert names == set(miniature.LAYOUTS)
    assert all(benchmark.max_new_tokens >= 16 and benchmark.title for benchmark in registry().values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        registry()["docvqa"].name = "other"
