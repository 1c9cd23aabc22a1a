"""ChartQA (Masry et al. 2022), test: questions about charts by people and generated ones; the score is their average.

Published as a folder (test/test_human.json, test/test_augmented.json, test/png/), as HuggingFaceM4/ChartQA and
lmms-lab/ChartQA (Parquet, two sets of columns), and as VLMEvalKit's ChartQA_TEST.tsv.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import files, metrics
from nvlm_jax.evaluation.benchmark import SHORT, Benchmark, Scored, ask
from nvlm_jax.evaluation.question import Question

DOWNLOAD = "hf download lmms-lab/ChartQA --repo-type dataset --local-dir DATA/chartqa"
PARTS = ("human", "augmented")


def load(data: pathlib.Path) -> Iterator[Question]:
    layouts = (
        files.Layout("data/test-*.parquet", from_parquet),
        files.Layout("test-*.parquet", from_parquet),
        files.Layout("test/test_*.json", from_json),
        files.Layout("ChartQA Dataset/test/test_*.json", from_json),
        files.Layout("ChartQA_TEST.tsv", from_vlmevalkit),
    )
    return files.locate(data, "chartqa", ("chartqa",), layouts, DOWNLOAD)


def from_parquet(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    """Columns type, question, answer, image (lmms-lab); or query, label, human_or_machine, image (HuggingFaceM4)."""
    number = 0
    for path in paths:
        optional = ("type", "question", "answer", "query", "label", "human_or_machine")
        for row in files.read_parquet(path, ("image",), optional):
            where = f"{path}, row {number}"
            if "query" in row:
                row = files.checked(row, ("query", "label", "human_or_machine"), where)
                part = PARTS[0] if row["human_or_machine"] in (0, "human") else PARTS[1]
                text, answer = row["query"], row["label"]
            else:
                row = files.checked(row, ("type", "question", "answer"), where)
                part, text, answer = _part(row["type"], where), row["question"], row["answer"]
            yield _question(f"{number}", text, files.picture(row["image"], where), answer, part, where)
            number += 1


def from_json(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    if len(paths) != len(PARTS):
        raise files.BenchmarkError(
            f"{paths[0].parent}: has {', '.join(p.name for p in paths)}; expected test_human.json, test_augmented.json"
        )
    for path in paths:
        part = _part(path.stem, str(path))
        for number, row in enumerate(files.read_json(path)):
            where = f"{path}, [{number}]"
            row = files.checked(row, ("imgname", "query", "label"), where)
            image = files.picture_file(path.parent / "png" / row["imgname"], where)
            yield _question(f"{part}-{number}", row["query"], image, row["label"], part, where)


def from_vlmevalkit(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    for index, row, images in files.read_vlmevalkit(paths[0], ("question", "answer", "split")):
        where = f"{paths[0]}, index {index}"
        yield _question(index, row["question"], images[0], row["answer"], _part(row["split"], where), where)


def _part(name: str, where: str) -> str:
    """`test_human`, `human_test`, `test_augmented` ... -> human or augmented."""
    part = next((part for part in PARTS if part in name), None)
    if part is None:
        raise files.BenchmarkError(f"{where}: {name!r} is of neither human nor augmented questions")
    return part


def _question(id: str, text: str, image: bytes | pathlib.Path, answer: object, part: str, where: str) -> Question:
    answer = str(files.listed(answer, where)[0])
    return ask(id, f"{text}\n{SHORT}", (image,), answer, part=part)


def score(question: Question, output: str, rule: str) -> Scored:
    """The stripped output by `metrics.relaxed_accuracy`."""
    output = output.strip()
    return Scored(output, metrics.relaxed_accuracy(output, question.answer, rule=rule))


BENCHMARKS = (
    Benchmark(
        "chartqa", "ChartQA test", load, score, 32, rule="lmms-eval", paper_rule="megatron", average="parts",
        paper="chartqa",
    ),
)  # fmt: skip
