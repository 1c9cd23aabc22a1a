"""Every record of a benchmark read once before anything is asked: ids unique, answers of their form, images there.

    checked = check(registry()["mmlu"], data)
    checked.faults      all of them, each with file and record; empty = it can be asked

Loaders find what is wrong with a record by itself (`files.each`); what only all records tell is found here.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping

from nvlm_jax.evaluation.benchmark import Benchmark
from nvlm_jax.evaluation.files import BenchmarkError, BenchmarkMissing, outcomes
from nvlm_jax.evaluation.question import Question
from nvlm_jax.inputs.batch import IMAGE_PLACEHOLDER

FAULTS = "faults.jsonl"
SHOWN = 5  # faults of one benchmark that a message has; the file has all


@dataclasses.dataclass(frozen=True)
class Checked:
    """What a benchmark's files hold."""

    questions: int
    faults: tuple[str, ...] = ()
    missing: bool = False  # no files at all, which is a fault too

    @property
    def brief(self) -> str:
        """The first fault in one line, and how many others there are."""
        first = self.faults[0].splitlines()[0]
        # What was expected follows in further lines.
        first = first.partition("; expected one of")[0] if self.missing else first
        return first if len(self.faults) == 1 else f"{first} ... and {len(self.faults) - 1:,} more"

    @property
    def reason(self) -> str:
        """The first faults and the number of the others."""
        more = len(self.faults) - SHOWN
        return "\n".join((*self.faults[:SHOWN], *((f"... and {more:,} more",) if more > 0 else ())))


def check(benchmark: Benchmark, data: pathlib.Path) -> Checked:
    """Read all questions of a benchmark; nothing is raised for what is wrong with its files."""
    places: dict[str, str] = {}
    faults: list[str] = []
    try:
        questions = benchmark.load(data)
    except BenchmarkError as error:
        return Checked(0, (str(error),), isinstance(error, BenchmarkMissing))
    missing = False
    for number, question in enumerate(outcomes(questions)):
        if isinstance(question, BenchmarkError):
            faults.append(str(question))
            missing = missing or isinstance(question, BenchmarkMissing)
            continue
        where = question.where or f"{benchmark.name}, question {number}"
        faults += [f"{where}: {fault}" for fault in _faults(question)]
        if question.id in places:
            faults.append(f"{where}: its id {question.id!r} is that of {places[question.id]} too; ids must be unique")
        places.setdefault(question.id, where)
    if not places and not faults:
        faults.append(f"{benchmark.name}: no question in its files below {data}")
    return Checked(len(places), tuple(faults), missing)


def _faults(question: Question) -> list[str]:
    """What is wrong with one question, whoever loaded it."""
    found = []
    for image in question.images:
        if isinstance(image, bytes) and not image:
            found.append("an image of no bytes")
        elif isinstance(image, str | pathlib.Path) and not pathlib.Path(image).is_file():
            found.append(f"its image {image} is missing")
    places = sum(message.content.count(IMAGE_PLACEHOLDER) for message in question.messages)
    if places != len(question.images):
        found.append(f"{len(question.images)} images for {places} places in its text")
    return found


def write_faults(out: pathlib.Path, checks: Mapping[str, Checked]) -> pathlib.Path | None:
    """Write OUT/faults.jsonl with every fault, a line each; None, and no such file, where there are none."""
    path = out / FAULTS
    lines = [
        json.dumps({"benchmark": name, "fault": fault}) + "\n" for name, done in checks.items() for fault in done.faults
    ]
    if not lines:
        path.unlink(missing_ok=True)
        return None
    out.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")
    return path
