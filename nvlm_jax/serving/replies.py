"""Answers in the form of OpenAI's chat completions, whole or as they come."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Sequence
from typing import Any

from nvlm_jax.generation.request import TokenLogprob
from nvlm_jax.inputs.tokenizer import Tokenizer

LEAST_LOGPROB = -9999.0  # as OpenAI's; JSON has no infinity


class Reply:
    """The head that all parts of one reply share, and its parts."""

    def __init__(self, model: str, prompt_tokens: int):
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._prompt_tokens = prompt_tokens

    def whole(self, text: str, finish: str, tokens: int, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        """The reply to a request that does not stream."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": self.usage(tokens)}

    def chunk(
        self, delta: dict[str, Any], finish: str | None = None, logprobs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """One event of a stream."""
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def usage_chunk(self, tokens: int) -> dict[str, Any]:
        """The last event, where the client wants the usage."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self.usage(tokens)}

    def usage(self, tokens: int) -> dict[str, int]:
        total = self._prompt_tokens + tokens
        return {"prompt_tokens": self._prompt_tokens, "completion_tokens": tokens, "total_tokens": total}


class Logprobs:
    """The log-probabilities of one answer's tokens, each with its text, its bytes and the most likely others.

    The bytes of all tokens, joined, are the text that is shown: a token that a stop string cuts off is left out, and
    one that is not text has none.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._begun = tokenizer, False
        self._waiting: deque[tuple[int, dict[str, Any]]] = deque()  # first byte, entry
        self._bytes = 0

    def add(self, logprobs: Sequence[TokenLogprob]) -> None:
        """Further tokens."""
        for x in logprobs:
            entry = self._entry(x.token, x.logprob)
            self._waiting.append((self._bytes, entry | {"top_logprobs": [self._entry(*other) for other in x.top]}))
            self._bytes += len(entry["bytes"])
            self._begun = self._begun or self._tokenizer.token_bytes.is_text(x.token)

    def take(self, shown: int | None) -> dict[str, Any]:
        """OpenAI's object of those that begin before so many bytes of the text; None = of all."""
        content = []
        while self._waiting and (shown is None or self._waiting[0][0] < shown):
            content.append(self._waiting.popleft()[1])
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        content = self._tokenizer.token_bytes.get(token, first=not self._begun)
        text = content.decode("utf-8", "replace") or self._tokenizer.decode([token], skip_special=False)
        return {"token": text, "logprob": max(logprob, LEAST_LOGPROB), "bytes": list(content)}
