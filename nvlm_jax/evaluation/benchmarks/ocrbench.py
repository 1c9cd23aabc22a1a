"""OCRBench (Liu et al. 2023): 1,000 questions in ten parts; the score is how many are right.

Published as echo840/OCRBench (Parquet), by its authors (OCRBench/OCRBench.json beside OCRBench_Images/) and as
VLMEvalKit's OCRBench.tsv. A run over fewer questions is scaled to 1,000.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import cells, files, metrics, vlmevalkit
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
    columns = ("dataset", "question", "question_type", "answer", "image")
    return files.each(files.chained(files.read_parquet(path, columns) for path in paths), _from_parquet)


def _from_parquet(number: int, row: files.Record) -> Question:
    image = files.picture(row["image"], row.where)
    answers = cells.texts_of(row["answer"], row.where, "answer")
    return _question(str(number), row, image, answers, row["question_type"], row["dataset"])


def from_json(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    """The authors' `id` is that of the part's source and repeats over parts: then the place makes it unique."""
    path = paths[0]
    columns = ("dataset_name", "type", "question", "answers", "image_path")
    rows = files.read_json(path)
    rows = rows if isinstance(rows, list) else []  # `read_records` says what is wrong
    given = [row.get("id", number) if isinstance(row, dict) else number for number, row in enumerate(rows)]
    ids = cells.unique_ids(given)

    def question(number: int, row: files.Record) -> Question:
        places = [folder / row["image_path"] for folder in (path.parent / "OCRBench_Images", path.parent)]
        image = files.picture_file(next((place for place in places if place.is_file()), places[0]), row.where)
        answers = cells.texts_of(row["answers"], row.where, "answers")
        return _question(ids[number], row, image, answers, row["type"], row["dataset_name"])

    return files.each(files.read_records(path, columns), question)


def from_vlmevalkit(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    return files.each(vlmevalkit.read_vlmevalkit(paths[0], ("question", "answer", "category")), _from_vlmevalkit)


def _from_vlmevalkit(_: int, row: files.Record) -> Question:
    """These tables do not name the source; it matters for formulas alone."""
    source = "HME100k" if row["category"] == FORMULAS else ""
    answers = cells.texts_in(row["answer"], row.where, "answer")
    return _question(row["index"], row, row["images"][0], answers, row["category"], source)


def _question(
    id: str, row: files.Record, image: bytes | pathlib.Path, answers: list[str], part: object, source: str
) -> Question:
    known = next((name for name in PARTS if name.lower() == str(part).strip().lower()), None)
    if known is None:
        raise files.BenchmarkError(f"{row.where}: part {part!r} is none of {', '.join(PARTS)}")
    text = cells.text_of(row["question"], row.where, "question")
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
