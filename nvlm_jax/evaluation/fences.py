"""Blocks of code in what a model wrote in Markdown, as models write it: fences of any kind, anywhere in a line."""

from __future__ import annotations

import re
import textwrap
from typing import NamedTuple

_RUN = r"(?P<fence>(?<!`)`{3,}(?!`)|(?<!~)~{3,}(?!~))"
_MARKS = " \t>*-+0123456789.)"  # of a list's item, a quotation, an indentation
_OPENING = re.compile(_RUN + r"(?P<info>[^`]*)")
# Text before a fence is not CommonMark; "Here it is: ```python" is common all the same.
_BEHIND_TEXT = re.compile(_RUN + r"[ \t]*(?P<info>[\w+#.-]*)[ \t]*$")
_LANGUAGE = re.compile(r"[^\s{}.,:;=\"']+")
PYTHON = frozenset(("", "python", "python2", "python3", "py", "py3", "ipython", "pycon", "sage"))


class Block(NamedTuple):
    """A fenced block."""

    language: str  # in lower case; empty where the fence has none
    code: str  # without the indentation that the whole block has

    @property
    def is_python(self) -> bool:
        """Whether its tag says Python, or nothing."""
        return self.language in PYTHON or self.language.startswith("python")


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a text in their order; a last one that is never closed reaches to the end.

    A block ends with a line of the same marks, as many at least, or a line of code that ends in them. What the
    opening fence names besides the language (`title="x"`, `{.python .numberLines}`) does not count.
    """
    found: list[Block] = []
    fence, language, lines = "", "", []
    for line in text.splitlines():
        if not fence:
            opening = _OPENING.fullmatch(line.lstrip(_MARKS)) or _BEHIND_TEXT.search(line)
            if opening:
                fence, language, lines = opening["fence"], _language(opening["info"]), []
            continue
        body, closed = _closed(line, fence)
        if body or not closed:
            lines.append(body)
        if closed:
            found.append(_block(language, lines))
            fence = ""
    if fence:
        found.append(_block(language, lines))
    return found


def _language(info: str) -> str:
    word = _LANGUAGE.search(info)
    return word[0].lower() if word else ""


def _closed(line: str, fence: str) -> tuple[str, bool]:
    """A line of a block without the fence that ends it, and whether one does."""
    stripped = line.rstrip()
    marks = len(stripped) - len(stripped.rstrip(fence[0]))
    if marks < len(fence):
        return line, False
    body = stripped[: len(stripped) - marks]
    return (body if body.strip() else ""), True


def _block(language: str, lines: list[str]) -> Block:
    return Block(language, textwrap.dedent("\n".join(lines)))
