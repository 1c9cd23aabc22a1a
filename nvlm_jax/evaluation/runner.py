"""Questions -> predictions, each question with a page seen, blanked, or as its thumbnail alone.

vision            the image as the model was trained to see it
vision_blind      every tile replaced by mid-grey, same number of tiles: what can be guessed from the question
vision_thumbnail  one tile for the whole image: what dynamic high resolution adds is the rest
text              questions without an image
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from nvlm_jax.evaluation.question import Prediction, Question
from nvlm_jax.generation.engine import Generator
from nvlm_jax.inputs.batch import Example
from nvlm_jax.inputs.errors import BadSample
from nvlm_jax.inputs.example import ExampleBuilder
from nvlm_jax.models.nvlm import NVLM

IMAGE_VIEWS = ("vision", "vision_blind", "vision_thumbnail")
TEXT_VIEW = "text"
GREY = 128  # of 255
CHUNK = 512  # questions whose tiles are in memory at once


def evaluate(
    model: NVLM,
    builder: ExampleBuilder,
    questions: Iterable[Question],
    views: Sequence[str] = IMAGE_VIEWS,
    max_new_tokens: int = 32,
    batch_size: int = 32,
    progress: Callable[[int], None] = lambda answered: None,
) -> list[Prediction]:
    """Greedy answers to all questions, in their order, view by view.

    Args:
        model: restored, in any dtype.
        builder: of the run that trained it.
        questions: read in chunks, so a benchmark need not fit in memory.
        views: how questions with an image are asked; questions without one are always asked once, as `text`.
        max_new_tokens: of an answer.
        batch_size: prompts decoded together.
        progress: called with the number of predictions made so far.

    Raises:
        ValueError: an unknown view.
        BadSample: an image that cannot be read.
    """
    unknown = set(views) - set(IMAGE_VIEWS)
    if unknown:
        raise ValueError(f"views: {', '.join(sorted(unknown))} is none of {', '.join(IMAGE_VIEWS)}")
    generator = Generator(model, builder.tokenizer.vocab_size, [end_id(builder)], batch_size=batch_size)
    small = ExampleBuilder(dataclasses.replace(builder.inputs, max_tiles=1), builder.model)
    predictions: list[Prediction] = []
    for chunk in _chunks(questions):
        asked = list(_views(chunk, builder, small, views))
        before = len(predictions)
        examples = [example for _, _, example in asked]
        answers = generator.generate(examples, max_new_tokens, progress=lambda n, before=before: progress(before + n))
        for (question, view, _), answer in zip(asked, answers, strict=True):
            predictions.append(_judge(question, view, builder.tokenizer.decode(answer)))
    order = {view: place for place, view in enumerate((*IMAGE_VIEWS, TEXT_VIEW))}
    return sorted(predictions, key=lambda p: order[p.view])


def end_id(builder: ExampleBuilder) -> int:
    """The token that ends an answer."""
    return builder.tokenizer.special(builder.inputs.end_token)


def blank(example: Example) -> Example:
    """The same prompt with every pixel mid-grey."""
    return example._replace(tiles=np.full_like(example.tiles, GREY))


def _views(
    chunk: list[Question], builder: ExampleBuilder, small: ExampleBuilder, views: Sequence[str]
) -> Iterator[tuple[Question, str, Example]]:
    for question in chunk:
        example = _prompt(builder, question)
        if not question.images:
            yield question, TEXT_VIEW, example
            continue
        for view in views:
            if view == "vision_thumbnail":
                yield question, view, _prompt(small, question)
            else:
                yield question, view, example if view == "vision" else blank(example)


def _prompt(builder: ExampleBuilder, question: Question) -> Example:
    try:
        return builder.prompt(question.messages, question.images)
    except BadSample as error:
        raise BadSample(error.reason, f"question {question.id!r}: {error}") from error


def _judge(question: Question, view: str, output: str) -> Prediction:
    return Prediction(
        id=question.id,
        sample=question.sample,
        view=view,
        type=question.type,
        kind=question.kind,
        prompt=question.text,
        answer=question.answer,
        output=output.strip(),
        correct=output.strip() == question.answer.strip(),
    )


def _chunks(questions: Iterable[Question]) -> Iterator[list[Question]]:
    stream = iter(questions)
    while chunk := list(itertools.islice(stream, CHUNK)):
        yield chunk
