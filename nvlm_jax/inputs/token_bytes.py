"""The bytes that each token adds to a text, also where a character is spread over several tokens.

    byte-level BPE       "Ã" -> C3, "©" -> A9; together they are é
    byte fallback        "<0xC3>" -> C3, "<0xA9>" -> A9
    everything else      what the token adds behind another one ("▁owl" -> " owl"); at the beginning of a text some
                         decoders leave its blank out ("owl")

Joined, the bytes of all tokens are the UTF-8 of the decoded text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import tokenizers

FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")
UNFINISHED = "\ufffd"  # what bytes that are no whole character decode to


class TokenBytes:
    """Bytes by token id, for one tokenizer of the `tokenizers` library."""

    def __init__(self, tokenizer: tokenizers.Tokenizer):
        self._tokenizer = tokenizer
        kinds = set(_kinds(json.loads(tokenizer.to_str()).get("decoder") or {}))
        self._byte_level, self._fallback = "ByteLevel" in kinds, "ByteFallback" in kinds
        self._special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self._anchor = self._find_anchor()

    def get(self, token: int, first: bool = False) -> bytes:
        """What the token adds to a text: nothing where it is special, or no token of the vocabulary.

        Args:
            token: its id.
            first: no token that is text stands before it.
        """
        name = self._tokenizer.id_to_token(token)
        if name is None or token in self._special:
            return b""
        if self._byte_level:
            return _byte_level(name)
        if first and UNFINISHED not in (text := self._tokenizer.decode([token])):
            return text.encode()
        if self._fallback and (byte := FALLBACK.fullmatch(name)):
            return bytes.fromhex(byte[1])
        anchor, before = self._anchor
        return self._tokenizer.decode([*anchor, token])[len(before) :].encode()

    def is_text(self, token: int) -> bool:
        """Whether the token is part of a text."""
        return token not in self._special and self._tokenizer.id_to_token(token) is not None

    def _find_anchor(self) -> tuple[list[int], str]:
        """A token that is a plain letter or digit, to decode others behind; none where the vocabulary has none."""
        for name in map(chr, (*range(97, 123), *range(65, 91), *range(48, 58))):
            token = self._tokenizer.token_to_id(name)
            if token is not None and token not in self._special:
                return [token], self._tokenizer.decode([token])
        return [], ""


def _byte_level(name: str) -> bytes:
    """A token of byte-level BPE; one that holds another character than the alphabet's stands for itself."""
    try:
        return bytes(_BYTES[character] for character in name)
    except KeyError:
        return name.encode()


def _alphabet() -> dict[str, int]:
    """The characters that byte-level BPE writes bytes as: printable ones as themselves, the others from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _alphabet()


def _kinds(decoder: dict[str, Any]) -> Iterator[str]:
    parts: Iterable[dict[str, Any]] = decoder.get("decoders", ())
    yield decoder.get("type", "")
    for part in parts:
        yield from _kinds(part)
