"""HumanEval (Chen et al. 2021): 164 Python functions to complete, pass@1 of greedy decoding.

Published as openai/openai_humaneval (Parquet) and by its authors (HumanEval.jsonl.gz). Programs run in `sandbox`; where
that cannot isolate them, the benchmark refuses before anything is generated.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import cells, files, sandbox
from nvlm_jax.evaluation.benchmark import Benchmark, Scored, ask
from nvlm_jax.evaluation.completions import defines, program
from nvlm_jax.evaluation.question import Question

DOWNLOAD = "hf download openai/openai_humaneval --repo-type dataset --local-dir DATA/humaneval"
COLUMNS = ("task_id", "prompt", "test", "entry_point")
INSTRUCTION = "Complete this Python function. Answer with the whole function in one block of code.\n```python\n{}\n```"
SECONDS = 3.0  # the reference's limit for one program


def load(data: pathlib.Path) -> Iterator[Question]:
    """Raises BenchmarkError also where no sandbox can be had."""
    layouts = (
        files.Layout("openai_humaneval/test-*.parquet", from_parquet),
        files.Layout("test-*.parquet", from_parquet),
        files.Layout("HumanEval.jsonl*", from_jsonl),
        files.Layout("data/HumanEval.jsonl*", from_jsonl),
    )
    questions = files.locate(data, "humaneval", ("humaneval", "human-eval", "openai_humaneval"), layouts, DOWNLOAD)
    try:
        sandbox.isolation()
    except sandbox.SandboxError as error:
        message = f"humaneval: programs that a model wrote are not run without a sandbox: {error}"
        raise files.BenchmarkError(message) from error
    return questions


def from_parquet(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    return files.each(files.chained(files.read_parquet(path, COLUMNS) for path in paths), _question)


def from_jsonl(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    return files.each(files.read_json_lines(paths[0], COLUMNS), _question)


def _question(_: int, row: files.Record) -> Question:
    id, *texts = (cells.text_of(row[key], row.where, key) for key in COLUMNS)
    true = dict(zip(COLUMNS[1:], texts, strict=True))
    if not defines(true["prompt"], true["entry_point"]):
        raise files.BenchmarkError(f"{row.where}: the prompt does not define {true['entry_point']!r}")
    if not defines(true["test"], "check"):
        raise files.BenchmarkError(f"{row.where}: the test does not define 'check'")
    return ask(id, INSTRUCTION.format(true["prompt"].rstrip()), (), true)


def score(question: Question, output: str, rule: str) -> Scored:
    """1 if the program passes its test in the sandbox."""
    true = question.answer
    code = program(output, true["prompt"], true["entry_point"])
    if code is None:
        return Scored(None, 0.0)
    ran = sandbox.run(f"{code}\n{true['test']}\ncheck({true['entry_point']})", SECONDS)
    return Scored(code, float(ran.passed))


BENCHMARKS = (Benchmark("humaneval", "HumanEval", load, score, 512, rule="pass@1", paper="humaneval"),)
