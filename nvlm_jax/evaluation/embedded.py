"""The embedded benchmark: each question of a generated conversation asked on its own."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Iterator

from nvlm_jax.evaluation.benchmark import Benchmark, Scored
from nvlm_jax.evaluation.question import Question
from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER, Message, Sample

FACTS = ("types", "kinds", "answers")


def questions(samples: Iterable[Sample]) -> Iterator[Question]:
    """Every question of every sample: the sample's images and that one question, nothing of the other turns.

    Args:
        samples: conversations of user and assistant in turn; `meta` lists `types`, `kinds` and `answers`. Without any
            of these lists, as in a dataset of one's own, a question's answer is what the assistant says next.

    Raises:
        ValueError: a sample without those lists, or with another number of questions than they have.
    """
    for sample in samples:
        asked = [m.content for m in sample.messages if m.role == "user"]
        try:
            lists = [sample.meta[key] for key in FACTS] if sample.meta.keys() & set(FACTS) else _said(sample)
            facts = list(zip(asked, *lists, strict=True))
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


def _said(sample: Sample) -> list[list[str]]:
    """The lists, from the conversation itself: report group, `content` or `text`, and the assistant's words."""
    answers = [m for m in sample.messages if m.role == "assistant"]
    kind = "content" if sample.images else "text"
    return [[m.group or "answer" for m in answers], [kind for _ in answers], [m.content for m in answers]]


def score(question: Question, output: str, rule: str) -> Scored:
    """1 if the output equals the answer after surrounding blanks are removed."""
    return Scored(output.strip(), float(output.strip() == question.answer.strip()))


def benchmark(load: Callable[[pathlib.Path], Iterator[Question]], views: tuple[str, ...]) -> Benchmark:
    """The benchmark over `load`'s questions, asked in these views of their images."""
    return Benchmark("embedded", "generated pages, held out", load, score, 32, rule="exact", views=views)
