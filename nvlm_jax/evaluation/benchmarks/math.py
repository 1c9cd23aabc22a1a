"""MATH (Hendrycks et al. 2021), test: competition problems; all 5,000 (`math`), or Lightman et al.'s 500 (`math500`).

The 5,000 are published as EleutherAI/hendrycks_math (Parquet, a folder for each subject) and by their authors
(MATH.tar: test/SUBJECT/N.json); the 500 as HuggingFaceH4/MATH-500 (test.jsonl).
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import cells, files, metrics
from nvlm_jax.evaluation.benchmark import Benchmark, Scored, ask
from nvlm_jax.evaluation.question import Question

DOWNLOAD = "hf download EleutherAI/hendrycks_math --repo-type dataset --local-dir DATA/math"
DOWNLOAD_500 = "hf download HuggingFaceH4/MATH-500 --repo-type dataset --local-dir DATA/math500"
SOLVED = ("problem", "solution", "type")  # columns
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def load(data: pathlib.Path) -> Iterator[Question]:
    layouts = (
        files.Layout("*/test-*.parquet", from_parquet),
        files.Layout("test/*/*.json", from_json),
        files.Layout("MATH/test/*/*.json", from_json),
    )
    return files.locate(data, "math", ("math", "hendrycks_math"), layouts, DOWNLOAD)


def load_500(data: pathlib.Path) -> Iterator[Question]:
    layouts = (files.Layout("test.jsonl", from_jsonl),)
    return files.locate(data, "math500", ("math500", "math-500"), layouts, DOWNLOAD_500)


def from_parquet(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    return files.chained(_from_parquet(path) for path in paths)


def _from_parquet(path: pathlib.Path) -> Iterator[Question]:
    rows = files.read_parquet(path, SOLVED)
    return files.each(rows, lambda number, row: _from_solution(f"{path.parent.name}/{number}", row))


def from_json(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    return files.chained(_from_json(path) for path in paths)


def _from_json(path: pathlib.Path) -> Iterator[Question]:
    rows = files.read_object(path, SOLVED)
    return files.each(rows, lambda _, row: _from_solution(f"{path.parent.name}/{path.stem}", row))


def from_jsonl(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    return files.each(files.read_json_lines(paths[0], ("problem", "answer", "subject", "unique_id")), _from_answer)


def _from_answer(_: int, row: files.Record) -> Question:
    problem, answer, subject, id = (
        cells.text_of(row[key], row.where, key) for key in ("problem", "answer", "subject", "unique_id")
    )
    return ask(id, f"{problem}\n{INSTRUCTION}", (), answer, part=subject)


def _from_solution(id: str, row: files.Record) -> Question:
    problem, solution, part = (cells.text_of(row[key], row.where, key) for key in SOLVED)
    answer = metrics.math_extract(_with_braces(solution))
    if answer is None:
        raise files.BenchmarkError(f"{row.where}: the solution has no \\boxed answer")
    return ask(id, f"{problem}\n{INSTRUCTION}", (), answer, part=part)


def _with_braces(solution: str) -> str:
    r"""A few solutions end in `\boxed 5` or in `\fbox{5}`.

    >>> _with_braces(r"so $\boxed 5$.")
    'so $\\boxed{5}$.'
    """
    solution = solution.replace("\\fbox{", "\\boxed{")
    before, box, after = solution.rpartition("\\boxed ")
    if not box or "\\boxed{" in after:
        return solution
    answer, dollar, rest = after.partition("$")
    return f"{before}\\boxed{{{answer}}}{dollar}{rest}"


def score(question: Question, output: str, rule: str) -> Scored:
    """`metrics.math_extract`, then `metrics.math_equivalent`."""
    found = metrics.math_extract(output, rule=rule)
    return Scored(found, float(found is not None and metrics.math_equivalent(found, question.answer)))


BENCHMARKS = (
    Benchmark("math", "MATH, 5,000", load, score, 1024, rule="hendrycks", paper="math"),
    Benchmark("math500", "MATH, 500", load_500, score, 1024, rule="hendrycks", paper="math"),
)
