"""GSM8K (Cobbe et al. 2021), test: word problems whose answer is a number.

Published as openai/gsm8k (Parquet) and by its authors (grade_school_math/data/test.jsonl).
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import cells, files, metrics
from nvlm_jax.evaluation.benchmark import Benchmark, Scored, ask
from nvlm_jax.evaluation.question import Question
from nvlm_jax.evaluation.readings import own_part

DOWNLOAD = "hf download openai/gsm8k --repo-type dataset --local-dir DATA/gsm8k"
INSTRUCTION = 'Solve it step by step, then write the answer as a number after "#### " on the last line.'
# "#### 1. Count the pens" is a heading.
_MARKED = re.compile(r"#{4}[ \t]*(-?\$?-?\d[\d,]*(?:\.\d+)?)(?!\d|[.)] +[A-Za-z])")
_TRUE_NUMBER = re.compile(r"\s*\$?(-?\$?\d[\d,]*(?:\.\d+)?)")


def load(data: pathlib.Path) -> Iterator[Question]:
    layouts = (
        files.Layout("main/test-*.parquet", from_parquet),
        files.Layout("test-*.parquet", from_parquet),
        files.Layout("test.jsonl", from_jsonl),
        files.Layout("grade_school_math/data/test.jsonl", from_jsonl),
    )
    return files.locate(data, "gsm8k", ("gsm8k", "grade-school-math"), layouts, DOWNLOAD)


def from_parquet(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    return _questions(files.chained(files.read_parquet(path, ("question", "answer")) for path in paths), paths[0])


def from_jsonl(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    return _questions(files.read_json_lines(paths[0], ("question", "answer")), paths[0])


def _questions(rows: Iterator[files.Record], path: pathlib.Path) -> Iterator[Question]:
    def question(number: int, row: files.Record) -> Question:
        where = f"{path}, row {number}"
        text = cells.text_of(row["question"], where, "question")
        answer = _true_answer(cells.text_of(row["answer"], where, "answer"), where)
        return ask(str(number), f"{text}\n{INSTRUCTION}", (), answer)

    return files.each(rows, question)


def _true_answer(solution: str, where: str) -> str:
    """The number behind the last "####" of a solution; what else follows it on the line or below does not count."""
    _, hashes, rest = solution.rpartition("####")
    if not hashes:
        raise files.BenchmarkError(f'{where}: the solution has no "#### " before its answer')
    number = _TRUE_NUMBER.match(rest)
    if not number:
        raise files.BenchmarkError(f'{where}: no number behind "####", but {rest.strip()[:40]!r}')
    return number[1]


def score(question: Question, output: str, rule: str) -> Scored:
    """By `metrics.gsm8k`, of the number behind the last "####" where there is one, as the prompt asks for.

    What follows it does not count, nor do questions that the model goes on to ask itself.
    """
    output = own_part(output)
    marked = _MARKED.findall(output)
    said = f"#### {marked[-1]}" if marked else output
    found = metrics.gsm8k_extract(said, rule=rule)
    return Scored(found, float(metrics.gsm8k(said, question.answer, rule=rule)))


BENCHMARKS = (Benchmark("gsm8k", "GSM8K", load, score, 512, rule="flexible-extract", paper="gsm8k"),)
