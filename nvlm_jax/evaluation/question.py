"""What a benchmark asks, and what a model said. A benchmark is anything that yields `Question`s."""

from __future__ import annotations

import dataclasses

from nvlm_jax.inputs.batch import Message


@dataclasses.dataclass(frozen=True)
class Question:
    """One question with the one answer that counts as right."""

    id: str
    sample: str  # id of the sample it comes from; questions of one sample show the same images
    type: str  # report group, such as `word` or `chart`
    kind: str  # content | place | text
    messages: tuple[Message, ...]  # the prompt: ends with the user's turn
    images: tuple[bytes, ...]  # encoded, one for each placeholder in the messages
    answer: str

    @property
    def text(self) -> str:
        """The user's last turn, image placeholder included."""
        return self.messages[-1].content


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A model's answer to a question in one view of its images; one line of predictions.jsonl."""

    id: str
    sample: str
    view: str  # vision | vision_blind | vision_thumbnail | text
    type: str
    kind: str
    prompt: str
    answer: str
    output: str
    correct: bool
