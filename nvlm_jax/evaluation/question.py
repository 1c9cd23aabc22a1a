"""What a benchmark asks, and what a model said. A benchmark is anything that yields `Question`s."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

from nvlm_jax.inputs.batch import Message
from nvlm_jax.inputs.tiling import ImageSource


@dataclasses.dataclass(frozen=True)
class Question:
    """One question with what counts as its right answer."""

    id: str  # unique within its benchmark
    sample: str  # id of the sample it comes from; questions of one sample show the same images
    type: str  # report group, such as `word` or `chart`, or a benchmark's part (a subject, a split)
    kind: str  # content | place | text
    messages: tuple[Message, ...]  # the prompt: ends with the user's turn
    images: tuple[ImageSource, ...]  # one for each placeholder in the messages
    answer: Any  # JSON: what the benchmark's score needs, such as one text, or a dict of options and letter
    where: str = ""  # file and record that it was read from, for messages

    @property
    def text(self) -> str:
        """The user's last turn, image placeholder included."""
        return self.messages[-1].content

    @property
    def digest(self) -> str:
        """12 hexadecimal digits that change with any text of the prompt."""
        turns = "\0".join(f"{m.role}\0{m.content}" for m in self.messages)
        return hashlib.sha256(turns.encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A model's answer to a question in one view of its images; one line of predictions.jsonl."""

    id: str
    sample: str
    view: str  # vision | vision_blind | vision_thumbnail | text
    type: str
    kind: str
    prompt: str
    answer: Any
    output: str
    correct: bool
    benchmark: str = "embedded"
    score: float | None = None  # None where the true answer is not public
    extraction: str | None = None  # what was taken for the answer; None = nothing could be, which scores 0
    ids: tuple[int, ...] = ()  # tokens of the output
    judged: bool = False  # read by a judge, for the rules could not
    cut: bool = False  # no end token within the limit
    seconds: float = 0.0  # its share of its batch
    prompt_digest: str = ""
