"""OCRBench (Liu et al. 2023): 1,000 questions in ten parts; the score is how many are right.

Published as echo840/OCRBench (Parquet), by its authors (OCRBench/OCRBench.json beside OCRBench_Images/) and as
VLMEvalKit's OCRBench.tsv. A run over fewer questions is scaled to 1,000.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import files, metrics
from nvlm_jax.evaluation.benchmark import Benchmark, Scored, ask
from nvlm_jax.evaluation.question import Question

DOWNLOAD = "hf download echo840/OCRBench --repo-type dataset --local-dir DATA/ocrbench"
FORMULAS = "Handwritten Mathematical Expression Recognition"  # the part whose source is HME100k
PARTS = (
    "Regular Text Recognition",
    "Irregular Text Recognition",
    "Artistic Text Recognition",
    "Handwriting Recognition",
    "Digit String Recognition",
    "Non-Semantic Text Recognition",
    "Scene Text-centric VQA",
    "Doc-oriented VQA",
    "Key Information Extraction",
    FORMULAS,
)


def load(data: pathlib.Path) -> Iterator[Question]:
    layouts = (
        files.Layout("data/test-*.parquet", from_parquet),
        files.Layout("test-*.parquet", from_parquet),
        files.Layout("OCRBench.json", from_json),
        files.Layout("OCRBench/OCRBench.json", from_json),
        files.Layout("OCRBench.tsv", from_vlmevalkit),
    )
    return files.locate(data, "ocrbench", ("ocrbench",), layouts, DOWNLOAD)


def from_parquet(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    number = 0
    for path in paths:
        for row in files.read_parquet(path, ("dataset", "question", "question_type", "answer", "image")):
            where = f"{path}, row {number}"
            image = files.picture(row["image"], where)
            facts = (row["answer"], row["question_type"], row["dataset"])
            yield _question(str(number), row["question"], image, *facts, where)
            number += 1


def from_json(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    path = paths[0]
    for number, row in enumerate(files.read_json(path)):
        where = f"{path}, [{number}]"
        row = files.checked(row, ("dataset_name", "type", "question", "answers", "image_path"), where)
        places = [folder / row["image_path"] for folder in (path.parent / "OCRBench_Images", path.parent)]
        image = files.picture_file(next((place for place in places if place.is_file()), places[0]), where)
        id = str(row.get("id", number))
        yield _question(id, row["question"], image, row["answers"], row["type"], row["dataset_name"], where)


def from_vlmevalkit(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    """These tables do not name the source; it matters for formulas alone."""
    for index, row, images in files.read_vlmevalkit(paths[0], ("question", "answer", "category")):
        source = "HME100k" if row["category"] == FORMULAS else ""
        where = f"{paths[0]}, index {index}"
        yield _question(index, row["question"], images[0], row["answer"], row["category"], source, where)


def _question(
    id: str, text: str, image: bytes | pathlib.Path, answers: object, part: str, source: str, where: str
) -> Question:
    known = next((name for name in PARTS if name.lower() == part.strip().lower()), None)
    if known is None:
        raise files.BenchmarkError(f"{where}: part {part!r} is none of {', '.join(PARTS)}")
    answers = [str(answer) for answer in files.listed(answers, where)]
    return ask(id, text, (image,), {"references": answers, "dataset": source}, part=known)


def score(question: Question, output: str, rule: str) -> Scored:
    """The stripped output by `metrics.ocrbench`."""
    output, true = output.strip(), question.answer
    return Scored(output, float(metrics.ocrbench(output, true["references"], true["dataset"], rule=rule)))


BENCHMARKS = (
    Benchmark(
        "ocrbench", "OCRBench", load, score, 128, rule="lmms-eval", paper_rule="megatron", scale=1000.0,
        paper="ocrbench",
    ),
)  # fmt: skip
