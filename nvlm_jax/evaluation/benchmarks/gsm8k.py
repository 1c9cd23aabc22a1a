"""GSM8K (Cobbe et al. 2021), test: word problems whose answer is a number.

Published as openai/gsm8k (Parquet) and by its authors (grade_school_math/data/test.jsonl).
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import files, metrics
from nvlm_jax.evaluation.benchmark import Benchmark, Scored, ask
from nvlm_jax.evaluation.question import Question

DOWNLOAD = "hf download openai/gsm8k --repo-type dataset --local-dir DATA/gsm8k"
INSTRUCTION = 'Solve it step by step, then write the answer as a number after "#### " on the last line.'


def load(data: pathlib.Path) -> Iterator[Question]:
    layouts = (
        files.Layout("main/test-*.parquet", from_parquet),
        files.Layout("test-*.parquet", from_parquet),
        files.Layout("test.jsonl", from_jsonl),
        files.Layout("grade_school_math/data/test.jsonl", from_jsonl),
    )
    return files.locate(data, "gsm8k", ("gsm8k", "grade-school-math"), layouts, DOWNLOAD)


def from_parquet(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    rows = (row for path in paths for row in files.read_parquet(path, ("question", "answer")))
    return _questions(rows, str(paths[0]))


def from_jsonl(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    return _questions(files.read_json_lines(paths[0], ("question", "answer")), str(paths[0]))


def _questions(rows: Iterator[files.Row], where: str) -> Iterator[Question]:
    for number, row in enumerate(rows):
        _, hashes, answer = row["answer"].rpartition("#### ")
        if not hashes:
            raise files.BenchmarkError(f'{where}, row {number}: the solution has no "#### " before its answer')
        yield ask(str(number), f"{row['question']}\n{INSTRUCTION}", (), answer.strip())


def score(question: Question, output: str, rule: str) -> Scored:
    """By `metrics.gsm8k`."""
    found = metrics.gsm8k_extract(output, rule=rule)
    return Scored(found, float(metrics.gsm8k(output, question.answer, rule=rule)))


BENCHMARKS = (Benchmark("gsm8k", "GSM8K", load, score, 512, rule="flexible-extract", paper="gsm8k"),)
