"""Questions -> predictions, each question with a page seen, blanked, or as its thumbnail alone.

vision            the image as the model was trained to see it
vision_blind      every tile replaced by mid-grey, same number of tiles: what can be guessed from the question
vision_thumbnail  one tile for the whole image: what dynamic high resolution adds is the rest
text              questions without an image

Several images of one question share the tiles that one image may have, as in the paper's evaluator.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nvlm_jax.evaluation.benchmark import Benchmark
from nvlm_jax.evaluation.judge import Judge
from nvlm_jax.evaluation.question import Prediction, Question
from nvlm_jax.generation.engine import Engine
from nvlm_jax.generation.request import Answer, Request
from nvlm_jax.inputs.batch import Example
from nvlm_jax.inputs.errors import BadSample
from nvlm_jax.inputs.example import ExampleBuilder
from nvlm_jax.models.nvlm import NVLM

IMAGE_VIEWS = ("vision", "vision_blind", "vision_thumbnail")
TEXT_VIEW = "text"
GREY = 128  # of 255
CHUNK = 512  # questions whose tiles are in memory at once

Key = tuple[str, str, str]  # benchmark, id, view: what is answered once


class PromptsChanged(ValueError):
    """A question that was answered before is asked in other words now."""


class Asked(NamedTuple):
    """A question in one view, ready for the model."""

    question: Question
    view: str
    example: Example


class Asker:
    """Asks one model. Compiled programs are kept for the life of the object."""

    def __init__(
        self,
        model: NVLM,
        builder: ExampleBuilder,
        batch_size: int = 32,
        end_ids: Sequence[int] = (),
        judge: Judge | None = None,
    ):
        """
        Args:
            model: restored, in any dtype.
            builder: of the run that trained it.
            batch_size: answers decoded together.
            end_ids: tokens that end an answer; none = the end token of the builder's template.
            judge: reads answers that the rules cannot, of benchmarks that allow it.
        """
        end_ids = list(end_ids) or [end_id(builder)]
        self.builder, self.judge = builder, judge
        size, room = builder.tokenizer.vocab_size, builder.tag_tokens
        self.engine = Engine(model, size, end_ids, slots=batch_size, tag_tokens=room)
        self._builders = {builder.inputs.max_tiles: builder}

    def ask(
        self,
        benchmark: Benchmark,
        questions: Iterable[Question],
        rule: str = "",
        max_new_tokens: int = 0,
        done: Mapping[Key, str] | None = None,
    ) -> Iterator[list[tuple[Question, Prediction]]]:
        """Greedy answers to all questions as they come, those that end together in one list.

        Questions on the same page in the same view follow each other, so that the page is read once.

        Args:
            benchmark: says how they are asked and scored.
            questions: read in chunks, so a benchmark need not fit in memory.
            rule: of the score; empty = the benchmark's default.
            max_new_tokens: of an answer; 0 = the benchmark's limit.
            done: what was answered before, with its prompt's digest; not asked again.

        Raises:
            ValueError: an unknown view.
            BadSample: an image that cannot be read; the question is named.
            PromptsChanged: a question that was answered before has another prompt now.
            JudgeError: the judge does not reply.
        """
        unknown = set(benchmark.views) - set(IMAGE_VIEWS)
        if unknown:
            raise ValueError(f"views: {', '.join(sorted(unknown))} is none of {', '.join(IMAGE_VIEWS)}")
        rule, limit = rule or benchmark.rule, max_new_tokens or benchmark.max_new_tokens
        stream = iter(questions)
        while chunk := list(itertools.islice(stream, CHUNK)):
            begin = time.perf_counter()
            asked = [a for question in chunk for a in self._views(benchmark, question, done or {})]
            preparing = (time.perf_counter() - begin) / max(len(asked), 1)
            asked.sort(key=lambda a: (a.view, a.question.sample))
            begin = time.perf_counter()
            for answers in self.engine.answers(Request(a.example, limit) for a in asked):
                now = time.perf_counter()
                seconds, begin = preparing + (now - begin) / len(answers), now
                yield [
                    (asked[number].question, self._judge(benchmark, asked[number], answer, rule, seconds))
                    for number, answer in answers
                ]

    def _views(self, benchmark: Benchmark, question: Question, done: Mapping[Key, str]) -> Iterator[Asked]:
        for view in benchmark.views if question.images else (TEXT_VIEW,):
            digest = done.get((benchmark.name, question.id, view))
            if digest is None:
                yield Asked(question, view, self._example(question, view))
            elif digest != question.digest:
                raise PromptsChanged(f"question {question.id!r} of {benchmark.name} was asked in other words before")

    def _example(self, question: Question, view: str) -> Example:
        """The prompt; a template without system turns gets none."""
        tiles = 1 if view == "vision_thumbnail" else self.builder.inputs.max_tiles
        tiles = max(1, tiles // max(1, len(question.images)))
        if tiles not in self._builders:
            inputs = dataclasses.replace(self.builder.inputs, max_tiles=tiles)
            self._builders[tiles] = ExampleBuilder(inputs, self.builder.model)
        messages = question.messages
        if self.builder.inputs.template == "plain":
            messages = tuple(message for message in messages if message.role != "system")
        try:
            example = self._builders[tiles].prompt(messages, question.images)
        except BadSample as error:
            raise BadSample(error.reason, f"question {question.id!r}: {error}") from error
        return blank(example) if view == "vision_blind" else example

    def _judge(
        self, benchmark: Benchmark, asked: Asked, answer: Answer, rule: str, seconds: float
    ) -> Prediction:
        question = asked.question
        output = self.builder.tokenizer.decode(answer.tokens)
        scored, judged = benchmark.score(question, output, rule), False
        if scored.extraction is None and benchmark.judged and self.judge and output.strip():
            reply = self.judge.read(question, output)
            scored, judged = (benchmark.score(question, reply, rule), True) if reply else (scored, False)
        return Prediction(
            id=question.id,
            sample=question.sample,
            view=asked.view,
            type=question.type,
            kind=question.kind,
            prompt=question.text,
            answer=question.answer,
            output=output.strip(),
            correct=(scored.score or 0.0) >= 0.5,
            benchmark=benchmark.name,
            score=scored.score,
            extraction=scored.extraction,
            judged=judged,
            ids=tuple(answer.tokens),
            cut=answer.finish == "length",
            seconds=round(seconds, 6),
            prompt_digest=question.digest,
        )


def end_id(builder: ExampleBuilder) -> int:
    """The token that ends an answer."""
    return builder.tokenizer.special(builder.inputs.end_token)


def blank(example: Example) -> Example:
    """The same prompt with every pixel mid-grey."""
    return example._replace(tiles=np.full_like(example.tiles, GREY))
