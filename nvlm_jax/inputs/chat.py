r"""Messages -> pieces: which text, special token and image follows which, and what of it is trained on.

    chatml (SFT)           <|im_start|>user\n question <|im_end|>\n <|im_start|>assistant\n answer <|im_end|>\n ...
    plain (pretraining)    <Image> ... </Image> prompt answer <|im_end|> prompt answer <|im_end|> ...
    checkpoint             as the chat template beside the tokenizer says: `own_template.py`

Trained are each answer's text and its end token, unless the answer is only history (`Message.trained`). ChatML begins
with a system message of the same form.

Every piece is tokenized by itself, so that no text merges with what the template puts around it and an answer has the
same ids whether it is trained on or generated. For ChatML this gives the ids of the whole string, as a Hugging Face
chat template would, unless a text begins with a line break: that one stays apart from the `\n` of `user\n`. `<Image>`
belongs to the text before the image and `</Image>` to the text behind it, as the released model was trained
(`</Image>\n` ends in the token `>\n`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER, Message
from nvlm_jax.inputs.errors import BadSample

START_TOKEN = "<|im_start|>"
IMAGE_OPEN, IMAGE_CLOSE = "<Image>", "</Image>"
HEADERS = {role: f"{role}\n" for role in ("system", "user", "assistant")}
# Texts that the templates write themselves, worth tokenizing once.
FIXED_TEXTS = (*HEADERS.values(), "\n", IMAGE_OPEN, IMAGE_CLOSE)


class Piece(NamedTuple):
    """A stretch of one kind. An image piece is its tiles, between a text that ends in `<Image>` and `</Image>`."""

    kind: str  # text | special | image
    text: str = ""  # of a text, or the name of a special token
    image: int = -1  # number of the image within the conversation
    trained: bool = False
    group: str = ""  # the message's, for trained pieces
    history: bool = False  # an answer that is not trained on


def turns(sample_id: str, messages: Sequence[Message], template: str, prompt: bool = False) -> list[list[Message]]:
    """Check a conversation and cut it into turns: a question with its answers. A system message is in the first.

    Args:
        sample_id: for error messages.
        messages: the conversation.
        template: chatml | plain | checkpoint.
        prompt: the conversation ends in a question, to be answered, instead of in an answer. What was said before may
            be empty then: a system text, or an answer of the history.

    Raises:
        BadSample: `bad_role`, `empty_text`, `empty_answer`, `no_answer` or `not_trained` (no answer is trained on).
    """
    roles = ("user", "assistant") if template == "plain" else ("user", "assistant", "system")
    found: list[list[Message]] = []
    for i, message in enumerate(messages):
        where = f"sample {sample_id!r}, message {i}"
        if message.role not in roles or (message.role == "system" and i > 0):
            raise BadSample(
                "bad_role",
                f"{where}: role {message.role!r}; template {template!r} takes user and assistant"
                + (", and system for the first message" if "system" in roles else ""),
            )
        if not message.content.strip() and not (prompt and message.role != "user"):
            answer = message.role == "assistant"
            raise BadSample(
                "empty_answer" if answer else "empty_text",
                f"{where}: the {message.role}'s text is empty; it must hold at least one character",
            )
        if not found or (message.role == "user" and messages[i - 1].role == "assistant"):
            found.append([])
        found[-1].append(message)
    last = messages[-1].role if messages else "none"
    if prompt and last != "user":
        raise BadSample("bad_role", f"sample {sample_id!r}: a prompt ends in a user's message; the last role is {last}")
    if not prompt and last != "assistant":
        raise BadSample("no_answer", f"sample {sample_id!r}: ends in no answer; the last role is {last}")
    if not prompt and not any(map(is_trained, messages)):
        message = f"sample {sample_id!r}: none of its answers is to be trained on; one at least is needed"
        raise BadSample("not_trained", message)
    return found


def is_trained(message: Message) -> bool:
    """Whether the loss is taken of the message."""
    return message.role == "assistant" and message.trained


def without_placeholder(text: str) -> str:
    """The text with no `<image>` in it that would be taken for an image's place."""
    return text.replace(IMAGE_PLACEHOLDER, "< image >")


def count_placeholders(messages: Sequence[Message]) -> int:
    """How many images the users' texts refer to. In other roles `<image>` is text."""
    return sum(m.content.count(IMAGE_PLACEHOLDER) for m in messages if m.role == "user")


def render(
    conversation: Sequence[Sequence[Message]], template: str, system: str, end_token: str, prompt: bool = False
) -> Iterator[list[Piece]]:
    """The pieces of each turn.

    Args:
        conversation: from `turns`.
        template: chatml | plain.
        system: ChatML's system text for a conversation that has none; empty = no system turn.
        end_token: name of the special token that ends an answer and, in ChatML, every message.
        prompt: end with what the template puts before an answer.
    """
    message_pieces = _chatml if template == "chatml" else _plain
    image = 0
    for number, messages in enumerate(conversation):
        pieces: list[Piece] = []
        if number == 0 and system and template == "chatml" and messages[0].role != "system":
            pieces += _chatml(Message("system", system), end_token, 0)
        for message in messages:
            pieces += message_pieces(message, end_token, image)
            image += count_placeholders((message,))
        if prompt and template == "chatml" and number == len(conversation) - 1:
            pieces += [Piece("special", START_TOKEN), Piece("text", HEADERS["assistant"])]
        yield pieces


def _chatml(message: Message, end_token: str, image: int) -> list[Piece]:
    trained = is_trained(message)
    return [
        Piece("special", START_TOKEN),
        Piece("text", HEADERS[message.role]),
        *content_pieces(message, image),
        Piece("special", end_token, -1, trained, message.group),
        Piece("text", "\n"),
    ]


def _plain(message: Message, end_token: str, image: int) -> list[Piece]:
    pieces = content_pieces(message, image)
    if message.role == "assistant":
        pieces.append(Piece("special", end_token, -1, message.trained, message.group))
    return pieces


def _is_history(message: Message) -> bool:
    return message.role == "assistant" and not message.trained


def content_pieces(message: Message, image: int) -> list[Piece]:
    """The message's text, cut where a user's text has images; they are numbered from `image`."""
    if message.role != "user" or IMAGE_PLACEHOLDER not in message.content:
        return [Piece("text", message.content, -1, is_trained(message), message.group, _is_history(message))]
    texts = message.content.split(IMAGE_PLACEHOLDER)
    pieces = [Piece("text", texts[0] + IMAGE_OPEN)]
    for i, text in enumerate(texts[1:]):
        is_last = i == len(texts) - 2
        between = IMAGE_CLOSE + text + ("" if is_last else IMAGE_OPEN)
        pieces += [Piece("image", image=image + i), Piece("text", between)]
    return pieces
