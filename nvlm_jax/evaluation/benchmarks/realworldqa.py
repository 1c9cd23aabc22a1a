"""RealWorldQA (xAI 2024): 765 questions about scenes, most of them with options in their text.

Published as lmms-lab/RealWorldQA and xai-org/RealworldQA (Parquet), by xAI (annotations.json beside the pictures), and
as VLMEvalKit's RealWorldQA.tsv, where all have columns of options.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import files, metrics
from nvlm_jax.evaluation.benchmark import LETTER, Benchmark, Scored, ask, options_of, options_text
from nvlm_jax.evaluation.question import Question

DOWNLOAD = "hf download lmms-lab/RealWorldQA --repo-type dataset --local-dir DATA/realworldqa"


def load(data: pathlib.Path) -> Iterator[Question]:
    layouts = (
        files.Layout("data/test-*.parquet", from_parquet),
        files.Layout("test-*.parquet", from_parquet),
        files.Layout("annotations.json", from_json),
        files.Layout("RealWorldQA.tsv", from_vlmevalkit),
    )
    return files.locate(data, "realworldqa", ("realworldqa",), layouts, DOWNLOAD)


def from_parquet(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    """The question's text says how to answer it."""
    number = 0
    for path in paths:
        for row in files.read_parquet(path, ("image", "question", "answer")):
            image = files.picture(row["image"], f"{path}, row {number}")
            yield _question(str(number), row["question"], image, row["answer"])
            number += 1


def from_json(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    path = paths[0]
    for number, row in enumerate(files.read_json(path)):
        where = f"{path}, [{number}]"
        row = files.checked(row, ("image", "question", "answer"), where)
        image = files.picture_file(path.parent / row["image"], where)
        yield _question(str(number), row["question"], image, row["answer"])


def from_vlmevalkit(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    for index, row, images in files.read_vlmevalkit(paths[0], ("question", "answer")):
        options = options_of(row)
        text = f"{row['question']}\n{options_text(options)}\n{LETTER}" if options else row["question"]
        yield _question(index, text, images[0], row["answer"])


def _question(id: str, text: str, image: bytes | pathlib.Path, answer: str) -> Question:
    answer = str(answer).strip()
    return ask(id, text, (image,), answer, part="choice" if answer.upper() in ("A", "B", "C", "D") else "open")


def score(question: Question, output: str, rule: str) -> Scored:
    """By `metrics.realworldqa`; of a choice the letter that was read is shown."""
    right = metrics.realworldqa(output.strip(), question.answer, rule=rule)
    extraction: str | None = output.strip()
    if question.type == "choice" and rule == "lmms-eval":
        extraction = metrics.multiple_choice(output.strip(), list("ABCD"), rule=rule) if extraction else None
    return Scored(extraction, float(right))


BENCHMARKS = (
    Benchmark(
        "realworldqa", "RealWorldQA", load, score, 32, rule="lmms-eval", paper_rule="megatron", paper="realworldqa"
    ),
)
