"""Blocks of code in what a model wrote in Markdown, as models write it: fences of any kind, anywhere in a line."""

from __future__ import annotations

import re
import textwrap
from typing import NamedTuple

# Text before a fence is not CommonMark; "Here it is: ```python" is common all the same.
_OPENING = re.compile(r"^(?P<before>.*?)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^`]*)$")
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
            opening = _OPENING.match(line)
            if opening and _opens(opening):
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


def _opens(opening: re.Match[str]) -> bool:
    """Whether a line opens a block: with text before the fence only where a bare language follows it."""
    alone = not opening["before"].strip(" \t>*-+0123456789.)")  # of a list's item or a quotation
    return alone or re.fullmatch(r"[\w+#.-]*", opening["info"].strip()) is not None


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
