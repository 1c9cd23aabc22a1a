"""What a benchmark is: a name, a loader of its public files, a score for one answer, and how scores are averaged."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nvlm_jax.evaluation.question import Prediction, Question
from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER, Message
from nvlm_jax.inputs.chat import without_placeholder
from nvlm_jax.inputs.tiling import ImageSource


class Scored(NamedTuple):
    """One judged answer."""

    extraction: str | None  # what was taken for the answer; None = nothing could be
    score: float | None  # 0 to 1 (some rules give more); None where the true answer is not public


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One benchmark; `benchmarks/` has a file for each."""

    name: str  # for --benchmarks
    title: str
    load: Callable[[pathlib.Path], Iterator[Question]]  # from the directory of all benchmarks; raises BenchmarkError
    score: Callable[[Question, str, str], Scored]  # of a question and the output, by a rule
    max_new_tokens: int  # where an answer is cut
    rule: str  # of `score`, the default
    paper_rule: str = ""  # that the paper's evaluator follows, where it is another one
    views: tuple[str, ...] = ("vision",)  # how questions with an image are asked
    average: str = "items"  # items = mean of all; parts = mean of the means of the parts
    scale: float = 100.0  # the score as it is printed is so many times the mean: percent, or OCRBench's 1000
    paper: str = ""  # column of the paper's tables in paper.py
    judged: bool = False  # a judge may read answers that the rules cannot
    submission: Callable[[Sequence[Prediction]], Any] | None = None  # JSON for the evaluation server


def ask(
    id: str,
    text: str,
    images: Sequence[ImageSource] = (),
    answer: Any = None,
    *,
    part: str = "",
    sample: str = "",
    system: str = "",
) -> Question:
    """A question with its images in front of the text.

    Args:
        id: unique within the benchmark.
        text: as the user says it. `<image>` in it is data, and made harmless.
        images: encoded bytes or paths.
        answer: what the score needs.
        part: report group.
        sample: what the images come from; default: `id`.
        system: a system message other than the model's own.
    """
    text = f"{IMAGE_PLACEHOLDER}\n" * len(images) + without_placeholder(text)
    messages = (Message("user", text),)
    if system:
        messages = (Message("system", system), *messages)
    return Question(id, sample or id, part, "content" if images else "text", messages, tuple(images), answer)


def options_text(options: Sequence[str], form: str = "{}. {}") -> str:
    """Options as lines, lettered from A."""
    return "\n".join(form.format(chr(ord("A") + i), option) for i, option in enumerate(options))


def options_of(row: Mapping[str, str]) -> list[str]:
    """The options of a VLMEvalKit row: its columns A, B, C ... up to the first empty one."""
    found = []
    for letter in "ABCDEFGHIJ":
        if not (row.get(letter) or "").strip():
            break
        found.append(row[letter])
    return found


# The words that these benchmarks end their questions with; models are trained on exactly these.
SHORT = "Answer the question using a single word or phrase."
SHORT_OR_NUMBER = "Answer the question using a single word, phrase, or number."
LETTER = "Answer with the option's letter from the given choices directly."
