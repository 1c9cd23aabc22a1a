"""MathVista (Lu et al. 2024), testmini: 1,000 mathematical questions about pictures.

Published as AI4Math/MathVista (Parquet) and as VLMEvalKit's MathVista_MINI.tsv. The authors extract answers with a
language model; here rules do, and what they cannot read is wrong, counted and shown, unless a judge is given (`judge`).
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import files, metrics
from nvlm_jax.evaluation.benchmark import Benchmark, Scored, ask
from nvlm_jax.evaluation.question import Question

DOWNLOAD = "hf download AI4Math/MathVista --repo-type dataset --include 'data/testmini*' --local-dir DATA/mathvista"
SYSTEM = "You are math expert. Use your math knowledge to calculate the answer."  # the paper's evaluator's words
_AFTER_CUE = re.compile(r"answer\s*(?:is|:|=)\s*[:\"'*$(]*\s*(.+)", re.IGNORECASE)
_NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_LIST = re.compile(r"\[[^\[\]]*\]")


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
    for path in paths:
        for row in files.read_parquet(path, columns):
            image = files.picture(row["decoded_image"], f"{path}, pid {row['pid']}")
            part = (row["metadata"] or {}).get("task", "")
            yield _question(row["pid"], row["query"], image, row, row["choices"] or [], part)


def from_vlmevalkit(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    columns = ("question", "answer", "choices", "question_type", "answer_type")
    for index, row, images in files.read_vlmevalkit(paths[0], columns):
        choices = files.listed(row["choices"], f"{paths[0]}, index {index}") if row["choices"].strip() else []
        yield _question(index, row["question"], images[0], row, choices, row.get("task", ""))


def _question(id: str, text: str, image: bytes, row: files.Row, choices: list, part: str) -> Question:
    precision = row.get("precision")
    true = {
        "answer": str(row["answer"]),
        "question_type": row["question_type"],
        "answer_type": row["answer_type"],
        # The published number is a float, which no rule can round to.
        "precision": int(float(precision)) if precision not in (None, "") else None,
        "choices": [str(choice) for choice in choices] or None,
    }
    return ask(id, text, (image,), true, part=part, system=SYSTEM)


def extract(output: str, question: Question) -> str | None:
    """The answer in a response, by rules: a choice's letter or text, a list, a number, or the text; else None.

    What follows "answer is" or "answer:" is looked at first, then the whole response; of several numbers the last.
    """
    true, output = question.answer, output.strip()
    cue = _AFTER_CUE.search(output)
    for text in ([cue[1]] if cue else []) + [output]:
        if found := _extract_from(text.strip(), true):
            return found
    return None


def _extract_from(text: str, true: dict) -> str | None:
    if true["question_type"] == "multi_choice":
        choices = true["choices"]
        letter = metrics.mmmu_choice(text, choices) or metrics.multiple_choice(text, choices)
        return letter if letter != "Z" else None
    if true["answer_type"] == "list":
        found = _LIST.findall(text)
        return found[-1] if found else None
    if true["answer_type"] in ("integer", "float"):
        found = _NUMBER.findall(text)
        return found[-1].replace(",", "") if found else None
    return text.rstrip(".") or None


def score(question: Question, output: str, rule: str) -> Scored:
    """`extract`, then `metrics.mathvista`. The paper's rule extracts by itself."""
    true = question.answer
    extraction = output.strip() or None if rule == "megatron" else extract(output, question)
    if extraction is None:
        return Scored(None, 0.0)
    facts = [true[key] for key in ("answer", "question_type", "answer_type", "precision", "choices")]
    return Scored(extraction, float(metrics.mathvista(extraction, *facts, rule=rule)))


BENCHMARKS = (
    Benchmark(
        "mathvista", "MathVista testmini", load, score, 512, rule="lmms-eval", paper_rule="megatron", paper="mathvista",
        judged=True,
    ),
)  # fmt: skip
