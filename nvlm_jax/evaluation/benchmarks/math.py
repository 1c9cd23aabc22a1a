"""MATH (Hendrycks et al. 2021), test: competition problems; all 5,000 (`math`), or Lightman et al.'s 500 (`math500`).

The 5,000 are published as EleutherAI/hendrycks_math (Parquet, a folder for each subject) and by their authors
(MATH.tar: test/SUBJECT/N.json); the 500 as HuggingFaceH4/MATH-500 (test.jsonl).
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import files, metrics
from nvlm_jax.evaluation.benchmark import Benchmark, Scored, ask
from nvlm_jax.evaluation.question import Question

DOWNLOAD = "hf download EleutherAI/hendrycks_math --repo-type dataset --local-dir DATA/math"
DOWNLOAD_500 = "hf download HuggingFaceH4/MATH-500 --repo-type dataset --local-dir DATA/math500"
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
    for path in paths:
        for number, row in enumerate(files.read_parquet(path, ("problem", "solution", "type"))):
            yield _from_solution(f"{path.parent.name}/{number}", row, f"{path}, row {number}")


def from_json(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    for path in paths:
        row = files.checked(files.read_json(path), ("problem", "solution", "type"), str(path))
        yield _from_solution(f"{path.parent.name}/{path.stem}", row, str(path))


def from_jsonl(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    for row in files.read_json_lines(paths[0], ("problem", "answer", "subject", "unique_id")):
        yield ask(row["unique_id"], f"{row['problem']}\n{INSTRUCTION}", (), row["answer"], part=row["subject"])


def _from_solution(id: str, row: files.Row, where: str) -> Question:
    answer = metrics.math_extract(_with_braces(row["solution"]))
    if answer is None:
        raise files.BenchmarkError(f"{where}: the solution has no \\boxed answer")
    return ask(id, f"{row['problem']}\n{INSTRUCTION}", (), answer, part=row["type"])


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
