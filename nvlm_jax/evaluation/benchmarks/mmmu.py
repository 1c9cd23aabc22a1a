"""MMMU (Yue et al. 2024), validation, standard: 900 college questions of 30 subjects, up to seven images each.

Published as MMMU/MMMU (Parquet, a folder for each subject) and as VLMEvalKit's MMMU_DEV_VAL.tsv. `<image 2>` in a
question or an option is where the second image goes; named again, it stays as text.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import files, metrics
from nvlm_jax.evaluation.benchmark import LETTER, SHORT, Benchmark, Scored, ask, options_of, options_text
from nvlm_jax.evaluation.question import Question
from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER, Message

DOWNLOAD = "hf download MMMU/MMMU --repo-type dataset --include '*/validation*' --local-dir DATA/mmmu"
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
    for path in paths:
        columns = ("id", "question", "options", "answer", "question_type", *IMAGES)
        for row in files.read_parquet(path, columns):
            where = f"{path}, {row['id']}"
            images = {int(name[-1]): files.picture(row[name], where) for name in IMAGES if row[name]}
            options = files.listed(row["options"], where) if row["question_type"] == "multiple-choice" else []
            answer = row["answer"] if options else files.listed(row["answer"], where)
            yield _question(row["id"], row["question"], options, answer, images, path.parent.name, where)


def from_vlmevalkit(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    """Rows of the split `validation`."""
    for index, row, pictures in files.read_vlmevalkit(paths[0], ("question", "answer", "category", "split")):
        if row["split"] != "validation":
            continue
        where, options = f"{paths[0]}, index {index}", options_of(row)
        answer = row["answer"] if options else files.listed(row["answer"], where)
        images = dict(enumerate(pictures, 1))
        yield _question(row.get("id") or index, row["question"], options, answer, images, row["category"], where)


def _question(
    id: str, text: str, options: list, answer: object, images: dict[int, bytes], part: str, where: str
) -> Question:
    options = [str(option) for option in options]
    text = f"{text}\n{options_text(options, '({}) {}')}\n{LETTER}" if options else f"{text}\n{SHORT}"
    text, order = place_images(text, images, where)
    question = ask(id, text, (), {"answer": answer, "options": options}, part=part, system=SYSTEM)
    # `ask` would put the images first; here they stand where the text names them.
    messages = (question.messages[0], Message("user", text))
    return dataclasses.replace(question, messages=messages, images=tuple(images[n] for n in order), kind="content")


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
    """The letter that `metrics.mmmu_choice` finds, or an open answer by `metrics.mmmu_open`."""
    output, true = output.strip(), question.answer
    if not true["options"]:
        return Scored(output or None, float(bool(output) and metrics.mmmu_open(output, true["answer"])))
    letter = metrics.mmmu_choice(output, true["options"], rule=rule)
    return Scored(letter, float(letter == true["answer"]))


BENCHMARKS = (
    Benchmark("mmmu", "MMMU val", load, score, 128, rule="mmmu", paper_rule="megatron", paper="mmmu", judged=True),
)
