"""AI2D (Kembhavi et al. 2016), test: diagrams with four options; letters replace the diagram's words, or do not.

`ai2d` is the test with mask (boxes with a letter lie on the words that the options name), `ai2d_no_mask` the one
without. Published as lmms-lab/ai2d and lmms-lab/ai2d-no-mask (Parquet) and as VLMEvalKit's AI2D_TEST.tsv and
AI2D_TEST_NO_MASK.tsv.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterator, Sequence

from nvlm_jax.evaluation import cells, files, metrics, vlmevalkit
from nvlm_jax.evaluation.benchmark import LETTER, Benchmark, Scored, ask, options_of, options_text
from nvlm_jax.evaluation.metrics.vqa import normalize_vqa_megatron
from nvlm_jax.evaluation.question import Question

REPOSITORY = {"ai2d": "lmms-lab/ai2d", "ai2d_no_mask": "lmms-lab/ai2d-no-mask"}
TABLE = {"ai2d": "AI2D_TEST.tsv", "ai2d_no_mask": "AI2D_TEST_NO_MASK.tsv"}


def load(data: pathlib.Path, name: str) -> Iterator[Question]:
    layouts = (
        files.Layout("data/test-*.parquet", from_parquet),
        files.Layout("test-*.parquet", from_parquet),
        files.Layout(TABLE[name], from_vlmevalkit),
    )
    download = f"hf download {REPOSITORY[name]} --repo-type dataset --local-dir DATA/{name}"
    return files.locate(data, name, (name, name.replace("_", "-")), layouts, download)


def from_parquet(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    """`answer` is the index of the right option."""
    columns = ("question", "options", "answer", "image")
    return files.each(files.chained(files.read_parquet(path, columns) for path in paths), _from_parquet)


def _from_parquet(number: int, row: files.Record) -> Question:
    options = cells.listed(row["options"], row.where, "options")
    if not str(row["answer"]).isdigit() or not 0 <= int(row["answer"]) < len(options):
        raise files.BenchmarkError(f"{row.where}: answer {row['answer']!r} is no index of {len(options)} options")
    letter = chr(ord("A") + int(row["answer"]))
    return _question(str(number), row, files.picture(row["image"], row.where), options, letter)


def from_vlmevalkit(paths: Sequence[pathlib.Path]) -> Iterator[Question]:
    return files.each(vlmevalkit.read_vlmevalkit(paths[0], ("question", "A", "B", "answer")), _from_vlmevalkit)


def _from_vlmevalkit(_: int, row: files.Record) -> Question:
    options = options_of(row)
    letter = cells.letter_of(row["answer"], row.where, "ABCDEFGHIJ"[: len(options)])
    return _question(row["index"], row, row["images"][0], options, letter)


def _question(id: str, row: files.Record, image: bytes, options: list[str], letter: str) -> Question:
    text = cells.text_of(row["question"], row.where, "question")
    text = f"{text}\n{options_text(options)}\n{LETTER}"
    return ask(id, text, (image,), {"letter": letter, "options": options})


def score(question: Question, output: str, rule: str) -> Scored:
    """The letter that `metrics.multiple_choice` finds; by the paper's rule the output must be the letter."""
    if rule == "megatron":
        return _paper_score(output.strip(), question.answer["letter"])
    letter = metrics.multiple_choice(output.strip(), question.answer["options"], rule=rule)
    return Scored(letter, float(letter == question.answer["letter"]))


def _paper_score(output: str, letter: str) -> Scored:
    """Equality after the VQA normalization, which drops the article "a": so what has nothing else in it is an A."""
    said = normalize_vqa_megatron(output).upper() or ("A" if "A" in output.upper() else "")
    return Scored(said or None, float(metrics.realworldqa(output, letter, rule="megatron")))


BENCHMARKS = tuple(
    Benchmark(
        name, title, functools.partial(load, name=name), score, 32, rule="vlmevalkit", paper_rule="megatron", paper=name
    )
    for name, title in (("ai2d", "AI2D test, mask"), ("ai2d_no_mask", "AI2D test, no mask"))
)
