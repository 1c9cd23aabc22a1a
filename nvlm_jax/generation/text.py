"""Tokens to text as they come, up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from nvlm_jax.inputs.tokenizer import Tokenizer

UNFINISHED = "\ufffd"  # what a character decodes to until its last token is there


class AnswerText:
    """The text of one answer while it grows. Stop strings end it and are not part of it."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()):
        """
        Raises:
            ValueError: an empty stop string, which would end every answer before it begins.
        """
        if not all(stop):
            raise ValueError("stop: an empty string; each must hold at least one character")
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._ids: list[int] = []
        self._shown = ""

    @property
    def text(self) -> str:
        """What `add` has given so far."""
        return self._shown

    def until(self, ids: Sequence[int]) -> bool:
        """Whether an answer of these tokens has come to a stop string; for `Request.until`."""
        return self._cut(self._tokenizer.decode(ids)) is not None

    def add(self, ids: Sequence[int], last: bool = False) -> str:
        """The text that these further tokens bring.

        What may become a stop string or a whole character with the next token is held back until the `last`.
        """
        self._ids += ids
        text = self._tokenizer.decode(self._ids)
        cut = self._cut(text)
        if cut is not None:
            text = text[:cut]
        elif not last:
            text = text[: self._safe(text)]
        piece, self._shown = text[len(self._shown) :], max(text, self._shown, key=len)
        return piece

    def _cut(self, text: str) -> int | None:
        """Where the first stop string begins."""
        return min((place for stop in self._stop if (place := text.find(stop)) >= 0), default=None)

    def _safe(self, text: str) -> int:
        """How much of the text no later token can change."""
        if text.endswith(UNFINISHED):
            text = text.rstrip(UNFINISHED)
        longest = max((n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        return len(text) - longest
