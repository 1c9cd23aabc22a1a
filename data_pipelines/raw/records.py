"""Generic records -> entries: conversations, columns, lists of questions and answers.

conversation    LLaVA, ShareGPT and InternVL: {"conversations": [{"from": "human", "value": "<image>\\n..."}, ...],
                "image": "a.jpg"}; or {"messages": [{"role": "user", "content": ...}]}
columns         one field each for image, question, answer, choices; also captions, where the question is the prompt
pairs           The Cauldron, Docmatix: {"images": [...], "texts": [{"user": ..., "assistant": ...}]}
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from data_pipelines.raw.entry import (
    LETTERS,
    Entry,
    Picture,
    Record,
    Spec,
    ask,
    choices_text,
    conversation,
    text_of,
)
from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER, Message
from nvlm_jax.inputs.errors import BadSample

ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    "system": "system",
}
IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")  # of a WebDataset's members
IMAGES = "image|images|" + "|".join(IMAGE_ENDINGS)


def from_conversation(place: str, record: Record, spec: Spec) -> Entry:
    """An entry from a conversation. Answers before the first question are left out, as in cut ShareGPT threads.

    Raises:
        BadSample: `wrong_field` or `bad_role`.
    """
    turns = get(record, spec.fields.get("conversations", "conversations|messages"))
    if not isinstance(turns, list):
        raise BadSample("wrong_field", f"{place}: there is no list of turns; the record has {sorted(record)[:12]}")
    messages = [_message(place, turn, spec.task) for turn in turns]
    first = next((i for i, m in enumerate(messages) if m.role == "user"), len(messages))
    messages = [m for m in messages[:first] if m.role == "system"] + messages[first:]
    images = in_folder(spec, pictures(place, record, spec.fields.get("image", IMAGES)))
    if spec.fields.get("place_images") == "first":
        messages = _place_first(messages, len(images))
    return Entry(entry_id(place, record, spec), tuple(messages), images, place)


def from_columns(place: str, record: Record, spec: Spec) -> Entry:
    """An entry from one question with its answer: fields `image`, `question`, `answer`, `choices`, `context`.

    A field that `spec.fields` does not name has its own name. `correct` names the number or letter of the right choice
    in place of an answer.

    Raises:
        BadSample: `missing_field` or `wrong_field`.
    """
    name = {f: spec.fields.get(f, f) for f in ("question", "answer", "choices", "context", "correct")}
    images = in_folder(spec, pictures(place, record, spec.fields.get("image", IMAGES)))
    choices = [text_of(choice, "choices") for choice in _list(get(record, name["choices"]))]
    answer = get(record, name["answer"])
    if answer is None and choices:
        answer = LETTERS[_choice(get(record, name["correct"]), choices)]
    if answer is None:
        raise BadSample("missing_field", f"{place}: no field {name['answer']!r}; the record has {sorted(record)[:12]}")
    filled = {f: text_of(get(record, name[f]) or "", f) for f in ("question", "context")}
    question = ask(spec.prompt, len(images), choices=choices_text(choices), **filled)
    messages = (question, Message("assistant", best_answer(answer), spec.task))
    return Entry(entry_id(place, record, spec), messages, images, place)


def from_pairs(place: str, record: Record, spec: Spec) -> Entry:
    """An entry from images and a list of questions and answers on them.

    Raises:
        BadSample: `missing_field` or `wrong_field`.
    """
    images = in_folder(spec, pictures(place, record, spec.fields.get("image", "images|image")))
    pairs = get(record, spec.fields.get("texts", "texts"))
    if not isinstance(pairs, list) or not all(isinstance(pair, dict) for pair in pairs):
        raise BadSample("wrong_field", f"{place}: there is no list of texts; the record has {sorted(record)[:12]}")
    turns = []
    for pair in pairs:
        if "user" not in pair or "assistant" not in pair:
            raise BadSample("missing_field", f"{place}: a text has {sorted(pair)}; user and assistant are expected")
        question = ask(spec.prompt, len(images), question=text_of(pair["user"], "user"))
        turns.append((question, text_of(pair["assistant"], "assistant")))
    return Entry(entry_id(place, record, spec), conversation(turns, spec.task), images, place)


def get(record: Record, names: str) -> Any:
    """The first of the names `a|b.c` that the record has; None if it has none.

    A dot leads into an object, or into a text that holds one as JSON.

    Raises:
        BadSample: `bad_json`, such a text is none.
    """
    for name in names.split("|"):
        value: Any = record
        for key in [name] if name in record else name.split("."):  # a tar's member may end in `gt.txt`
            value = _parsed(value, name) if isinstance(value, str) else value
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None


def _parsed(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadSample("bad_json", f"field {name!r}: {error}: {text[:80]!r}") from error


def pictures(place: str, record: Record, names: str) -> tuple[Picture, ...]:
    """The images of a field: a path, bytes, a struct of both, or a list of these; none if there is no such field.

    Raises:
        BadSample: `wrong_field`.
    """
    found = []
    for value in _list(get(record, names)):
        if isinstance(value, dict) and value.get("bytes") is not None:
            found.append(Picture(str(value.get("path") or ""), value["bytes"]))
        elif isinstance(value, dict) and value.get("path"):
            found.append(Picture(str(value["path"])))
        elif isinstance(value, bytes):
            ending = next((name for name in names.split("|") if record.get(name) is value), "")
            found.append(Picture(f"image.{ending}" if ending in IMAGE_ENDINGS else "", value))
        elif isinstance(value, str):
            found.append(Picture(value))
        else:
            raise BadSample("wrong_field", f"{place}: an image is {type(value).__name__}; a path or bytes are expected")
    field = next((name for name in names.split("|") if get(record, name) is not None), "")
    return tuple(picture._replace(field=field) for picture in found)


def in_folder(spec: Spec, images: tuple[Picture, ...]) -> tuple[Picture, ...]:
    """The images, those that are paths below the folder that the spec's field `folder` names."""
    folder = spec.fields.get("folder", "").rstrip("/")
    if not folder:
        return images
    return tuple(p if p.data is not None else p._replace(name=f"{folder}/{p.name}") for p in images)


def entry_id(place: str, record: Record, spec: Spec) -> str:
    """The record's own id, or where it stands."""
    value = get(record, spec.fields.get("id", "id|question_id|questionId|__key__"))
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and value != "" else place


def best_answer(value: Any) -> str:
    """The answer, or of several annotators' answers the most frequent one, the first of equals.

    Raises:
        BadSample: `empty_answer`, a list without any; `wrong_field`.
    """
    if not isinstance(value, list):
        return text_of(value, "answer")
    answers = [text_of(item.get("answer") if isinstance(item, dict) else item, "answer") for item in value]
    if not answers:
        raise BadSample("empty_answer", "the list of answers is empty")
    return Counter(answers).most_common(1)[0][0]


def _message(place: str, turn: Any, task: str) -> Message:
    if not isinstance(turn, dict):
        raise BadSample("wrong_field", f"{place}: a turn is {type(turn).__name__}; an object is expected")
    role, value = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    if role not in ROLES:
        raise BadSample("bad_role", f"{place}: a turn is from {role!r:.80}; there are {', '.join(ROLES)}")
    role = ROLES[role]
    return Message(role, text_of(value, "value"), task if role == "assistant" else "")


def _place_first(messages: list[Message], images: int) -> list[Message]:
    """Where no question has a placeholder, put all of them before the first one."""
    if not images or any(IMAGE_PLACEHOLDER in m.content for m in messages if m.role == "user"):
        return messages
    first = next((i for i, m in enumerate(messages) if m.role == "user"), None)
    if first is None:
        return messages
    asked = Message("user", (IMAGE_PLACEHOLDER + "\n") * images + messages[first].content)
    return [*messages[:first], asked, *messages[first + 1 :]]


def _choice(value: Any, choices: list[str]) -> int:
    """The place of the right choice, given as its number, its letter or its text."""
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


def _list(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]
