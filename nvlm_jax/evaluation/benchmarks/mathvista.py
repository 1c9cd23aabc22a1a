"""MathVista (Lu et al. 2024), testmini: 1,000 mathematical questions about pictures.

Published as AI4Math/MathVista (Parquet) and as VLMEvalKit's MathVista_MINI.tsv. The authors extract answers with a
language model; here rules do, and what they cannot read is wrong, counted and shown, unless a judge is given (`judge`).
"""

from __future__ import annotations

import pathlib
import string
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import cells, files, metrics, readings, vlmevalkit
from nvlm_jax.evaluation.benchmark import Benchmark, Scored, ask
from nvlm_jax.evaluation.question import Question

DOWNLOAD = "hf download AI4Math/MathVista --repo-type dataset --include 'data/testmini*' --local-dir DATA/mathvista"
SYSTEM = "You are math expert. Use your math knowledge to calculate the answer."  # the paper's evaluator's words
QUESTION_TYPES = ("multi_choice", "free_form")
ANSWER_TYPES = ("text", "integer", "float", "list")


def load(data: pathlib.Path) -> Iterator[Question]:
    layouts = (
        files.Layout("data/testmini-*.parquet", from_parquet),
        files.Layout("testmini-*.parquet", from_parquet),
        files.Layout("MathVista_MINI.tsv", from_vlmevalkit),
    )
    return files.locate(data, "mathvista", ("mathvista",), layouts, DOWNLOAD)


def from_parquet(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    """`query` is the question with a hint on the form of its answer; `decoded_image` the picture."""
    columns = (
        "pid", "query", "decoded_image", "choices", "precision", "answer", "question_type", "answer_type", "metadata"
    )  # fmt: skip
    return files.each(files.chained(files.read_parquet(path, columns) for path in paths), _from_parquet)


def _from_parquet(_: int, row: files.Record) -> Question:
    image = files.picture(row["decoded_image"], row.where)
    part = (row["metadata"] or {}).get("task", "")
    choices = cells.listed(row["choices"] or [], row.where, "choices")
    return _question(str(row["pid"]), row["query"], image, row, choices, part)


def from_vlmevalkit(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    columns = ("question", "answer", "choices", "question_type", "answer_type")
    return files.each(vlmevalkit.read_vlmevalkit(paths[0], columns), _from_vlmevalkit)


def _from_vlmevalkit(_: int, row: files.Record) -> Question:
    choices = cells.listed(row["choices"].strip() or [], row.where, "choices")
    return _question(row["index"], row["question"], row["images"][0], row, choices, row.get("task", ""))


def _question(id: str, text: object, image: bytes, row: files.Record, choices: list[str], part: str) -> Question:
    precision = row.get("precision")
    true = {
        "answer": cells.text_of(row["answer"], row.where, "answer"),
        "question_type": row["question_type"],
        "answer_type": row["answer_type"],
        # The published number is a float, which no rule can round to.
        "precision": int(float(precision)) if precision not in (None, "") else None,
        "choices": choices or None,
    }
    _check_answer(true, row.where)
    return ask(id, cells.text_of(text, row.where, "question"), (image,), true, part=part, system=SYSTEM)


def _check_answer(true: dict, where: str) -> None:
    """Raises BenchmarkError for an answer that no response could equal."""
    for key, known in (("question_type", QUESTION_TYPES), ("answer_type", ANSWER_TYPES)):
        if true[key] not in known:
            raise files.BenchmarkError(f"{where}: {key} is {true[key]!r}; expected one of {', '.join(known)}")
    if true["question_type"] == "multi_choice":
        if true["answer"] not in (true["choices"] or ()):
            raise files.BenchmarkError(f"{where}: answer {true['answer']!r} is none of the choices {true['choices']}")
    elif true["answer_type"] in ("integer", "float"):
        try:
            float(true["answer"])
        except ValueError:
            message = f"{where}: answer {true['answer']!r} is no number, as its answer_type says"
            raise files.BenchmarkError(message) from None


def extract(output: str, question: Question) -> str | None:
    """The answer in a response, by the rules of `readings`: a choice's letter, a list, a number, or the text."""
    true, output = question.answer, output.strip()
    if true["question_type"] == "multi_choice":
        return readings.read_choice(output, true["choices"], question.text)
    if true["answer_type"] == "list":
        return readings.read_list(output)
    if true["answer_type"] in ("integer", "float"):
        return readings.read_number(output)
    return readings.read_text(output)


def score(question: Question, output: str, rule: str) -> Scored:
    """`extract`, then `metrics.mathvista`. The paper's rule extracts by itself."""
    if rule == "megatron":
        return _paper_score(question, output.strip())
    extraction = extract(output, question)
    if extraction is None:
        return Scored(None, 0.0)
    return Scored(extraction, float(metrics.mathvista(extraction, *_facts(question), rule=rule)))


def _paper_score(question: Question, output: str) -> Scored:
    """As Megatron-LM: where no choice can be read, the first one is taken."""
    choices = question.answer["choices"]
    if question.answer["question_type"] != "multi_choice":
        return Scored(output or None, float(metrics.mathvista(output, *_facts(question), rule="megatron")))
    letter = metrics.mmmu_choice(output, choices, rule="megatron")
    taken = choices[string.ascii_uppercase.index(letter or "A")]
    return Scored(letter, float(taken == question.answer["answer"]))


def _facts(question: Question) -> list:
    return [question.answer[key] for key in ("answer", "question_type", "answer_type", "precision", "choices")]


BENCHMARKS = (
    Benchmark(
        "mathvista", "MathVista testmini", load, score, 512, rule="lmms-eval", paper_rule="megatron", paper="mathvista",
        judged=True,
    ),
)  # fmt: skip
