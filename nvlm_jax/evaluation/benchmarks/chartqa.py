"""ChartQA (Masry et al. 2022), test: questions about charts by people and generated ones; the score is their average.

Published as a folder (test/test_human.json, test/test_augmented.json, test/png/), as HuggingFaceM4/ChartQA and
lmms-lab/ChartQA (Parquet, two sets of columns), and as VLMEvalKit's ChartQA_TEST.tsv.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import cells, files, metrics, vlmevalkit
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
    optional = ("type", "question", "answer", "query", "label", "human_or_machine")
    return files.each(files.chained(files.read_parquet(path, ("image",), optional) for path in paths), _from_parquet)


def _from_parquet(number: int, row: files.Record) -> Question:
    if "query" in row:
        files.checked(row, ("query", "label", "human_or_machine"), row.where)
        part = PARTS[0] if row["human_or_machine"] in (0, "human") else PARTS[1]
        text, answer = row["query"], row["label"]
    else:
        files.checked(row, ("type", "question", "answer"), row.where)
        part, text, answer = _part(row["type"], row.where), row["question"], row["answer"]
    return _question(f"{number}", text, files.picture(row["image"], row.where), answer, part, row.where)


def from_json(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    if len(paths) != len(PARTS):
        raise files.BenchmarkError(
            f"{paths[0].parent}: has {', '.join(p.name for p in paths)}; expected test_human.json, test_augmented.json"
        )
    return files.chained(_from_json(path) for path in paths)


def _from_json(path: pathlib.Path) -> Iterator[Question]:
    part = _part(path.stem, str(path))

    def question(number: int, row: files.Record) -> Question:
        image = files.picture_file(path.parent / "png" / row["imgname"], row.where)
        return _question(f"{part}-{number}", row["query"], image, row["label"], part, row.where)

    return files.each(files.read_records(path, ("imgname", "query", "label")), question)


def from_vlmevalkit(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    return files.each(vlmevalkit.read_vlmevalkit(paths[0], ("question", "answer", "split")), _from_vlmevalkit)


def _from_vlmevalkit(_: int, row: files.Record) -> Question:
    part = _part(row["split"], row.where)
    return _question(row["index"], row["question"], row["images"][0], row["answer"], part, row.where)


def _part(name: object, where: str) -> str:
    """`test_human`, `human_test`, `test_augmented` ... -> human or augmented."""
    part = next((part for part in PARTS if part in str(name)), None)
    if part is None:
        raise files.BenchmarkError(f"{where}: {name!r} is of neither human nor augmented questions")
    return part


def _question(id: str, text: object, image: bytes | pathlib.Path, answer: object, part: str, where: str) -> Question:
    text = cells.text_of(text, where, "question")
    return ask(id, f"{text}\n{SHORT}", (image,), _answer(answer, where), part=part)


def _answer(label: object, where: str) -> str:
    """The label as the authors write it, "[2017, 2023]" too; HuggingFaceM4 puts it into a list of one."""
    texts = cells.texts_of(label, where, "label")
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


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
