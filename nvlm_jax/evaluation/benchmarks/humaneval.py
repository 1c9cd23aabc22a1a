"""HumanEval (Chen et al. 2021): 164 Python functions to complete, pass@1 of greedy decoding.

Published as openai/openai_humaneval (Parquet) and by its authors (HumanEval.jsonl.gz). Programs run in `sandbox`; where
that cannot isolate them, the benchmark refuses before anything is generated.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import files, sandbox
from nvlm_jax.evaluation.benchmark import Benchmark, Scored, ask
from nvlm_jax.evaluation.question import Question

DOWNLOAD = "hf download openai/openai_humaneval --repo-type dataset --local-dir DATA/humaneval"
COLUMNS = ("task_id", "prompt", "test", "entry_point")
INSTRUCTION = "Complete this Python function. Answer with the whole function in one block of code.\n```python\n{}\n```"
SECONDS = 3.0  # the reference's limit for one program
_FENCE = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL | re.IGNORECASE)


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
    for path in paths:
        yield from map(_question, files.read_parquet(path, COLUMNS))


def from_jsonl(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    yield from map(_question, files.read_json_lines(paths[0], COLUMNS))


def _question(row: files.Row) -> Question:
    true = {key: row[key] for key in ("prompt", "test", "entry_point")}
    return ask(row["task_id"], INSTRUCTION.format(row["prompt"].rstrip()), (), true)


def program(output: str, prompt: str, entry_point: str) -> str | None:
    """The definitions to test: the prompt completed by a block of code, or by the output as it is; None if it is empty.

    A block with the whole function stands behind the prompt, whose own definition (a docstring alone) it replaces: so
    what the prompt imports and defines before it stays.
    """
    block = _FENCE.search(output)
    code = block[1] if block else output.rstrip()
    if not code.strip():
        return None
    if re.search(rf"^[ \t]*def[ \t]+{re.escape(entry_point)}\b", code, re.MULTILINE):
        return f"{prompt}\n    pass\n\n{code.strip(chr(10))}\n"
    return prompt + code + "\n"


def score(question: Question, output: str, rule: str) -> Scored:
    """1 if the program passes its test in the sandbox."""
    true = question.answer
    code = program(output, true["prompt"], true["entry_point"])
    if code is None:
        return Scored(None, 0.0)
    ran = sandbox.run(f"{code}\n{true['test']}\ncheck({true['entry_point']})", SECONDS)
    return Scored(code, float(ran.passed))


BENCHMARKS = (Benchmark("humaneval", "HumanEval", load, score, 512, rule="pass@1", paper="humaneval"),)
