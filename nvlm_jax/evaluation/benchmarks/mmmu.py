"""MMMU (Yue et al. 2024), validation, standard: 900 college questions of 30 subjects, up to seven images each.

Published as MMMU/MMMU (Parquet, a folder for each subject) and as VLMEvalKit's MMMU_DEV_VAL.tsv. `<image 2>` in a
question or an option is where the second image goes; named again, it stays as text.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import string
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import cells, files, metrics, vlmevalkit
from nvlm_jax.evaluation.benchmark import LETTER, SHORT, Benchmark, Scored, ask, options_of, options_text
from nvlm_jax.evaluation.question import Question
from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER, Message

DOWNLOAD = "hf download MMMU/MMMU --repo-type dataset --include '*/validation*' --local-dir DATA/mmmu"
QUESTION_TYPES = ("multiple-choice", "open")
SYSTEM = "Answer the questions."
IMAGES = tuple(f"image_{number}" for number in range(1, 8))
_NAMED = re.compile(r"<image (\d)>")


def load(data: pathlib.Path) -> Iterator[Question]:
    layouts = (
        files.Layout("*/validation-*.parquet", from_parquet),
        files.Layout("MMMU_DEV_VAL.tsv", from_vlmevalkit),
    )
    return files.locate(data, "mmmu", ("mmmu",), layouts, DOWNLOAD)


def from_parquet(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    return files.chained(_from_parquet(path) for path in paths)


def _from_parquet(path: pathlib.Path) -> Iterator[Question]:
    def question(_: int, row: files.Record) -> Question:
        row.where = f"{path}, {row['id']}"
        if row["question_type"] not in QUESTION_TYPES:
            expected = " or ".join(QUESTION_TYPES)
            raise files.BenchmarkError(f"{row.where}: question_type is {row['question_type']!r}; expected {expected}")
        images = {int(name[-1]): files.picture(row[name], row.where) for name in IMAGES if row[name]}
        choice = row["question_type"] == QUESTION_TYPES[0]
        options = cells.listed(row["options"], row.where, "options") if choice else []
        if choice and not options:
            raise files.BenchmarkError(f"{row.where}: has no options")
        return _question(row["id"], row, options, images, path.parent.name)

    columns = ("id", "question", "options", "answer", "question_type", *IMAGES)
    return files.each(files.read_parquet(path, columns), question)


def from_vlmevalkit(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    """Rows of the split `validation`."""
    columns = ("question", "answer", "category", "split")
    return files.each(_validation(vlmevalkit.read_vlmevalkit(paths[0], columns)), _from_vlmevalkit)


@files.resumable
def _validation(rows: Iterator[files.Record]) -> Iterator[files.Record | files.BenchmarkError]:
    for row in files.outcomes(rows):
        if isinstance(row, files.BenchmarkError) or row["split"] == "validation":
            yield row


def _from_vlmevalkit(_: int, row: files.Record) -> Question:
    images = dict(enumerate(row["images"], 1))
    return _question(row.get("id") or row["index"], row, options_of(row), images, row["category"])


def _question(id: str, row: files.Record, options: list[str], images: dict[int, bytes], part: str) -> Question:
    text = cells.text_of(row["question"], row.where, "question")
    text = f"{text}\n{options_text(options, '({}) {}')}\n{LETTER}" if options else f"{text}\n{SHORT}"
    text, order = place_images(text, images, row.where)
    true = {"answer": _answer(row["answer"], options, row.where), "options": options}
    question = ask(id, text, (), true, part=part, system=SYSTEM)
    # `ask` would put the images first; here they stand where the text names them.
    messages = (question.messages[0], Message("user", text))
    return dataclasses.replace(question, messages=messages, images=tuple(images[n] for n in order), kind="content")


def _answer(answer: object, options: list[str], where: str) -> str | list[str]:
    """The letter of the right option, or the texts that an open question accepts."""
    if options:
        return cells.letter_of(answer, where, string.ascii_uppercase[: len(options)])
    return cells.texts_in(answer, where, "answer")


def place_images(text: str, images: dict[int, bytes], where: str) -> tuple[str, list[int]]:
    """The text with each image's place, and the images' numbers in that order; those never named come first.

    >>> place_images("<image 1> or <image 2>? Not <image 1>.", {1: b"", 2: b""}, "")
    ('<image> or <image>? Not image 1.', [1, 2])
    """
    order: list[int] = []

    def place(match: re.Match[str]) -> str:
        number = int(match[1])
        if number not in images:
            raise files.BenchmarkError(f"{where}: names {match[0]}, and has images {sorted(images)}")
        if number in order:
            return f"image {number}"
        order.append(number)
        return IMAGE_PLACEHOLDER

    text = _NAMED.sub(place, text)
    unnamed = [number for number in sorted(images) if number not in order]
    return f"{IMAGE_PLACEHOLDER}\n" * len(unnamed) + text, unnamed + order


def score(question: Question, output: str, rule: str) -> Scored:
    """The letter that `metrics.mmmu_choice` finds, or an open answer by `metrics.mmmu_open`.

    The paper's rule looks into a box first, and takes option A where it reads no letter.
    """
    output, true = output.strip(), question.answer
    if not true["options"]:
        return Scored(output or None, float(bool(output) and metrics.mmmu_open(output, true["answer"])))
    if rule == "megatron":
        output = _boxed(output)
    letter = metrics.mmmu_choice(output, true["options"], rule=rule)
    taken = "A" if letter is None and rule == "megatron" else letter
    return Scored(letter, float(taken == true["answer"]))


def _boxed(output: str) -> str:
    r"""What the first \answer{...}, else the first \boxed{...}, holds up to its first brace; else the output itself.

    Source: Megatron-LM `evaluate_mmmu.py`, extract_answer.
    """
    box = re.search(r"\\answer\{(.*?)\}", output) or re.search(r"\\boxed\{(.*?)\}", output)
    return box[1] if box else output.replace("Answer:", "Answer: ")


BENCHMARKS = (
    Benchmark("mmmu", "MMMU val", load, score, 128, rule="mmmu", paper_rule="megatron", paper="mmmu", judged=True),
)
