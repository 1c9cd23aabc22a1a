"""A language model that reads an answer out of a response where rules cannot, behind any OpenAI-compatible server.

It is asked only about answers that would be counted as unparsed, and each question once: replies are kept on disk, so a
run that goes on, or another run that says the same, costs nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import time
import urllib.error
import urllib.request

from nvlm_jax import json_text
from nvlm_jax.evaluation.question import Question
from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER

MAX_TOKENS = 64
TIMEOUT = 60.0  # seconds of one request
TRIES = 4  # where the server is busy or away
NOTHING = "none"

PROMPT = """Below are a question and a response to it. Copy the final answer out of the response, in the form that the \
question asks for (a letter, a number, a list or a short text). Do not answer the question yourself and do not correct \
the response. If the response gives no answer, write the word none.

[question]
{question}

[response]
{response}

[final answer]"""


class JudgeError(Exception):
    """The judge cannot be reached or does not answer as a chat completion."""


@dataclasses.dataclass(frozen=True)
class Judge:
    """One model on one server."""

    url: str  # up to /v1
    model: str
    cache: pathlib.Path  # JSON lines
    key: str = ""  # sent as a bearer token
    wait_seconds: float = 2.0  # before the second try; twice as long before each further one

    def read(self, question: Question, output: str) -> str | None:
        """The answer in `output` as the judge copies it, or None.

        Raises:
            JudgeError: no reply.
        """
        text = question.text.replace(IMAGE_PLACEHOLDER, "").strip()
        reply = self.ask(PROMPT.format(question=text, response=output.strip())).strip().strip("\"'`")
        return None if reply.rstrip(".").lower() in ("", NOTHING) else reply

    def ask(self, prompt: str) -> str:
        """The reply to a prompt, from disk where it was given before."""
        digest = hashlib.sha256(f"{self.url}\0{self.model}\0{prompt}".encode()).hexdigest()
        replies = _read(self.cache)
        if digest not in replies:
            replies[digest] = self._request(prompt)
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            with self.cache.open("a", encoding="utf-8") as file:
                file.write(json.dumps([digest, replies[digest]]) + "\n")
        return replies[digest]

    def _request(self, prompt: str) -> str:
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}]}
        body |= {"temperature": 0, "max_tokens": MAX_TOKENS}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        address = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        for attempt in range(TRIES):
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                    return json_text.parse(response.read())["choices"][0]["message"]["content"] or ""
            except urllib.error.HTTPError as error:
                reason = f"status {error.code}: {error.read(300).decode('utf-8', 'replace')}"
                if error.code != 429 and error.code < 500:
                    break
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                reason = str(error)
            except (ValueError, KeyError, IndexError, TypeError) as error:
                reason = f"its reply is no chat completion ({type(error).__name__}: {error})"
                break
            if attempt + 1 < TRIES:
                time.sleep(self.wait_seconds * 2**attempt)
        raise JudgeError(f"{address}, model {self.model!r}: {reason}")


def _read(path: pathlib.Path) -> dict[str, str]:
    """Digest -> reply; a broken last line is left out."""
    found: dict[str, str] = {}
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            digest, reply = json_text.parse(line)
        except (ValueError, TypeError):
            continue
        found[digest] = reply
    return found
