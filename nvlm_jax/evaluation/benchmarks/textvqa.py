"""TextVQA (Singh et al. 2019), val: ten people's answers to questions about text in photographs.

Published by textvqa.org (TextVQA_0.5.1_val.json beside train_images/), as lmms-lab/textvqa (Parquet) and as
VLMEvalKit's TextVQA_VAL.tsv.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import files, metrics
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
    for path in paths:
        for row in files.read_parquet(path, ("question_id", "image_id", "question", "answers", "image")):
            image = files.picture(row["image"], f"{path}, question {row['question_id']}")
            yield _question(row["question_id"], row["question"], image, row["answers"], row["image_id"])


def from_json(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    """The images of val are in the train_images/ of train_val_images.zip."""
    path = paths[0]
    for number, row in enumerate(files.checked(files.read_json(path), ("data",), str(path))["data"]):
        where = f"{path}, data[{number}]"
        row = files.checked(row, ("question_id", "image_id", "question", "answers"), where)
        image = files.picture_file(path.parent / "train_images" / f"{row['image_id']}.jpg", where)
        yield _question(row["question_id"], row["question"], image, row["answers"], row["image_id"])


def from_vlmevalkit(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    for index, row, images in files.read_vlmevalkit(paths[0], ("question", "answer")):
        answers = files.listed(row["answer"], f"{paths[0]}, index {index}")
        yield _question(index, row["question"], images[0], answers, index)


def _question(id: object, text: str, image: bytes | pathlib.Path, answers: list, page: object) -> Question:
    return ask(str(id), f"{text}\n{SHORT_OR_NUMBER}", (image,), [str(a) for a in answers], sample=str(page))


def score(question: Question, output: str, rule: str) -> Scored:
    """The stripped output by `metrics.textvqa_accuracy`."""
    output = output.strip()
    return Scored(output, metrics.textvqa_accuracy(output, question.answer, rule=rule))


BENCHMARKS = (Benchmark("textvqa", "TextVQA val", load, score, 32, rule="mmf", paper_rule="megatron", paper="textvqa"),)
