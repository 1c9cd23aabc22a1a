"""Chat templates of checkpoints: read for what they say in the default, written as `inputs/chat.py` renders."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from nvlm_jax.config import InputConfig
from nvlm_jax.convert.shards import CheckpointError, read_json
from nvlm_jax.inputs.batch import Message
from nvlm_jax.inputs.chat import render, turns

FILE, CONFIG = "chat_template.jinja", "tokenizer_config.json"
# ChatML. The default system message stands where the conversation has none.
CHATML = (
    "{% if messages[0]['role'] != 'system' and default_system %}"
    "{{ '<|im_start|>system\\n' + default_system + 'END\\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + 'END\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PROBE = (Message("user", "first"), Message("assistant", "second"), Message("user", "third"))
log = logging.getLogger(__name__)


def write_template(inputs: InputConfig) -> str:
    """The Jinja template that renders a conversation as `inputs/chat.py` does, for `transformers`."""
    system = f"{{% set default_system = {json.dumps(inputs.system, ensure_ascii=False)} %}}"
    return system + CHATML.replace("END", inputs.end_token)


def read_template(directory: str | Path) -> str | None:
    """The template of a checkpoint directory; None if it has none."""
    directory = Path(directory)
    if (directory / FILE).exists():
        return (directory / FILE).read_text(encoding="utf-8")
    template = read_json(directory / CONFIG).get("chat_template") if (directory / CONFIG).exists() else None
    if isinstance(template, list):  # several by name
        template = next((t.get("template") for t in template if t.get("name") == "default"), None)
    return template


def system_text(directory: str | Path, inputs: InputConfig) -> str:
    """The system text that a checkpoint's chat template gives a conversation without one.

    A checkpoint without a template, or whose template is not ChatML, keeps `inputs.system`; the latter with a warning,
    for a conversation is then rendered otherwise than its template says.
    """
    template = read_template(directory)
    if template is None:
        return inputs.system
    text = render_template(template, PROBE, prompt=True, where=directory)
    start, end = "<|im_start|>system\n", f"{inputs.end_token}\n<|im_start|>user\n"
    system = text.removeprefix(start).partition(end)[0] if text.startswith(start) else ""
    if text != chatml_text(PROBE, system, inputs.end_token, prompt=True):
        log.warning("%s: its chat template is not ChatML; conversations are rendered as ChatML all the same", directory)
        return inputs.system
    return system


def agrees(directory: str | Path, inputs: InputConfig) -> bool:
    """Whether a directory has a chat template, and it renders conversations as the model was trained on them."""
    template = read_template(directory)
    if template is None:
        return False
    text = render_template(template, PROBE, prompt=True, where=directory)
    return text == chatml_text(PROBE, inputs.system, inputs.end_token, prompt=True)


def chatml_text(messages: Sequence[Message], system: str, end_token: str, prompt: bool) -> str:
    """A conversation without images as one string, by `inputs/chat.py`."""
    found = turns("template", messages, "chatml", prompt)
    return "".join(piece.text for pieces in render(found, "chatml", system, end_token, prompt) for piece in pieces)


def render_template(template: str, messages: Sequence[Message], prompt: bool, where: str | Path) -> str:
    """A conversation by a Jinja template, in a sandbox: templates come with checkpoints and are not trusted.

    Raises:
        CheckpointError: the template has an error.
    """
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    plain = [{"role": m.role, "content": m.content} for m in messages]
    try:
        return environment.from_string(template).render(messages=plain, add_generation_prompt=prompt)
    except (jinja2.TemplateError, TypeError) as error:
        raise CheckpointError(f"{where}: its chat template cannot be rendered: {error}") from error
