"""What a client may send to /v1/chat/completions, and what is made of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

from nvlm_jax.generation.sampling import MOST_LOGPROBS, Sampling
from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER, Message
from nvlm_jax.inputs.chat import without_placeholder
from nvlm_jax.serving.errors import Refused

MOST_STOPS = 4  # as in OpenAI's API


class Strict(pydantic.BaseModel):
    """Values keep their types: "5" is no number. Unknown keys are left unread, as clients send many."""

    model_config = pydantic.ConfigDict(strict=True, extra="allow")


class TextPart(Strict):
    type: Literal["text"]
    text: str


class ImageUrl(Strict):
    url: str
    detail: str = "auto"  # accepted, and without effect: tiles follow from the picture's shape


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, pydantic.Field(discriminator="type")]


class ChatMessage(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[str, pydantic.Tag("text")] | Annotated[list[Part], pydantic.Tag("parts")],
        pydantic.Discriminator(lambda value: "parts" if isinstance(value, list) else "text"),
    ]


class StreamOptions(Strict):
    include_usage: bool = False


class ChatBody(Strict):
    """The fields that are read. Those that would change the answer and are not served are refused."""

    model: str = ""
    messages: list[ChatMessage] = pydantic.Field(min_length=1)
    max_tokens: int | None = pydantic.Field(None, ge=1)
    max_completion_tokens: int | None = pydantic.Field(None, ge=1)
    temperature: float | None = pydantic.Field(None, ge=0, le=2)
    top_p: float | None = pydantic.Field(None, gt=0, le=1)
    top_k: int | None = pydantic.Field(None, ge=0)  # not of OpenAI's
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = pydantic.Field(None, ge=0, le=MOST_LOGPROBS)
    n: Literal[1] | None = 1
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None

    @pydantic.field_validator("frequency_penalty", "presence_penalty")
    @classmethod
    def _no_penalty(cls, value: float | None) -> float | None:
        if value:
            raise ValueError("is not served; leave it out or 0")
        return value

    @pydantic.field_validator("tools")
    @classmethod
    def _no_tools(cls, value: list[Any] | None) -> list[Any] | None:
        if value:
            raise ValueError("are not served; leave them out")
        return value

    @pydantic.field_validator("response_format")
    @classmethod
    def _text_only(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value and value.get("type") != "text":
            raise ValueError('only {"type": "text"} is served')
        return value

    @pydantic.field_validator("stop")
    @classmethod
    def _few_stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > MOST_STOPS or not all(stops):
            raise ValueError(f"at most {MOST_STOPS} texts, none of them empty")
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
        return Sampling(self.temperature or 0.0, top_p, self.top_k or 0, seed)


def read_body(body: bytes) -> ChatBody:
    """JSON -> what is asked.

    Raises:
        Refused: 400, with the faulty field.
    """
    try:
        found = ChatBody.model_validate_json(body)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in _without_tags(first["loc"]))
        if first["type"] == "json_invalid":
            raise Refused(400, f"the body is no JSON: {first['msg']}", code="invalid_json") from error
        raise Refused(400, f"{place or 'body'}: {first['msg']}", place or None, "invalid_value") from error
    if found.top_logprobs is not None and not found.logprobs:
        raise Refused(400, "top_logprobs: needs logprobs to be true", "top_logprobs", "invalid_value")
    return found


def _without_tags(place: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """`messages, 0, content, parts, 2, image_url, ...` without the names of the forms that were tried."""
    if place[:1] == ("messages",) and place[2:3] == ("content",):
        return place[:3] + place[4:5] + place[6:]
    return place


def conversation(messages: list[ChatMessage]) -> tuple[list[Message], list[tuple[str, str]]]:
    """Messages with `<image>` where a picture goes; for each of those, the field it comes from and its URL.

    Raises:
        Refused: 400, a picture in another message than a user's.
    """
    found, urls = [], []
    for i, message in enumerate(messages):
        role = "system" if message.role == "developer" else message.role
        if isinstance(message.content, str):
            found.append(Message(role, without_placeholder(message.content)))
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
