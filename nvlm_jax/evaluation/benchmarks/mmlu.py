"""MMLU (Hendrycks et al. 2021), test, 5-shot: 57 subjects, each question after five solved ones of its subject.

Published as cais/mmlu (Parquet: all/, or a folder for each subject) and by its authors (data.tar: test/*_test.csv and
dev/*_dev.csv without header). The score is the share of all questions, not the mean over subjects.
"""

from __future__ import annotations

import pathlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nvlm_jax.evaluation import files, metrics
from nvlm_jax.evaluation.benchmark import Benchmark, Scored, ask, options_text
from nvlm_jax.evaluation.question import Question

DOWNLOAD = "hf download cais/mmlu --repo-type dataset --include 'all/*' --local-dir DATA/mmlu"
SHOTS = 5
LETTERS = "ABCD"


class Row(NamedTuple):
    """One question in either layout."""

    subject: str
    text: str
    options: list[str]
    letter: str


def load(data: pathlib.Path) -> Iterator[Question]:
    layouts = (
        files.Layout("all/test-*.parquet", from_parquet),
        files.Layout("*/test-*.parquet", from_parquet),
        files.Layout("test/*_test.csv", from_csv),
        files.Layout("data/test/*_test.csv", from_csv),
    )
    return files.locate(data, "mmlu", ("mmlu",), layouts, DOWNLOAD)


def from_parquet(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    for path in paths:
        dev = sorted(path.parent.glob("dev-*.parquet"))
        if not dev:
            raise files.BenchmarkError(f"{path.parent / 'dev-*.parquet'}: is missing; it has the solved questions")
        yield from _questions(_parquet_rows([path]), _parquet_rows(dev), str(path))


def _parquet_rows(paths: Sequence[pathlib.Path]) -> Iterator[Row]:
    for path in paths:
        for row in files.read_parquet(path, ("question", "subject", "choices", "answer")):
            # Folders of single subjects leave the column empty.
            yield Row(row["subject"] or path.parent.name, row["question"], row["choices"], LETTERS[row["answer"]])


def from_csv(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    for path in paths:
        subject = path.name.removesuffix("_test.csv")
        dev = path.parent.parent / "dev" / f"{subject}_dev.csv"
        if not dev.is_file():
            raise files.BenchmarkError(f"{dev}: is missing; its rows are the solved questions of {subject}")
        yield from _questions(_csv_rows(path, subject), _csv_rows(dev, subject), str(path))


def _csv_rows(path: pathlib.Path, subject: str) -> Iterator[Row]:
    for row in files.read_table(path, names=("question", *LETTERS, "answer")):
        yield Row(subject, row["question"], [row[letter] for letter in LETTERS], row["answer"])


def _questions(rows: Iterator[Row], solved: Iterator[Row], where: str) -> Iterator[Question]:
    shots: dict[str, list[Row]] = defaultdict(list)
    for row in solved:
        shots[row.subject].append(row)
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        if len(shots[row.subject]) < SHOTS:
            raise files.BenchmarkError(
                f"{where}: {row.subject} has {len(shots[row.subject])} solved questions beside it; expected {SHOTS}"
            )
        number = counts[row.subject]
        counts[row.subject] += 1
        true = {"letter": row.letter, "options": [str(option) for option in row.options]}
        yield ask(f"{row.subject}/{number}", prompt(row, shots[row.subject][:SHOTS]), (), true, part=row.subject)


def prompt(row: Row, shots: Sequence[Row]) -> str:
    """The authors' words: a heading, the solved questions, the question up to "Answer:"."""
    topic = row.subject.replace("_", " ")
    heading = f"The following are multiple choice questions (with answers) about {topic}."
    blocks = [f"{_block(shot)} {shot.letter}" for shot in shots]
    return "\n\n".join([heading, *blocks, _block(row)])


def _block(row: Row) -> str:
    return f"{row.text}\n{options_text(row.options)}\nAnswer:"


def score(question: Question, output: str, rule: str) -> Scored:
    """The letter that `metrics.multiple_choice` finds in the output's first line, or else in all of it."""
    options = question.answer["options"]
    output = output.strip()
    # A model that goes on with questions of its own answers this one in the first line.
    first = output.partition("\n")[0]
    letter = metrics.multiple_choice(first, options, rule=rule) or metrics.multiple_choice(output, options, rule=rule)
    return Scored(letter, float(letter == question.answer["letter"]))


BENCHMARKS = (Benchmark("mmlu", "MMLU, 5-shot", load, score, 32, rule="vlmevalkit", paper="mmlu"),)
