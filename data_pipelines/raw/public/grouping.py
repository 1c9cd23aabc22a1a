"""Questions on one image become one conversation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from data_pipelines.faults import Fault, fault_of
from data_pipelines.raw.entry import Entry, Picture, Spec, ask, choices_text, conversation
from data_pipelines.raw.records import best_answer
from data_pipelines.raw.values import text_of
from nvlm_jax.inputs.batch import Message
from nvlm_jax.inputs.errors import BadSample

Found = Entry | Fault


class Asked(NamedTuple):
    """One question as an annotation file has it; `answer` may be a list of several annotators' answers."""

    id: str
    image: str  # path below the root; empty for none
    question: Any
    answer: Any
    choices: tuple[str, ...] = ()
    context: str = ""


def by_image(notes: Iterable[Any], asked_of: Callable[[Any], Asked], spec: Spec, source: str) -> Iterator[Found]:
    """An entry for each image, with its questions in the file's order; its id is the first question's.

    An annotation that cannot be asked (a field is missing, no text, no answer) is a Fault of its own; the others on its
    image stay.

    Args:
        notes: annotations, one a question.
        asked_of: what one of them asks.
        spec: of the dataset.
        source: the file that they are from.
    """
    groups: dict[str, list[tuple[str, Message, str]]] = {}
    for number, note in enumerate(notes):
        name = f"{source}#{number}"
        try:
            asked = asked_of(note)
            name = asked.id
            question, answer = _turn(asked, spec)
        except (BadSample, LookupError, TypeError, AttributeError, ValueError) as error:
            yield fault_of(name, error if isinstance(error, BadSample) else _no_annotation(note, error))
            continue
        groups.setdefault(asked.image or f"#{number}", []).append((asked.id, question, answer))
    for image, turns in groups.items():
        images = () if image.startswith("#") else (Picture(image),)
        messages = conversation([(question, answer) for _, question, answer in turns], spec.task)
        yield Entry(turns[0][0], messages, images, f"{source}#{turns[0][0]}")


def _turn(asked: Asked, spec: Spec) -> tuple[Message, str]:
    question, answer = text_of(asked.question, "question").strip(), best_answer(asked.answer).strip()
    if not answer:
        raise BadSample("empty_answer", f"question {asked.id}: the answer is empty")
    filled = {"question": question, "context": asked.context, "choices": choices_text(list(asked.choices))}
    return ask(spec.prompt, 1 if asked.image else 0, **filled), answer


def _no_annotation(note: Any, error: Exception) -> BadSample:
    held = sorted(note)[:12] if isinstance(note, dict) else type(note).__name__
    return BadSample("missing_field", f"not this layout's annotation: {type(error).__name__} {error}; it has {held}")
