"""What a raw dataset says of one sample, before any image is opened.

    files -> parts -> records (plain dicts) -> entries -> samples (raw/samples.py)

Readers give records, layouts turn them into entries. Whatever is wrong with one record is a `BadSample` in its place,
so that the record is counted and the next one is read.
"""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER, Message
from nvlm_jax.inputs.errors import BadSample

Record = dict[str, Any]
LETTERS = string.ascii_uppercase


class LayoutError(ValueError):
    """A raw dataset that is not there, or not in the layout that was named. The message says what was looked for."""


class Picture(NamedTuple):
    """An image as a raw dataset holds it: a path below its root, or bytes and the name that came with them."""

    name: str
    data: bytes | None = None
    field: str = ""  # of the record that it came from, for messages


class Entry(NamedTuple):
    """One sample of a raw dataset. `source` says where it stands: a file, `#`, and the record within it."""

    id: str
    messages: tuple[Message, ...]
    images: tuple[Picture, ...] = ()
    source: str = ""
    unread: tuple[str, ...] = ()  # keys of the record that hold something and that its layout does not read


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of a raw dataset that is read in one go, by one process.

    `start` and `stop` are what the reader makes of them: bytes, row groups, record batches or list places.
    """

    file: str  # below the root
    start: int = 0
    stop: int = 0
    first: int = 0  # number of its first record within the file
    records: int = 1  # how many; an estimate where only reading would tell
    is_list: bool = False  # a file of one JSON list, whatever its name
    spooled: bool = False  # a file of entries that was copied beside the shards (data_pipelines/cut.py)


@dataclasses.dataclass(frozen=True)
class Spec:
    """Which dataset, in which layout, and what of it: plain values, as a blend's config declares them."""

    name: str
    layout: str
    prompt: str = "{question}"  # the user's text; see `ask`
    task: str = ""  # the report group of its answers
    files: str = ""  # glob below the root of the files to read; empty = the layout's own
    split: str = "train"
    split_chosen: bool = False  # whether someone named the split, which decides between files named after several
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)  # what the layout reads -> the record's key

    @classmethod
    def of(cls, row: Any) -> Spec:
        """From a declaration that has these attributes among others, such as `configs.blends.rows.Row`."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: getattr(row, name) for name in names if hasattr(row, name)})


def ask(prompt: str, images: int = 1, **fields: str) -> Message:
    """The user's message: a placeholder for each image, then `prompt` with its fields filled in.

    A line of the prompt whose fields are all empty is left out.

    >>> ask("{context}\\n{question} Answer briefly.", question="How many?", context="").content
    '<image>\\nHow many? Answer briefly.'

    Raises:
        BadSample: `missing_field`, the prompt has a field that the record lacks.
    """
    lines = []
    for line in prompt.split("\n"):
        names = re.findall(r"\{(\w+)\}", line)
        missing = [name for name in names if name not in fields]
        if missing:
            raise BadSample("missing_field", f"the prompt asks for {missing[0]!r}; the record has {sorted(fields)}")
        if not names or any(fields[name] for name in names):
            lines.append(re.sub(r"\{(\w+)\}", lambda match: fields[match.group(1)], line))
    return Message("user", (IMAGE_PLACEHOLDER + "\n") * images + "\n".join(lines))


def choices_text(choices: list[str]) -> str:
    """Choices as lines `A. red`, as many as there are letters.

    >>> choices_text(["red", "blue"])
    'A. red\\nB. blue'
    """
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def conversation(
    turns: Sequence[tuple[Message, str]], task: str, trained: Sequence[bool] | None = None
) -> tuple[Message, ...]:
    """Questions with their answers as one conversation; only the first question keeps its image placeholders.

    Questions on one image share its tiles this way, instead of paying for them once a question.

    Args:
        turns: questions and answers.
        task: report group of the answers.
        trained: of each answer, whether it is trained on; None = all are.
    """
    messages: list[Message] = []
    trained = [True] * len(turns) if trained is None else trained
    for number, ((question, answer), is_trained) in enumerate(zip(turns, trained, strict=True)):
        content = question.content
        while number and content.startswith(IMAGE_PLACEHOLDER + "\n"):
            content = content.removeprefix(IMAGE_PLACEHOLDER + "\n")
        messages += [Message("user", content), Message("assistant", answer, task, is_trained)]
    return tuple(messages)
