"""The embedded benchmark: each question of a generated conversation asked on its own."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Iterator

from nvlm_jax.evaluation.benchmark import Benchmark, Scored
from nvlm_jax.evaluation.question import Question
from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER, Message, Sample


def questions(samples: Iterable[Sample]) -> Iterator[Question]:
    """Every question of every sample: the sample's images and that one question, nothing of the other turns.

    Args:
        samples: conversations of user and assistant in turn; `meta` lists `types`, `kinds` and `answers`.

    Raises:
        ValueError: a sample without those lists, or with another number of questions than they have.
    """
    for sample in samples:
        asked = [m.content for m in sample.messages if m.role == "user"]
        try:
            facts = list(zip(asked, *(sample.meta[key] for key in ("types", "kinds", "answers")), strict=True))
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"sample {sample.id!r}: {len(asked)} questions, and meta with {sorted(sample.meta)}; meta needs one "
                f"entry of types, kinds and answers for each question ({error})"
            ) from None
        images = IMAGE_PLACEHOLDER * len(sample.images)
        for number, (content, group, kind, answer) in enumerate(facts):
            text = content.replace(IMAGE_PLACEHOLDER, "").strip()
            prompt = Message("user", f"{images}\n{text}" if images else text)
            yield Question(f"{sample.id}/{number}", sample.id, group, kind, (prompt,), sample.images, answer)


def score(question: Question, output: str, rule: str) -> Scored:
    """1 if the output equals the answer after surrounding blanks are removed."""
    return Scored(output.strip(), float(output.strip() == question.answer.strip()))


def benchmark(load: Callable[[pathlib.Path], Iterator[Question]], views: tuple[str, ...]) -> Benchmark:
    """The benchmark over `load`'s questions, asked in these views of their images."""
    return Benchmark("embedded", "generated pages, held out", load, score, 32, rule="exact", views=views)
