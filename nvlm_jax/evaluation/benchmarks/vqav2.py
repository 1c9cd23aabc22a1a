"""VQAv2 (Goyal et al. 2017): ten people's answers to questions about photographs.

Published by visualqa.org (questions, annotations, COCO's val2014 and test2015 images) and as lmms-lab/VQAv2 (Parquet).
The answers of test-dev are not public: `vqav2_testdev` writes the file that the EvalAI server takes.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import cells, files, metrics
from nvlm_jax.evaluation.benchmark import SHORT, Benchmark, Scored, ask
from nvlm_jax.evaluation.question import Prediction, Question

DOWNLOAD = (
    "https://visualqa.org/download.html (questions and annotations v2.0, COCO images) unpacked into DATA/vqav2, or "
    "hf download lmms-lab/VQAv2 --repo-type dataset --local-dir DATA/vqav2"
)
QUESTIONS = "v2_OpenEnded_mscoco_{}_questions.json"
ANNOTATIONS = "v2_mscoco_{}_annotations.json"
COCO = {"val": "val2014", "testdev": "test-dev2015"}
IMAGES = {"val": "val2014", "testdev": "test2015"}  # folder, and part of the images' names
PARQUET = {"val": "validation", "testdev": "testdev"}


def load(data: pathlib.Path, split: str) -> Iterator[Question]:
    """`split` is val or testdev."""
    read, parquet = (functools.partial(read, split=split) for read in (from_json, from_parquet))
    questions = QUESTIONS.format(COCO[split])
    layouts = (
        files.Layout(questions, read),
        files.Layout(f"*/{questions}", read),
        files.Layout(f"data/{PARQUET[split]}-*.parquet", parquet),
        files.Layout(f"{PARQUET[split]}-*.parquet", parquet),
    )
    return files.locate(data, f"vqav2 {split}", ("vqav2", "vqa_v2"), layouts, DOWNLOAD)


def from_json(paths: Sequence[pathlib.Path], split: str) -> Iterator[Question]:
    path = paths[0]
    annotations, faults = _annotations(path) if split == "val" else ({}, [])
    folders = [
        place
        for folder in (path.parent, path.parent.parent)
        for place in (folder / IMAGES[split], folder / "images", folder)
    ]

    def question(_: int, row: files.Record) -> Question:
        name = f"COCO_{IMAGES[split]}_{row['image_id']:012}.jpg"
        places = [folder / name for folder in folders]
        image = files.picture_file(next((place for place in places if place.is_file()), places[0]), row.where)
        annotation = annotations.get(row["question_id"])
        if split == "val" and annotation is None:
            raise files.BenchmarkError(f"{row.where}: no annotation of question {row['question_id']}")
        if annotation is None:
            return _question(row, image, "", None)
        answers = _texts(annotation["answers"], annotation.where)
        return _question(row, image, annotation["answer_type"], answers)

    rows = files.read_records(path, ("question_id", "image_id", "question"), "questions")
    return files.each(rows, question) if not faults else files.resumable(lambda: iter(faults))()


def _annotations(questions: pathlib.Path) -> tuple[dict[int, files.Record], list[files.BenchmarkError]]:
    """Question id -> its annotation, and what is wrong with the file."""
    name = ANNOTATIONS.format(COCO["val"])
    places = [questions.with_name(name), *questions.parent.parent.glob(f"*/{name}")]
    path = next((place for place in places if place.is_file()), places[0])
    rows = list(files.outcomes(files.read_records(path, ("question_id", "answer_type", "answers"), "annotations")))
    faults = [row for row in rows if isinstance(row, files.BenchmarkError)]
    return {row["question_id"]: row for row in rows if isinstance(row, files.Record)}, faults


def from_parquet(paths: Sequence[pathlib.Path], split: str) -> Iterator[Question]:
    def question(_: int, row: files.Record) -> Question:
        image = files.picture(row["image"], row.where)
        unpublished = split == "testdev" and not row.get("answers")
        answers = None if unpublished else _texts(row.get("answers"), row.where)
        return _question(row, image, row.get("answer_type") or "", answers)

    columns = ("question_id", "image_id", "question", "image")
    optional = ("answers", "answer_type")
    return files.each(files.chained(files.read_parquet(path, columns, optional) for path in paths), question)


def _texts(answers: object, where: str) -> list[str]:
    if not isinstance(answers, list):
        raise files.BenchmarkError(f"{where}: answers is {str(answers)[:80]!r}; expected a list of people's answers")
    return cells.texts_of([answer["answer"] for answer in answers], where, "answers")


def _question(row: files.Record, image: bytes | pathlib.Path, kind: str, answers: list[str] | None) -> Question:
    text = cells.text_of(row["question"], row.where, "question")
    page = str(row["image_id"])
    return ask(str(row["question_id"]), f"{text}\n{SHORT}", (image,), answers, part=kind, sample=page)


def score(question: Question, output: str, rule: str) -> Scored:
    """The stripped output by `metrics.vqa_accuracy`; no score where the answers are not public."""
    output = output.strip()
    if question.answer is None:
        return Scored(output, None)
    return Scored(output, metrics.vqa_accuracy(output, question.answer, rule=rule))


def submission(predictions: Sequence[Prediction]) -> list[dict[str, object]]:
    """What the VQA challenge on EvalAI takes."""
    return [{"question_id": int(p.id), "answer": p.output} for p in predictions]


BENCHMARKS = (
    Benchmark(
        "vqav2", "VQAv2 val", functools.partial(load, split="val"), score, 32, rule="lmms-eval", paper_rule="megatron",
        paper="vqav2",
    ),
    Benchmark(
        "vqav2_testdev", "VQAv2 test-dev", functools.partial(load, split="testdev"), score, 32, rule="lmms-eval",
        paper="vqav2", submission=submission,
    ),
)  # fmt: skip
