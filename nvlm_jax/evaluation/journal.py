"""predictions.jsonl while an evaluation runs: every answer is on disk as soon as it is there, and asked for once.

    OUT/evaluation.json     what is evaluated: checkpoint, rule, limits; another one is refused
    OUT/predictions.jsonl   one `Prediction` a line, in the order they came in; in the benchmarks' order at the end
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nvlm_jax.evaluation.question import Prediction
from nvlm_jax.evaluation.runner import Key

IDENTITY, PREDICTIONS = "evaluation.json", "predictions.jsonl"


class OtherEvaluation(Exception):
    """The directory holds answers of another checkpoint, or by other rules."""


class Journal:
    """The answers of one evaluation so far. Use as a context manager."""

    def __init__(self, out: pathlib.Path, identity: Mapping[str, Any]):
        """
        Args:
            out: the directory, made if it is not there.
            identity: JSON that says what is evaluated and how. Names may be added to those that are there.

        Raises:
            OtherEvaluation: what is there has another value of a name, or says nothing about itself.
        """
        self.out, self._path = out, out / PREDICTIONS
        out.mkdir(parents=True, exist_ok=True)
        self._check(json.loads(json.dumps(identity)))
        self.predictions = {key_of(p): p for p in _recover(self._path)}
        self._file = self._path.open("a", encoding="utf-8")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    @property
    def done(self) -> dict[Key, str]:
        """What is answered, with its prompt's digest."""
        return {key: p.prompt_digest for key, p in self.predictions.items()}

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Write answers; they are on disk when this returns."""
        for prediction in predictions:
            self._file.write(_line(prediction))
            self.predictions[key_of(prediction)] = prediction
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self, order: Sequence[Key]) -> list[Prediction]:
        """All answers to these, sorted so, which is also how the file is then; others stay behind them.

        Raises:
            KeyError: one of them has no answer.
        """
        asked = [self.predictions[key] for key in order]
        wanted = set(order)
        others = [p for key, p in self.predictions.items() if key not in wanted]
        self._file.close()
        write(self._path, [*asked, *others])
        return asked

    def _check(self, identity: dict[str, Any]) -> None:
        record = self.out / IDENTITY
        if record.exists():
            before = json.loads(record.read_text())
            if names := [name for name in identity if name in before and before[name] != identity[name]]:
                changes = "; ".join(f"{name}: {before[name]} there, {identity[name]} now" for name in names)
                raise OtherEvaluation(f"{self.out}: holds another evaluation: {changes}; give another --out")
            identity = before | identity
        elif self._path.exists():
            raise OtherEvaluation(f"{self.out}: has {PREDICTIONS} and no {IDENTITY}; give another --out, or remove it")
        partial = record.with_name(f".{IDENTITY}.partial")
        partial.write_text(json.dumps(identity, indent=1) + "\n")
        partial.rename(record)


def key_of(prediction: Prediction) -> Key:
    """What a prediction answers."""
    return prediction.benchmark, prediction.id, prediction.view


def read(path: pathlib.Path) -> list[Prediction]:
    """The predictions of a file that is whole."""
    return [_prediction(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: pathlib.Path, predictions: Iterable[Prediction]) -> None:
    """Write a whole file at once; it replaces one that is there when it is complete."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(map(_line, predictions)), encoding="utf-8")
    partial.rename(path)


def _recover(path: pathlib.Path) -> list[Prediction]:
    """The whole lines of a file; what a killed process left of a last one is cut off."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return [_prediction(line) for line in whole.decode().split("\n") if line]


def _line(prediction: Prediction) -> str:
    return json.dumps(dataclasses.asdict(prediction), ensure_ascii=True) + "\n"


def _prediction(line: str) -> Prediction:
    fields = json.loads(line)
    return Prediction(**fields | {"ids": tuple(fields.get("ids", ()))})
