"""What a client may send to /v1/chat/completions, and what is made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pydantic

from nvlm_jax.generation.sampling import MOST_LOGPROBS, Sampling
from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER, Message
from nvlm_jax.inputs.chat import without_placeholder
from nvlm_jax.serving.errors import Refused
from nvlm_jax.serving.unserved import NAMES, OF_MESSAGES, OF_STREAMS, refuse_unserved

MOST_STOPS = 4  # as in OpenAI's API
MOST_STOP_CHARACTERS = 1000  # of each
MOST_MESSAGES = 1000
MOST_PARTS = 1000  # of a message
# Commas, brackets and braces of a body outside of its pictures: what is parsed takes a hundred times their memory.
MOST_MARKS = 1_000_000
INT32, INT64 = 2**31 - 1, 2**63 - 1


class Strict(pydantic.BaseModel):
    """Values keep their types: "5" is no number. What no field reads is kept, to be looked at by `refuse_unserved`."""

    model_config = pydantic.ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class TextPart(Strict):
    type: Literal["text"]
    text: str


class ImageUrl(Strict):
    url: str
    # Accepted, and without effect: tiles follow from the picture's shape.
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl

    @pydantic.field_validator("image_url", mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        """Some clients send the address alone."""
        return {"url": value} if isinstance(value, str) else value


Part = Annotated[TextPart | ImagePart, pydantic.Field(discriminator="type")]


class ChatMessage(Strict):
    """One message. An earlier answer may be empty, or null as where tools were called."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[str | None, pydantic.Tag("text")]
        | Annotated[list[Part], pydantic.Field(max_length=MOST_PARTS), pydantic.Tag("parts")],
        pydantic.Discriminator(lambda value: "parts" if isinstance(value, list) else "text"),
    ] = None


class StreamOptions(Strict):
    include_usage: bool | None = False


class ChatBody(Strict):
    """The fields that are read. Those that would change the answer and are not served are refused."""

    model: str | None = None
    messages: list[ChatMessage] = pydantic.Field(min_length=1, max_length=MOST_MESSAGES)
    max_tokens: int | None = pydantic.Field(None, ge=1, le=INT32)
    max_completion_tokens: int | None = pydantic.Field(None, ge=1, le=INT32)
    temperature: float | None = pydantic.Field(None, ge=0, le=2)
    top_p: float | None = pydantic.Field(None, gt=0, le=1)
    top_k: int | None = pydantic.Field(None, ge=-1, le=INT32)  # not of OpenAI's; -1 and 0 = all
    seed: int | None = pydantic.Field(None, ge=-INT64 - 1, le=INT64)
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = pydantic.Field(None, ge=0, le=MOST_LOGPROBS)

    @pydantic.field_validator("stop")
    @classmethod
    def _few_stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > MOST_STOPS or not all(stops):
            raise ValueError(f"at most {MOST_STOPS} texts, none of them empty")
        if max(map(len, stops), default=0) > MOST_STOP_CHARACTERS:
            raise ValueError(f"at most {MOST_STOP_CHARACTERS:,} characters each")
        return value

    @property
    def limit(self) -> int | None:
        """Tokens of the answer, where the client says so."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def alternatives(self) -> int | None:
        """None = no log-probabilities are wanted."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def sampling(self, fallback_seed: int) -> Sampling:
        """Greedy where no temperature is given: models here are asked for facts."""
        seed = self.seed if self.seed is not None else fallback_seed
        top_p = 1.0 if self.top_p is None else self.top_p
        return Sampling(self.temperature or 0.0, top_p, max(self.top_k or 0, 0), seed)


def read_body(body: bytes) -> ChatBody:
    """JSON -> what is asked.

    Raises:
        Refused: 400, with the faulty field.
    """
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > MOST_MARKS:
        raise Refused(400, f"the body holds more than {MOST_MARKS:,} values", code="invalid_json")
    try:
        try:
            found = ChatBody.model_validate_json(body)
        except pydantic.ValidationError as error:
            if "number out of range" not in str(error.errors(include_url=False, include_input=False)[0]["msg"]):
                raise
            found = ChatBody.model_validate_json(_shortened(body))  # which says whose number it is
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part)[:200] for part in _without_tags(first["loc"]))
        if first["type"] == "json_invalid":
            raise Refused(400, f"the body is no JSON: {first['msg']}", code="invalid_json") from error
        raise Refused(400, f"{place or 'body'}: {first['msg']}", place or None, "invalid_value") from error
    _check_unserved(found)
    if found.top_logprobs and not found.logprobs:
        raise Refused(400, "top_logprobs: needs logprobs to be true", "top_logprobs", "invalid_value")
    if found.stream_options is not None and not found.stream:
        raise Refused(400, "stream_options: needs stream to be true", "stream_options", "invalid_value")
    return found


def _shortened(body: bytes) -> bytes:
    """The same JSON with whole numbers of thousands of digits cut short: still out of every range."""
    try:
        return json.dumps(json.loads(body, parse_int=lambda digits: int(digits[:40]))).encode()
    except (ValueError, RecursionError):
        return body


def _check_unserved(body: ChatBody) -> None:
    """Refuse what no field reads, in the body and in its parts; and a message without a content."""
    refuse_unserved(body.model_extra)
    if body.stream_options is not None:
        refuse_unserved(body.stream_options.model_extra, "stream_options.", OF_STREAMS, ())
    for i, message in enumerate(body.messages):
        place = f"messages.{i}."
        refuse_unserved(message.model_extra, place, OF_MESSAGES, NAMES)
        if message.content is None and message.role != "assistant":
            raise Refused(400, f"{place}content: Field required", f"{place}content", "invalid_value")
        for j, part in enumerate(message.content if isinstance(message.content, list) else ()):
            refuse_unserved(part.model_extra, f"{place}content.{j}.", {}, ())
            if isinstance(part, ImagePart):
                refuse_unserved(part.image_url.model_extra, f"{place}content.{j}.image_url.", {}, ())


def _without_tags(place: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """`messages, 0, content, parts, 2, image_url, ...` without the names of the forms that were tried."""
    if place[:1] == ("messages",) and place[2:3] == ("content",):
        return place[:3] + place[4:5] + place[6:]
    return place[:1] if place[:1] == ("stop",) else place


def characters(messages: list[ChatMessage]) -> int:
    """Of all their texts."""
    return sum(map(len, _texts(messages)))


def _texts(messages: list[ChatMessage]) -> Iterator[str]:
    for message in messages:
        if isinstance(message.content, str):
            yield message.content
        for part in message.content if isinstance(message.content, list) else ():
            if isinstance(part, TextPart):
                yield part.text


def conversation(messages: list[ChatMessage]) -> tuple[list[Message], list[tuple[str, str]]]:
    """Messages with `<image>` where a picture goes; for each of those, the field it comes from and its URL.

    Raises:
        Refused: 400, a picture in another message than a user's.
    """
    found, urls = [], []
    for i, message in enumerate(messages):
        role = "system" if message.role == "developer" else message.role
        if not isinstance(message.content, list):
            found.append(Message(role, without_placeholder(message.content or "")))
            continue
        pieces = []
        for j, part in enumerate(message.content):
            if isinstance(part, TextPart):
                pieces.append(without_placeholder(part.text))
                continue
            place = f"messages.{i}.content.{j}"
            if role != "user":
                raise Refused(400, f"{place}: a picture in a message of the {role}; users' alone hold some", place)
            pieces.append(IMAGE_PLACEHOLDER)
            urls.append((f"{place}.image_url.url", part.image_url.url))
        found.append(Message(role, "\n".join(pieces)))
    return found, urls
