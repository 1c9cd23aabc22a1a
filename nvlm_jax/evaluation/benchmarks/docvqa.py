"""DocVQA (Mathew et al. 2021), single page: questions about scanned documents, scored by ANLS.

Published as lmms-lab/DocVQA (Parquet), by the challenge (rrc.cvc.uab.es, task 1: a JSON beside documents/), and as
VLMEvalKit's DocVQA_VAL.tsv and DocVQA_TEST.tsv. The test set's answers are not public: `docvqa_test` writes the file
that the challenge's server takes.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence

from nvlm_jax.evaluation import cells, files, metrics, vlmevalkit
from nvlm_jax.evaluation.benchmark import SHORT_OR_NUMBER, Benchmark, Scored, ask
from nvlm_jax.evaluation.question import Prediction, Question

DOWNLOAD = "hf download lmms-lab/DocVQA --repo-type dataset --include 'DocVQA/*' --local-dir DATA/docvqa"


def load(data: pathlib.Path, split: str) -> Iterator[Question]:
    """`split` is val or test."""
    names = {"val": "validation", "test": "test"}
    parquet, challenge, vlmeval = (
        functools.partial(read, split=split) for read in (from_parquet, from_challenge, from_vlmevalkit)
    )
    layouts = (
        files.Layout(f"DocVQA/{names[split]}-*.parquet", parquet),
        files.Layout(f"{names[split]}-*.parquet", parquet),
        files.Layout(f"{split}_v1.0*.json", challenge),
        files.Layout(f"spdocvqa_qas/{split}_v1.0*.json", challenge),
        files.Layout(f"DocVQA_{split.upper()}.tsv", vlmeval),
    )
    return files.locate(data, f"docvqa {split}", ("docvqa", "spdocvqa"), layouts, DOWNLOAD)


def from_parquet(paths: Sequence[pathlib.Path], split: str) -> Iterator[Question]:
    def question(_: int, row: files.Record) -> Question:
        image = files.picture(row["image"], row.where)
        return _question(row["questionId"], row, image, row["docId"], _answers(row, "answers", split))

    columns = ("questionId", "question", "image", "docId")
    return files.each(files.chained(files.read_parquet(path, columns, ("answers",)) for path in paths), question)


def from_challenge(paths: Sequence[pathlib.Path], split: str) -> Iterator[Question]:
    """The newest annotation file; images lie at their `image` path, documents/... ."""
    path = paths[-1]
    folders = (path.parent, path.parent / "spdocvqa_images", path.parent.parent)

    def question(_: int, row: files.Record) -> Question:
        places = [folder / name for folder in folders for name in (row["image"], pathlib.Path(row["image"]).name)]
        image = next((place for place in places if place.is_file()), places[0])
        image = files.picture_file(image, row.where)
        page = row.get("docId", row["image"])
        return _question(row["questionId"], row, image, page, _answers(row, "answers", split))

    return files.each(files.read_records(path, ("questionId", "question", "image"), "data"), question)


def from_vlmevalkit(paths: Sequence[pathlib.Path], split: str) -> Iterator[Question]:
    def question(_: int, row: files.Record) -> Question:
        answers = _answers(row, "answer", split, cells.texts_in)
        return _question(row["index"], row, row["images"][0], row["index"], answers)

    return files.each(vlmevalkit.read_vlmevalkit(paths[0], ("question",)), question)


def _answers(
    row: files.Record, key: str, split: str, read: Callable[..., list[str]] = cells.texts_of
) -> list[str] | None:
    """The accepted answers; None for the test set's, which are not public."""
    if split == "test" and not row.get(key):
        return None
    return read(row.get(key), row.where, key)


def _question(
    id: object, row: files.Record, image: bytes | pathlib.Path, page: object, answers: list[str] | None
) -> Question:
    text = cells.text_of(row["question"], row.where, "question")
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
