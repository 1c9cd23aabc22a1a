"""Tokens to text as they come, up to a stop string. The work grows with the tokens, not with their square."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from nvlm_jax.inputs.tokenizer import Tokenizer


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
        self._shown, self._seen = _Scan(tokenizer, self._stop), _Scan(tokenizer, self._stop)
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """What `add` has given so far."""
        return "".join(self._pieces)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text that `add` gave."""
        return self._shown.stopped

    def until(self, ids: Sequence[int]) -> bool:
        """Whether an answer of these tokens has come to a stop string; for `Request.until`.

        Called with more tokens of the same answer, it looks at the new ones alone; with fewer, it begins anew.
        """
        if len(ids) < self._seen.tokens:
            self._seen = _Scan(self._tokenizer, self._stop)
        self._seen.feed(ids[self._seen.tokens :])
        return self._seen.stopped

    def add(self, ids: Sequence[int], last: bool = False) -> str:
        """The text that these further tokens bring.

        What may become a stop string or a whole character with the next token is held back until the `last`.
        """
        piece = self._shown.feed(ids, last)
        self._pieces.append(piece)
        return piece


class _Scan:
    """One reading of an answer: bytes of tokens -> characters -> what no later token can change."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]):
        self.tokens, self.stopped = 0, False
        self._bytes, self._begun = tokenizer.token_bytes, False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._matches = [_Match(text) for text in stop]
        self._waiting = ""  # the end of the text, which may be the beginning of a stop string

    def feed(self, ids: Sequence[int], last: bool = False) -> str:
        """Text that is certain now; nothing more once a stop string is complete."""
        self.tokens += len(ids)
        if self.stopped:
            return ""
        content = bytearray()
        for token in map(int, ids):
            content += self._bytes.get(token, first=not self._begun)
            self._begun = self._begun or self._bytes.is_text(token)
        new = self._decoder.decode(bytes(content), final=last)
        before, self._waiting = len(self._waiting), self._waiting + new
        for place, character in enumerate(new if self._matches else "", before + 1):
            complete = [len(match.text) for match in self._matches if match.step(character)]
            if complete:
                self.stopped = True
                return self._waiting[: place - max(complete)]
        open_ = 0 if last else max((match.state for match in self._matches), default=0)
        certain = len(self._waiting) - open_
        piece, self._waiting = self._waiting[:certain], self._waiting[certain:]
        return piece


class _Match:
    """How much of a stop string the text ends in, by Knuth, Morris and Pratt: one step a character on average."""

    def __init__(self, text: str):
        self.text, self.state = text, 0
        self._back = [0] * len(text)  # of text[: i + 1]: its longest true beginning that it also ends in
        length = 0
        for i in range(1, len(text)):
            while length and text[i] != text[length]:
                length = self._back[length - 1]
            length += text[i] == text[length]
            self._back[i] = length

    def step(self, character: str) -> bool:
        """Read one character; whether the whole stop string is there."""
        while self.state and character != self.text[self.state]:
            self.state = self._back[self.state - 1]
        self.state += character == self.text[self.state]
        return self.state == len(self.text)
