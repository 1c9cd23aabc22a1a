"""Generic records -> entries: columns, and lists of questions and answers. Conversations are in `chats.py`.

columns         one field each for image, question, answer, choices; also captions, where the prompt is the question
pairs           The Cauldron, Docmatix: {"images": [...], "texts": [{"user": ..., "assistant": ...}]}
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from data_pipelines.raw.chats import SYSTEM, with_system
from data_pipelines.raw.entry import LETTERS, Entry, Record, Spec, ask, choices_text, conversation
from data_pipelines.raw.fields import entry_id, get, listed, pictures, unread
from data_pipelines.raw.pictures import IMAGES, in_folder
from data_pipelines.raw.trained import LOSS_KEYS, check_record, ignored, is_trained
from data_pipelines.raw.values import is_missing, text_of
from nvlm_jax.inputs.batch import Message
from nvlm_jax.inputs.errors import BadSample

COLUMNS = ("question", "answer", "choices", "context", "correct")


def from_columns(place: str, record: Record, spec: Spec) -> Entry:
    """An entry from one question with its answer: fields `image`, `question`, `answer`, `choices`, `context`.

    A field that `spec.fields` does not name has its own name. `correct` names the number or letter of the right choice
    in place of an answer.

    Raises:
        BadSample: `missing_field`, `wrong_field`, `unsupported_field` or `not_trained`.
    """
    _check(place, record, spec)
    name = {f: spec.fields.get(f, f) for f in COLUMNS} | {"image": spec.fields.get("image", IMAGES)}
    images = in_folder(spec, pictures(place, record, name["image"]))
    choices = _choices(get(record, name["choices"]))
    filled = {f: _text(get(record, name[f]), f) for f in ("question", "context")}
    if "{question}" in spec.prompt and not filled["question"].strip():
        right = "--fields=question:KEY names its field, and a --prompt without {question} needs none"
        raise _missing(place, record, name["question"], right)
    answer = get(record, name["answer"])
    if answer is None and choices:
        correct = get(record, name["correct"])
        if correct is None:
            raise _missing(place, record, name["correct"], f"nor a field {name['answer']!r}")
        answer = LETTERS[_choice(correct, choices)]
    if answer is None:
        raise _missing(place, record, name["answer"], "--fields=answer:KEY names its field")
    question = ask(spec.prompt, len(images), choices=choices_text(choices), **filled)
    messages = with_system(place, record, spec, [question, Message("assistant", best_answer(answer), spec.task)])
    left = unread(record, spec, *name.values(), spec.fields.get("system", SYSTEM))
    return Entry(entry_id(place, record, spec), tuple(messages), images, place, left)


def from_pairs(place: str, record: Record, spec: Spec) -> Entry:
    """An entry from images and a list of questions and answers on them.

    Raises:
        BadSample: `missing_field`, `wrong_field`, `unsupported_field` or `not_trained`.
    """
    _check(place, record, spec)
    name = {"image": spec.fields.get("image", "images|image"), "texts": spec.fields.get("texts", "texts")}
    images = in_folder(spec, pictures(place, record, name["image"]))
    pairs = get(record, name["texts"])
    if not isinstance(pairs, list) or not all(isinstance(pair, dict) for pair in pairs):
        raise BadSample("wrong_field", f"{place}: there is no list of texts; the record has {sorted(record)[:12]}")
    turns, trained, skip = [], [], ignored(spec)
    for pair in pairs:
        if pair.get("user") is None or pair.get("assistant") is None:
            raise BadSample("missing_field", f"{place}: a text has {sorted(pair)}; user and assistant are expected")
        question = ask(spec.prompt, len(images), question=text_of(pair["user"], "user"))
        turns.append((question, text_of(pair["assistant"], "assistant")))
        trained.append(is_trained(place, pair, skip) is not False)
    messages = with_system(place, record, spec, list(conversation(turns, spec.task, trained)))
    left = unread(record, spec, *name.values(), spec.fields.get("system", SYSTEM))
    keys = {key for pair in pairs for key, value in pair.items() if value is not None}
    left += tuple(f"texts.{key}" for key in sorted(keys - {"user", "assistant", *LOSS_KEYS, *skip}))
    return Entry(entry_id(place, record, spec), tuple(messages), images, place, left)


def best_answer(value: Any) -> str:
    """The answer, or of several annotators' answers the most frequent one, the first of equals.

    Raises:
        BadSample: `empty_answer`, a list without any; `missing_field`; `wrong_field`.
    """
    if not isinstance(value, list):
        return text_of(value, "answer")
    answers = [item.get("answer") if isinstance(item, dict) else item for item in value]
    texts = [text_of(answer, "answer") for answer in answers if not is_missing(answer)]
    if answers and not texts:
        raise BadSample("missing_field", "no answer in the list has a value (null or NaN)")
    if not texts:
        raise BadSample("empty_answer", "the list of answers is empty")
    return Counter(texts).most_common(1)[0][0]


def _check(place: str, record: Record, spec: Spec) -> None:
    """Refuse what would change the meaning of the record if it were left unread."""
    skip = ignored(spec) | {part for name in spec.fields.values() for part in name.split("|")}
    check_record(place, record, skip)
    if record.get("history") and "history" not in skip:
        right = "questions and answers before this one are read as turns: --layout=json_conversations"
        raise BadSample("unsupported_field", f"{place}: 'history' has {len(listed(record['history']))} turns; {right}")


def _choices(value: Any) -> list[str]:
    """Choices as texts; those that a table filled up its list with, behind the last, are none."""
    choices = listed(value)
    while choices and is_missing(choices[-1]):
        choices = choices[:-1]
    return [text_of(choice, "choices") for choice in choices]


def _text(value: Any, name: str) -> str:
    return "" if value is None else text_of(value, name)


def _missing(place: str, record: Record, name: str, right: str) -> BadSample:
    keys = sorted(key for key, value in record.items() if value is not None)
    return BadSample("missing_field", f"{place}: no value of {name!r}; the record has {keys[:12]}; {right}")


def _choice(value: Any, choices: list[str]) -> int:
    """The place of the right choice, given as its number, its letter or its text."""
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
        return value
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    text = text.strip()
    if text in choices:
        return choices.index(text)
    if text.isdecimal() and int(text) < len(choices):
        return int(text)
    if len(text) == 1 and text.upper() in LETTERS[: len(choices)]:
        return LETTERS.index(text.upper())
    raise BadSample("wrong_field", f"the right choice {value!r:.80} is none of {len(choices)} choices")
