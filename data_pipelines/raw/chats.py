"""Conversations -> entries: LLaVA, ShareGPT, InternVL, LLaMA-Factory, OpenAI, Qwen.

    {"conversations": [{"from": "human", "value": "<image>\\n..."}, ...], "image": "a.jpg"}
    {"messages": [{"role": "user", "content": "..."}, ...], "images": [...], "system": "..."}
    {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "..."}]}, ...]}

In the last, an image part names its image (path, data URI, bytes), gives its `index` in the record's images, or stands
for the next of them. Parts are joined by line breaks, as served requests are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from data_pipelines.raw.entry import Entry, Picture, Record, Spec
from data_pipelines.raw.fields import entry_id, get, listed, pictures, unread
from data_pipelines.raw.pictures import HOLDERS, IMAGES, in_folder, picture_of
from data_pipelines.raw.trained import LOSS_KEYS, check_record, check_supported, ignored, is_trained
from data_pipelines.raw.values import text_of
from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER, Message
from nvlm_jax.inputs.chat import without_placeholder
from nvlm_jax.inputs.errors import BadSample

ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
TURNS, SYSTEM = "conversations|messages|conversation", "system|system_prompt|system_message"
ROLE_KEYS, CONTENT_KEYS = ("from", "role"), ("value", "content", "text")
TEXT_PARTS = ("text", "input_text", "output_text")
IMAGE_PARTS = ("image", "image_url", "input_image", "image_path")


class Turn(NamedTuple):
    """A turn's role, its parts (texts, and objects of images), and whether it is trained on."""

    role: str
    parts: list[Any]
    trained: bool


def from_conversation(place: str, record: Record, spec: Spec) -> Entry:
    """An entry from a conversation. Answers before the first question are left out, as in cut ShareGPT threads.

    Raises:
        BadSample: `wrong_field`, `missing_field`, `bad_role`; `unsupported_field`, `unsupported_part` (something that
            is neither obeyed nor safe to drop); `not_trained`; of images `missing_placeholder`, `extra_placeholder`.
    """
    skip = ignored(spec)
    declared = {part for name in spec.fields.values() for part in name.split("|")}
    check_record(place, record, skip | declared)
    check_supported(place, record, skip | declared)
    names = {key: spec.fields.get(key, default) for key, default in _NAMES.items()}
    held = _turns(place, record, names["conversations"])
    turns = [_turn(f"{place}, turn {i}", turn, skip) for i, turn in enumerate(held)]
    column = in_folder(spec, pictures(place, record, names["image"]))
    messages, images = _messages(place, turns, column, spec)
    first = next((i for i, m in enumerate(messages) if m.role == "user"), len(messages))
    messages = [m for m in messages[:first] if m.role == "system"] + messages[first:]
    messages = with_system(place, record, spec, messages)
    if spec.fields.get("place_images") == "first":
        messages = _place_first(messages, len(images))
    left = unread(record, spec, *names.values()) + _unread_of_turns(held, skip)
    return Entry(entry_id(place, record, spec), tuple(messages), images, place, left)


_NAMES = {"conversations": TURNS, "image": IMAGES, "system": SYSTEM}


def with_system(place: str, record: Record, spec: Spec, messages: list[Message]) -> list[Message]:
    """The messages behind the record's own system text, if it has one.

    Raises:
        BadSample: `unsupported_field`, there is another system text among the messages.
    """
    names = "|".join(name for name in spec.fields.get("system", SYSTEM).split("|") if name not in ignored(spec))
    value = get(record, names) if names else None
    text = "" if value is None else text_of(value, "system")
    if not text.strip():
        return messages
    if not any(m.role == "system" for m in messages):
        return [Message("system", text), *messages]
    if messages[0].content.strip() != text.strip():
        raise BadSample("unsupported_field", f"{place}: a system text of the record's, and another one among its turns")
    return messages


def _turns(place: str, record: Record, names: str) -> list[Any]:
    value = get(record, names)
    if isinstance(value, str) and value.lstrip().startswith("["):  # a table's column of JSON
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadSample("bad_json", f"{place}: {names}: {error}") from error
    if isinstance(value, Mapping):  # as `datasets` stores a sequence of structs: column by column
        columns = {key: item for key, item in value.items() if isinstance(item, list)}
        if columns and len({len(item) for item in columns.values()}) == 1:
            value = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if not isinstance(value, list):
        raise BadSample("wrong_field", f"{place}: there is no list of turns; the record has {sorted(record)[:12]}")
    return value


def _turn(where: str, turn: Any, skip: set[str]) -> Turn:
    if not isinstance(turn, Mapping):
        raise BadSample("wrong_field", f"{where} is {type(turn).__name__}; an object is expected")
    given = next((turn[key] for key in ROLE_KEYS if turn.get(key) is not None), None)
    role = ROLES.get(given.lower()) if isinstance(given, str) else None
    if role is None:
        raise BadSample("bad_role", f"{where} is from {given!r:.80}; there are {', '.join(ROLES)}")
    check_supported(where, turn, skip)
    trained = is_trained(where, turn, skip)
    if trained and role != "assistant":
        raise BadSample("unsupported_field", f"{where}: the {role}'s turn is to be trained on; only answers are")
    content = next((turn[key] for key in CONTENT_KEYS if turn.get(key) is not None), None)
    if content is None and role != "system":
        keys = sorted(key for key in turn if turn[key] is not None)
        raise BadSample("missing_field", f"{where} has no text: of {', '.join(CONTENT_KEYS)} none among {keys[:12]}")
    parts = [_part(where, part) for part in listed(content)]
    if role != "user" and not all(isinstance(part, str) for part in parts):
        raise BadSample("unsupported_part", f"{where}: an image in the {role}'s turn; users' turns alone hold some")
    return Turn(role, parts, trained is not False)


def _part(where: str, part: Any) -> str | Mapping[str, Any]:
    """The text of a part, or the part itself if it is an image."""
    if not isinstance(part, Mapping):
        return text_of(part, f"{where}'s text")
    kind = part.get("type") or ("text" if part.get("text") is not None else "image")
    if kind in TEXT_PARTS:
        text = next((part[key] for key in ("text", "content", "value") if part.get(key) is not None), "")
        return text_of(text, f"{where}'s text")
    if kind not in IMAGE_PARTS:
        raise BadSample("unsupported_part", f"{where}: a part of type {kind!r:.80}; texts and images are read")
    if part.get("file_id") is not None:
        raise BadSample("unsupported_part", f"{where}: 'file_id' names a file of OpenAI's; give the picture itself")
    return part


def _messages(
    place: str, turns: list[Turn], column: tuple[Picture, ...], spec: Spec
) -> tuple[list[Message], tuple[Picture, ...]]:
    """The turns as messages, and the images that their placeholders stand for, in order."""
    has_parts = any(not isinstance(part, str) for turn in turns for part in turn.parts)
    used: list[Picture] = []
    messages = []
    for turn in turns:
        texts = []
        for part in turn.parts:
            if not isinstance(part, str):
                used.append(_image_of(place, part, column, used, spec))
                texts.append(IMAGE_PLACEHOLDER)
            else:  # where parts say where images go, `<image>` in a text is text
                texts.append(without_placeholder(part) if has_parts and turn.role == "user" else part)
        content = "\n".join(text for text in texts if text) if len(texts) > 1 else "".join(texts)
        if turn.role == "system" and not content.strip():
            continue
        answer = turn.role == "assistant"
        messages.append(Message(turn.role, content, spec.task if answer else "", turn.trained or not answer))
    if not has_parts:
        return messages, column
    if unused := [picture for picture in column if picture not in used]:
        name = unused[0].name or "without a name"
        message = f"{place}: {len(unused)} of {len(column)} images are in no part of a turn; the first is {name!r:.200}"
        raise BadSample("missing_placeholder", message)
    return messages, tuple(used)


def _image_of(
    place: str, part: Mapping[str, Any], column: tuple[Picture, ...], used: list[Picture], spec: Spec
) -> Picture:
    """The image of a part: its own, or one of the record's."""
    own = picture_of(place, {key: part[key] for key in HOLDERS if part.get(key) is not None})
    if own is not None:
        (own,) = in_folder(spec, (own,))
        return next((picture for picture in column if own.name and picture.name == own.name), own)
    index = part.get("index")
    index = sum(picture in column for picture in used) if index is None else index
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(column):
        message = f"{place}: a part stands for image {index!r:.80}, counted from 0; the record has {len(column)} images"
        raise BadSample("extra_placeholder", message)
    return column[index]


def _unread_of_turns(turns: list[Mapping[str, Any]], skip: set[str]) -> tuple[str, ...]:
    keys = {key for turn in turns for key, value in turn.items() if value not in (None, "", [], {})}
    return tuple(f"turns.{key}" for key in sorted(keys - {*ROLE_KEYS, *CONTENT_KEYS, *LOSS_KEYS, *skip}))


def _place_first(messages: list[Message], images: int) -> list[Message]:
    """Where no question has a placeholder, put all of them before the first one."""
    if not images or any(IMAGE_PLACEHOLDER in m.content for m in messages if m.role == "user"):
        return messages
    first = next((i for i, m in enumerate(messages) if m.role == "user"), None)
    if first is None:
        return messages
    asked = Message("user", (IMAGE_PLACEHOLDER + "\n") * images + messages[first].content)
    return [*messages[:first], asked, *messages[first + 1 :]]
