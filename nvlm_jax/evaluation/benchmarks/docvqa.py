"""DocVQA (Mathew et al. 2021), single page: questions about scanned documents, scored by ANLS.

Published as lmms-lab/DocVQA (Parquet), by the challenge (rrc.cvc.uab.es, task 1: a JSON beside documents/), and as
VLMEvalKit's DocVQA_VAL.tsv and DocVQA_TEST.tsv. The test set's answers are not public: `docvqa_test` writes the file
that the challenge's server takes.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import files, metrics
from nvlm_jax.evaluation.benchmark import SHORT_OR_NUMBER, Benchmark, Scored, ask
from nvlm_jax.evaluation.question import Prediction, Question

DOWNLOAD = "hf download lmms-lab/DocVQA --repo-type dataset --include 'DocVQA/*' --local-dir DATA/docvqa"


def load(data: pathlib.Path, split: str) -> Iterator[Question]:
    """`split` is val or test."""
    names = {"val": "validation", "test": "test"}
    layouts = (
        files.Layout(f"DocVQA/{names[split]}-*.parquet", from_parquet),
        files.Layout(f"{names[split]}-*.parquet", from_parquet),
        files.Layout(f"{split}_v1.0*.json", from_challenge),
        files.Layout(f"spdocvqa_qas/{split}_v1.0*.json", from_challenge),
        files.Layout(f"DocVQA_{split.upper()}.tsv", from_vlmevalkit),
    )
    return files.locate(data, f"docvqa {split}", ("docvqa", "spdocvqa"), layouts, DOWNLOAD)


def from_parquet(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    for path in paths:
        for row in files.read_parquet(path, ("questionId", "question", "image", "docId"), ("answers",)):
            where = f"{path}, question {row['questionId']}"
            image = files.picture(row["image"], where)
            yield _question(row["questionId"], row["question"], image, row.get("answers"), row["docId"])


def from_challenge(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    """The newest annotation file; images lie at their `image` path, documents/... ."""
    path = paths[-1]
    content = files.checked(files.read_json(path), ("data",), str(path))
    for number, row in enumerate(content["data"]):
        where = f"{path}, data[{number}]"
        row = files.checked(row, ("questionId", "question", "image"), where)
        folders = (path.parent, path.parent / "spdocvqa_images", path.parent.parent)
        places = [folder / name for folder in folders for name in (row["image"], pathlib.Path(row["image"]).name)]
        image = next((place for place in places if place.is_file()), places[0])
        image = files.picture_file(image, where)
        yield _question(row["questionId"], row["question"], image, row.get("answers"), row.get("docId", row["image"]))


def from_vlmevalkit(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    for index, row, images in files.read_vlmevalkit(paths[0], ("question",)):
        answers = files.listed(row["answer"], f"{paths[0]}, index {index}") if row.get("answer") else None
        yield _question(index, row["question"], images[0], answers, index)


def _question(id: object, text: str, image: bytes | pathlib.Path, answers: list | None, page: object) -> Question:
    answers = [str(answer) for answer in answers] if answers else None
    return ask(str(id), f"{text}\n{SHORT_OR_NUMBER}", (image,), answers, sample=str(page))


def score(question: Question, output: str, rule: str) -> Scored:
    """The stripped output by `metrics.anls`; no score where the answers are not public."""
    output = output.strip()
    if question.answer is None:
        return Scored(output, None)
    return Scored(output, metrics.anls(output, question.answer, rule=rule))


def submission(predictions: Sequence[Prediction]) -> list[dict[str, object]]:
    """What rrc.cvc.uab.es takes for task 1."""
    return [{"questionId": int(p.id), "answer": p.output} for p in predictions]


BENCHMARKS = (
    Benchmark(
        "docvqa", "DocVQA val", functools.partial(load, split="val"), score, 64, rule="lmms-eval",
        paper_rule="megatron", paper="docvqa",
    ),
    Benchmark(
        "docvqa_test", "DocVQA test", functools.partial(load, split="test"), score, 64, rule="lmms-eval",
        paper="docvqa", submission=submission,
    ),
)  # fmt: skip
