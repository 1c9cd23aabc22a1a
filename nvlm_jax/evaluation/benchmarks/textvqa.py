"""TextVQA (Singh et al. 2019), val: ten people's answers to questions about text in photographs.

Published by textvqa.org (TextVQA_0.5.1_val.json beside train_images/), as lmms-lab/textvqa (Parquet) and as
VLMEvalKit's TextVQA_VAL.tsv.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import cells, files, metrics, vlmevalkit
from nvlm_jax.evaluation.benchmark import SHORT_OR_NUMBER, Benchmark, Scored, ask
from nvlm_jax.evaluation.question import Question

DOWNLOAD = "hf download lmms-lab/textvqa --repo-type dataset --include 'data/validation*' --local-dir DATA/textvqa"


def load(data: pathlib.Path) -> Iterator[Question]:
    layouts = (
        files.Layout("data/validation-*.parquet", from_parquet),
        files.Layout("validation-*.parquet", from_parquet),
        files.Layout("TextVQA_0.5.1_val.json", from_json),
        files.Layout("TextVQA_VAL.tsv", from_vlmevalkit),
    )
    return files.locate(data, "textvqa", ("textvqa",), layouts, DOWNLOAD)


def from_parquet(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    columns = ("question_id", "image_id", "question", "answers", "image")
    return files.each(files.chained(files.read_parquet(path, columns) for path in paths), _from_parquet)


def _from_parquet(_: int, row: files.Record) -> Question:
    image = files.picture(row["image"], row.where)
    answers = cells.texts_of(row["answers"], row.where, "answers")
    return _question(row["question_id"], row, image, answers, row["image_id"])


def from_json(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    """The images of val are in the train_images/ of train_val_images.zip."""
    folder = paths[0].parent / "train_images"

    def question(_: int, row: files.Record) -> Question:
        image = files.picture_file(folder / f"{row['image_id']}.jpg", row.where)
        answers = cells.texts_of(row["answers"], row.where, "answers")
        return _question(row["question_id"], row, image, answers, row["image_id"])

    columns = ("question_id", "image_id", "question", "answers")
    return files.each(files.read_records(paths[0], columns, "data"), question)


def from_vlmevalkit(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    return files.each(vlmevalkit.read_vlmevalkit(paths[0], ("question", "answer")), _from_vlmevalkit)


def _from_vlmevalkit(_: int, row: files.Record) -> Question:
    answers = cells.texts_in(row["answer"], row.where, "answer")
    return _question(row["index"], row, row["images"][0], answers, row["index"])


def _question(id: object, row: files.Record, image: bytes | pathlib.Path, answers: list[str], page: object) -> Question:
    text = cells.text_of(row["question"], row.where, "question")
    return ask(str(id), f"{text}\n{SHORT_OR_NUMBER}", (image,), answers, sample=str(page))


def score(question: Question, output: str, rule: str) -> Scored:
    """The stripped output by `metrics.textvqa_accuracy`."""
    output = output.strip()
    return Scored(output, metrics.textvqa_accuracy(output, question.answer, rule=rule))


BENCHMARKS = (Benchmark("textvqa", "TextVQA val", load, score, 32, rule="mmf", paper_rule="megatron", paper="textvqa"),)
