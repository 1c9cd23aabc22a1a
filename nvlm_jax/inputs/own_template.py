r"""Chat templates that come with a tokenizer, in Jinja: a rendered conversation, cut into the pieces of `chat.py`.

    [INST] \0 [/INST]\1</s>     rendered with a mark in place of each message
    fixed | content | fixed ... -> special tokens are read in what the template wrote, never in what a message says

The template is rendered once, with marks; so it may strip what a message says (then so do we), and must not look at it
otherwise. An answer is trained on with what stands behind it up to the first special token, which ends it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2

from nvlm_jax import json_text
from nvlm_jax.config import ConfigError, InputConfig
from nvlm_jax.inputs import bounded_jinja
from nvlm_jax.inputs.batch import Message
from nvlm_jax.inputs.chat import Piece, content_pieces, count_placeholders
from nvlm_jax.inputs.errors import BadSample, words
from nvlm_jax.inputs.tokenizer import Tokenizer

MAX_BYTES = 16 << 20
DATE = InputConfig.date  # what `strftime_now` takes for now
LONGEST = 300  # characters of what is said of a template
FILE, CONFIG = "chat_template.jinja", "tokenizer_config.json"
# A message's number between characters of private use, in white space that shows whether the template strips.
MARK = "\v\ue000{}\ue001\v"
FIND_MARK = re.compile("(\v?)\ue000(\\d+)\ue001(\v?)")
# With white space, to see whether a template strips.
PROBE = (Message("user", " first "), Message("assistant", " second "), Message("user", " third "))


def read_template(directory: str | Path) -> str | None:
    """The Jinja template of a directory with a tokenizer; None if it has none. Raises ConfigError: it is no text."""
    directory = Path(directory)
    if (directory / FILE).exists():
        try:
            return json_text.read_text(directory / FILE, MAX_BYTES)
        except (json_text.JsonError, OSError) as error:
            raise ConfigError(str(error)) from None
    template = _tokenizer_config(directory).get("chat_template")
    if isinstance(template, list):  # several by name
        named = [each for each in template if isinstance(each, dict)]
        template = next((each.get("template") for each in named if each.get("name") == "default"), None)
    if template is not None and not isinstance(template, str):
        raise ConfigError(f"{directory / CONFIG}: chat_template: expected a text, got {template!r:.80}")
    return template


def render_template(
    template: str, messages: Sequence[dict[str, str]], prompt: bool, names: dict[str, Any], date: str = DATE
) -> str:
    """A conversation by a Jinja template, in a sandbox: templates come with checkpoints and are not trusted.

    Raises:
        jinja2.TemplateError: the template has an error, takes too much, or refuses the conversation; in one line.
    """
    if len(template) > bounded_jinja.SOURCE:
        raise jinja2.TemplateError(f"it has {len(template):,} characters; at most {bounded_jinja.SOURCE:,} are read")
    environment = bounded_jinja.Bounded(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals |= {"raise_exception": _refuse, "strftime_now": datetime.datetime.fromisoformat(date).strftime}
    try:
        return environment.from_string(template).render(messages=messages, add_generation_prompt=prompt, **names)
    except jinja2.TemplateError as error:
        raise jinja2.TemplateError(words(error)[:LONGEST]) from error
    except RecursionError:
        raise jinja2.TemplateError("it nests or calls itself too deeply") from None
    except Exception as error:  # a template's own fault may be of any kind: a division by zero, a bad format
        raise jinja2.TemplateError(f"{type(error).__name__}: {words(error)}"[:LONGEST]) from error


def token_names(directory: str | Path) -> dict[str, str]:
    """What templates call `bos_token`, `eos_token` and so on, by tokenizer_config.json."""
    config = _tokenizer_config(Path(directory))
    found = {key: value for key, value in config.items() if key.endswith("_token")}
    found = {key: value.get("content") if isinstance(value, dict) else value for key, value in found.items()}
    return {key: value for key, value in found.items() if isinstance(value, str)}


class OwnTemplate:
    """The chat template beside a tokenizer.

    Raises:
        ConfigError: there is none, or `date` is no date.
    """

    def __init__(self, tokenizer: Tokenizer, date: str = DATE):
        self._tokenizer, self._date = tokenizer, date
        try:
            datetime.date.fromisoformat(date)
        except ValueError:
            raise ConfigError(f"inputs.date: {date!r} is no day; {DATE} is written so") from None
        self.directory = tokenizer.path if tokenizer.path.is_dir() else tokenizer.path.parent
        self._template, self._names = read_template(self.directory), token_names(self.directory)
        if self._template is None:
            raise ConfigError(f"inputs.template: 'checkpoint', but {self.directory} has no chat template; take chatml")
        tokenizer.guard(self._written_tokens())
        longest_first = sorted(tokenizer.added_tokens, key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def _written_tokens(self) -> list[str]:
        """The tokens that the template writes: in its own text, by a name, or put together while it is rendered."""
        rendered = [self._template, *self._names.values()]
        for talk, prompt in ((PROBE, True), (PROBE[:2], False), ((Message("system", " zeroth "), *PROBE), True)):
            messages = [{"role": message.role, "content": message.content} for message in talk]
            with contextlib.suppress(jinja2.TemplateError):  # named when a conversation is rendered
                rendered.append(render_template(self._template, messages, prompt, self._names, self._date))
        return [name for name in self._tokenizer.added_tokens if any(name in text for text in rendered)]

    def end_token(self) -> str:
        """The special token that ends an answer.

        Raises:
            ConfigError: none does, or the template cannot be rendered.
        """
        try:
            [turn, _] = self.render("template", [PROBE[:2], PROBE[2:]], "", prompt=True)
        except BadSample as error:
            raise ConfigError(str(error)) from error
        ends = [piece.text for piece in turn if piece.trained and piece.kind == "special"]
        if not ends:
            raise ConfigError(
                f"{self.directory}: its chat template ends answers with no special token of its tokenizer; remove the "
                "template to have ChatML"
            )
        return ends[0]

    def render(
        self, sample_id: str, conversation: Sequence[Sequence[Message]], system: str, prompt: bool
    ) -> Iterator[list[Piece]]:
        """The pieces of each turn, as `chat.render`. A `system` text is a first message where there is none.

        Raises:
            BadSample: `bad_role`, the template refuses the conversation, or leaves a message out.
        """
        messages = [message for turn in conversation for message in turn]
        ends = list(itertools.accumulate(map(len, conversation)))[:-1]  # of turns that others follow
        if system and messages[0].role != "system":
            messages, ends = [Message("system", system), *messages], [end + 1 for end in ends]
        before, *rest = self._cut(sample_id, messages, prompt)
        pieces, image = self._fixed(before), 0
        for i, (left, _, right, behind) in enumerate(zip(*[iter(rest)] * 4, strict=True)):
            message = messages[i]
            content = message.content if left else message.content.lstrip()
            message = dataclasses.replace(message, content=content if right else content.rstrip())
            pieces += content_pieces(message, image)
            image += count_placeholders((message,))
            fixed = self._fixed(behind)
            if message.role == "assistant":
                end = next((n + 1 for n, piece in enumerate(fixed) if piece.kind == "special"), 0)
                pieces += [piece._replace(trained=message.trained, group=message.group) for piece in fixed[:end]]
                fixed = fixed[end:]
            if i + 1 in ends:
                yield _joined(pieces)
                pieces = []
            pieces += fixed
        yield _joined(pieces)

    def _cut(self, sample_id: str, messages: Sequence[Message], prompt: bool) -> list[str]:
        """What the template writes: text, (padding, number, padding, text) for each message."""
        marked = [{"role": m.role, "content": MARK.format(i)} for i, m in enumerate(messages)]
        where = f"sample {sample_id!r}: the chat template of {self.directory}"
        try:
            parts = FIND_MARK.split(render_template(self._template, marked, prompt, self._names, self._date))
        except jinja2.TemplateError as error:
            raise BadSample("bad_role", f"{where} refuses the conversation: {error}") from error
        if parts[2::4] != [str(i) for i in range(len(messages))]:
            roles = ", ".join(message.role for message in messages)
            raise BadSample("bad_role", f"{where} leaves out or repeats a message; the roles are {roles}")
        return parts

    def _fixed(self, text: str) -> list[Piece]:
        """What the template wrote itself, with special tokens read."""
        kinds = itertools.cycle(("text", "special"))
        return [Piece(kind, part) for kind, part in zip(kinds, self._special.split(text), strict=False) if part]

    def __reduce__(self):
        return type(self), (self._tokenizer, self._date)


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Untrained texts that follow each other as one: they are tokenized as the whole string would be."""
    found: list[Piece] = []
    for piece in pieces:
        last = found[-1] if found else None
        plain = [p is not None and p.kind == "text" and not (p.trained or p.history) for p in (last, piece)]
        if all(plain):
            found[-1] = last._replace(text=last.text + piece.text)
        else:
            found.append(piece)
    return found


def _tokenizer_config(directory: Path) -> dict[str, Any]:
    file = directory / CONFIG
    if not file.exists():
        return {}
    try:
        value = json_text.load(file, MAX_BYTES)
    except (json_text.JsonError, OSError) as error:
        raise ConfigError(str(error)) from None
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: expected a JSON object, got {type(value).__name__}")
    return value


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
