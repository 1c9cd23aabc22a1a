"""VQAv2 (Goyal et al. 2017): ten people's answers to questions about photographs.

Published by visualqa.org (questions, annotations, COCO's val2014 and test2015 images) and as lmms-lab/VQAv2 (Parquet).
The answers of test-dev are not public: `vqav2_testdev` writes the file that the EvalAI server takes.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import files, metrics
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
    read = functools.partial(from_json, split=split)
    questions = QUESTIONS.format(COCO[split])
    layouts = (
        files.Layout(questions, read),
        files.Layout(f"*/{questions}", read),
        files.Layout(f"data/{PARQUET[split]}-*.parquet", from_parquet),
        files.Layout(f"{PARQUET[split]}-*.parquet", from_parquet),
    )
    return files.locate(data, f"vqav2 {split}", ("vqav2", "vqa_v2"), layouts, DOWNLOAD)


def from_json(paths: Sequence[pathlib.Path], split: str) -> Iterator[Question]:
    path = paths[0]
    answers = _annotations(path, split) if split == "val" else {}
    for number, row in enumerate(files.checked(files.read_json(path), ("questions",), str(path))["questions"]):
        where = f"{path}, questions[{number}]"
        row = files.checked(row, ("question_id", "image_id", "question"), where)
        name = f"COCO_{IMAGES[split]}_{row['image_id']:012}.jpg"
        folders = (path.parent, path.parent.parent)
        places = [place / name for folder in folders for place in (folder / IMAGES[split], folder / "images", folder)]
        image = files.picture_file(next((place for place in places if place.is_file()), places[0]), where)
        if split == "val" and row["question_id"] not in answers:
            raise files.BenchmarkError(f"{where}: no annotation of question {row['question_id']}")
        yield _question(row, image, *answers.get(row["question_id"], ("", None)))


def _annotations(questions: pathlib.Path, split: str) -> dict[int, tuple[str, list[str]]]:
    """Question id -> type of its answer, the ten answers."""
    name = ANNOTATIONS.format(COCO[split])
    places = [questions.with_name(name), *questions.parent.parent.glob(f"*/{name}")]
    path = next((place for place in places if place.is_file()), places[0])
    content = files.checked(files.read_json(path), ("annotations",), str(path))["annotations"]
    wanted = ("question_id", "answer_type", "answers")
    rows = (files.checked(row, wanted, f"{path}, annotations[{i}]") for i, row in enumerate(content))
    return {row["question_id"]: (row["answer_type"], _texts(row["answers"])) for row in rows}


def from_parquet(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    for path in paths:
        columns = ("question_id", "image_id", "question", "image")
        for row in files.read_parquet(path, columns, ("answers", "answer_type")):
            image = files.picture(row["image"], f"{path}, question {row['question_id']}")
            answers = _texts(row["answers"]) if row.get("answers") else None
            yield _question(row, image, row.get("answer_type") or "", answers)


def _texts(answers: list[dict[str, str]]) -> list[str]:
    return [answer["answer"] for answer in answers]


def _question(row: files.Row, image: bytes | pathlib.Path, kind: str, answers: list[str] | None) -> Question:
    id, page = str(row["question_id"]), str(row["image_id"])
    return ask(id, f"{row['question']}\n{SHORT}", (image,), answers, part=kind, sample=page)


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
