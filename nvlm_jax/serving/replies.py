"""Answers in the form of OpenAI's chat completions, whole or as they come."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from nvlm_jax.generation.request import TokenLogprob
from nvlm_jax.inputs.tokenizer import Tokenizer


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


def logprobs_object(tokenizer: Tokenizer, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Each token with its text, its bytes and the most likely others."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = tokenizer.decode([token], skip_special=False)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    content = [
        entry(x.token, x.logprob) | {"top_logprobs": [entry(token, logprob) for token, logprob in x.top]}
        for x in logprobs
    ]
    return {"content": content, "refusal": None}
