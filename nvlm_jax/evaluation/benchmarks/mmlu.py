"""MMLU (Hendrycks et al. 2021), test, 5-shot: 57 subjects, each question after five solved ones of its subject.

Published as cais/mmlu (Parquet: all/, or a folder for each subject) and by its authors (data.tar: test/*_test.csv and
dev/*_dev.csv without header; letters for answers). The score is the share of all questions, not the mean over subjects.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from nvlm_jax.evaluation import cells, files, metrics
from nvlm_jax.evaluation.benchmark import Benchmark, Scored, ask, options_text
from nvlm_jax.evaluation.question import Question

DOWNLOAD = "hf download cais/mmlu --repo-type dataset --include 'all/*' --local-dir DATA/mmlu"
SHOTS = 5
LETTERS = "ABCD"


COLUMNS = ("question", *LETTERS, "letter")  # of the authors' tables, which have no header


class Row(NamedTuple):
    """One question in either layout."""

    subject: str
    text: str
    options: list[str]
    letter: str
    where: str


def load(data: pathlib.Path) -> Iterator[Question]:
    layouts = (
        files.Layout("all/test-*.parquet", from_parquet),
        files.Layout("*/test-*.parquet", from_parquet),
        files.Layout("test/*_test.csv", from_csv),
        files.Layout("data/test/*_test.csv", from_csv),
    )
    return files.locate(data, "mmlu", ("mmlu",), layouts, DOWNLOAD)


def from_parquet(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    return files.chained(_questions(path, path.parent, "dev-*.parquet", _parquet_rows) for path in paths)


def _parquet_rows(path: pathlib.Path) -> Iterator[files.Record]:
    return files.read_parquet(path, ("question", "subject", "choices", "answer"))


def from_csv(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    """The authors' tables, or ones with a header that name their columns and may give indices for letters."""
    solved = ((path, path.parent.parent / "dev", path.name.replace("_test.csv", "_dev.csv")) for path in paths)
    return files.chained(_questions(path, folder, name, _csv_rows) for path, folder, name in solved)


def _csv_rows(path: pathlib.Path) -> Iterator[files.Record]:
    header = {cell.strip().lower() for cell in files.first_cells(path)} >= {"question", "answer"}
    return files.read_table(path, names=() if header else COLUMNS)


@files.resumable
def _questions(
    path: pathlib.Path, folder: pathlib.Path, name: str, read: Callable[[pathlib.Path], Iterator[files.Record]]
) -> Iterator[Question | files.BenchmarkError]:
    """The questions of a file, each asked after solved ones of the files `name` in `folder`."""
    solved = sorted(folder.glob(name)) if folder.is_dir() else []
    if not solved:
        yield files.BenchmarkError(f"{folder / name}: is missing; it has the solved questions of {path}")
        return
    shots: dict[str, list[Row]] = defaultdict(list)
    for row in _rows(files.chained(read(file) for file in solved), path):
        if isinstance(row, files.BenchmarkError):
            yield row
        else:
            shots[row.subject].append(row)
    counts: dict[str, int] = defaultdict(int)
    for row in _rows(read(path), path):
        if isinstance(row, files.BenchmarkError):
            yield row
            continue
        number = counts[row.subject]
        counts[row.subject] += 1
        if len(shots[row.subject]) >= SHOTS:
            yield _question(row, number, shots[row.subject][:SHOTS])
        elif number == 0:
            has = f"{row.subject} has {len(shots[row.subject])} solved questions beside it"
            yield files.BenchmarkError(f"{path}: {has}; expected {SHOTS}")


def _rows(records: Iterator[files.Record], path: pathlib.Path) -> Iterator[Row | files.BenchmarkError]:
    for record in files.outcomes(records):
        try:
            yield record if isinstance(record, files.BenchmarkError) else _row(record, path)
        except files.BenchmarkError as error:
            yield error


def _row(record: files.Record, path: pathlib.Path) -> Row:
    where = record.where
    cell = {str(name).strip().lower(): value for name, value in record.items()}
    # In cais/mmlu a folder of a single subject leaves the column empty; a table is of the subject that names it.
    subject = path.name.removesuffix("_test.csv") if path.suffix == ".csv" else cell["subject"] or path.parent.name
    if "choices" in cell:
        options = cells.listed(cell["choices"], where, "choices")
    else:
        options = [str(files.checked(cell, [letter], where)[letter]) for letter in LETTERS.lower()]
    if len(options) != len(LETTERS):
        raise files.BenchmarkError(f"{where}: {len(options)} choices; expected {len(LETTERS)}")
    text = cells.text_of(files.checked(cell, ("question",), where)["question"], where, "question")
    return Row(subject, text, options, _letter(cell, where), where)


def _letter(cell: dict[str, object], where: str) -> str:
    """The right option's letter; a file that names its columns may give its index, from 0."""
    if "letter" in cell:
        return cells.letter_of(cell["letter"], where, LETTERS)
    answer = str(cell["answer"]).strip()
    return LETTERS[int(answer)] if answer in ("0", "1", "2", "3") else cells.letter_of(answer, where, LETTERS)


def _question(row: Row, number: int, shots: Sequence[Row]) -> Question:
    true = {"letter": row.letter, "options": row.options}
    question = ask(f"{row.subject}/{number}", prompt(row, shots), (), true, part=row.subject)
    return dataclasses.replace(question, where=row.where)


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
