"""RealWorldQA (xAI 2024): 765 questions about scenes, most of them with options in their text.

Published as lmms-lab/RealWorldQA and xai-org/RealworldQA (Parquet), by xAI (annotations.json beside the pictures), and
as VLMEvalKit's RealWorldQA.tsv, where all have columns of options.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import cells, files, metrics, vlmevalkit
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
    columns = ("image", "question", "answer")
    return files.each(files.chained(files.read_parquet(path, columns) for path in paths), _from_parquet)


def _from_parquet(number: int, row: files.Record) -> Question:
    return _question(str(number), row, files.picture(row["image"], row.where))


def from_json(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    folder = paths[0].parent

    def question(number: int, row: files.Record) -> Question:
        return _question(str(number), row, files.picture_file(folder / row["image"], row.where))

    return files.each(files.read_records(paths[0], ("image", "question", "answer")), question)


def from_vlmevalkit(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    return files.each(vlmevalkit.read_vlmevalkit(paths[0], ("question", "answer")), _from_vlmevalkit)


def _from_vlmevalkit(_: int, row: files.Record) -> Question:
    options = options_of(row)
    if options:
        cells.letter_of(row["answer"], row.where, "ABCDEFGHIJ"[: len(options)])
    return _question(row["index"], row, row["images"][0], f"\n{options_text(options)}\n{LETTER}" if options else "")


def _question(id: str, row: files.Record, image: bytes | pathlib.Path, ending: str = "") -> Question:
    text = cells.text_of(row["question"], row.where, "question") + ending
    answer = cells.text_of(row["answer"], row.where, "answer").strip()
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
