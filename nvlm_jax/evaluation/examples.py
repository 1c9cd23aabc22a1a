"""Some answers with their pictures, right and wrong ones of each benchmark, kept for the report as they come."""

from __future__ import annotations

import base64
import io
import json
import pathlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

from PIL import Image

from nvlm_jax import json_text
from nvlm_jax.evaluation.question import Prediction, Question
from nvlm_jax.inputs.tiling import ImageSource, open_image

EXAMPLES = "examples.jsonl"
KEPT = 4  # right ones, and as many wrong ones, of a benchmark
PICTURES = 3  # of one question
SIDE = 360  # pixels of a picture's longer side


class Examples:
    """The examples of one evaluation so far; `OUT/examples.jsonl` has one a line."""

    def __init__(self, out: pathlib.Path):
        self._path = out / EXAMPLES
        self._counts = Counter((e["benchmark"], e["correct"]) for e in read(out))

    def add(self, answered: Iterable[tuple[Question, Prediction]]) -> None:
        """Keep those that are still wanted."""
        for question, prediction in answered:
            group = prediction.benchmark, prediction.correct
            if self._counts[group] < KEPT and prediction.view in ("vision", "text") and prediction.score is not None:
                self._counts[group] += 1
                pictures = [thumbnail(image) for image in question.images[:PICTURES]]
                record = {"benchmark": group[0], "correct": group[1], "id": prediction.id, "pictures": pictures}
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")


def read(out: pathlib.Path) -> list[dict[str, Any]]:
    """Records of benchmark, correct, id, pictures (data URIs); a broken last line is left out."""
    if not (out / EXAMPLES).exists():
        return []
    found = []
    for line in (out / EXAMPLES).read_bytes().split(b"\n"):
        try:
            record = json_text.parse(line)
        except json_text.JsonError:
            continue
        if isinstance(record, dict) and {"benchmark", "correct", "id", "pictures"} <= set(record):
            found.append(record)
    return found


def thumbnail(source: ImageSource) -> str:
    """A small JPEG of the picture as a data URI."""
    image = open_image(source)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
