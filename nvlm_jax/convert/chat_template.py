"""Chat templates of checkpoints: read for how conversations are to be rendered, written as `inputs/chat.py` does it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jinja2

from nvlm_jax.config import InputConfig
from nvlm_jax.convert.shards import CheckpointError
from nvlm_jax.inputs import own_template
from nvlm_jax.inputs.batch import Message
from nvlm_jax.inputs.chat import render, turns
from nvlm_jax.inputs.own_template import CONFIG, FILE, PROBE, OwnTemplate, read_template
from nvlm_jax.inputs.tokenizer import Tokenizer

__all__ = ["CONFIG", "FILE", "agrees", "chatml_text", "conversing", "render_template", "write_template"]

TOKENIZER = "tokenizer.json"
# ChatML. The default system message stands where the conversation has none.
CHATML = (
    "{% if messages[0]['role'] != 'system' and default_system %}"
    "{{ '<|im_start|>system\\n' + default_system + 'END\\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + 'END\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WHOLE = (Message("system", " zeroth "), *PROBE[:2])  # a conversation that is complete, and has a system message


def write_template(inputs: InputConfig) -> str:
    """The Jinja template that renders a conversation as `inputs/chat.py` does, for `transformers`."""
    system = f"{{% set default_system = {json.dumps(inputs.system, ensure_ascii=False)} %}}"
    return system + CHATML.replace("END", inputs.end_token)


def conversing(directory: str | Path, inputs: InputConfig) -> InputConfig:
    """`inputs` with the template, system text and end token of a checkpoint directory's chat template, if it has one.

    ChatML is rendered by `inputs/chat.py`, with the system text that the template gives a conversation without one; any
    other template by itself (`inputs.template: checkpoint`).

    Raises:
        CheckpointError, ConfigError: a template that cannot be rendered, or ends answers with no special token.
    """
    template = read_template(directory)
    if template is None:
        return inputs
    text = render_template(template, PROBE, prompt=True, where=directory)
    start, end = "<|im_start|>system\n", f"{inputs.end_token}\n<|im_start|>user\n"
    system = text.removeprefix(start).partition(end)[0] if text.startswith(start) else ""
    chatml = dataclasses.replace(inputs, template="chatml", system=system)
    if agrees(directory, chatml):
        return chatml
    if not (Path(directory) / TOKENIZER).exists():  # nothing to converse with
        return inputs
    try:
        tokenizer = Tokenizer(directory)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    return dataclasses.replace(inputs, template="checkpoint", system="", end_token=OwnTemplate(tokenizer).end_token())


def agrees(directory: str | Path, inputs: InputConfig) -> bool:
    """Whether a directory has a chat template, and it renders conversations as ChatML with the text of `inputs`."""
    template = read_template(directory)
    if template is None:
        return False
    try:
        return all(
            render_template(template, talk, prompt, where=directory)
            == chatml_text(talk, inputs.system, inputs.end_token, prompt)
            for talk, prompt in ((PROBE, True), (WHOLE, False))
        )
    except CheckpointError:  # one that takes no system message
        return False


def chatml_text(messages: Sequence[Message], system: str, end_token: str, prompt: bool) -> str:
    """A conversation without images as one string, by `inputs/chat.py`."""
    found = turns("template", messages, "chatml", prompt)
    return "".join(piece.text for pieces in render(found, "chatml", system, end_token, prompt) for piece in pieces)


def render_template(template: str, messages: Sequence[Message], prompt: bool, where: str | Path) -> str:
    """A conversation by a Jinja template of the directory `where`.

    Raises:
        CheckpointError: the template has an error.
    """
    plain = [{"role": m.role, "content": m.content} for m in messages]
    try:
        return own_template.render_template(template, plain, prompt, own_template.token_names(where))
    except jinja2.TemplateError as error:
        raise CheckpointError(f"{where}: its chat template cannot be rendered: {error}") from error
