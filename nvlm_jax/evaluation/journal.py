"""predictions.jsonl while an evaluation runs: every answer is on disk as soon as it is there, and asked for once.

    OUT/evaluation.json     what is evaluated: checkpoint, rule, limits; another one is refused
    OUT/predictions.jsonl   one `Prediction` a line, in the order they came in; in the benchmarks' order at the end

Processes that share the work write predictions-I-of-N.jsonl each; whichever ends last finds all answers there and
writes predictions.jsonl.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nvlm_jax import json_text
from nvlm_jax.evaluation.question import Prediction
from nvlm_jax.evaluation.runner import Key

IDENTITY, PREDICTIONS = "evaluation.json", "predictions.jsonl"


class OtherEvaluation(Exception):
    """The directory holds answers of another checkpoint, or by other rules."""


class Journal:
    """The answers of one evaluation so far. Use as a context manager."""

    def __init__(self, out: pathlib.Path, identity: Mapping[str, Any], share: tuple[int, int] = (0, 1)):
        """
        Args:
            out: the directory, made if it is not there.
            identity: JSON that says what is evaluated and how. Names may be added to those that are there.
            share: this process and how many there are.

        Raises:
            OtherEvaluation: what is there has another value of a name, or says nothing about itself.
            JsonError: a file there is damaged; the message names it, and the line.
        """
        self.out = out
        self._path = out / (PREDICTIONS if share[1] == 1 else f"predictions-{share[0]}-of-{share[1]}.jsonl")
        out.mkdir(parents=True, exist_ok=True)
        self._check(json.loads(json.dumps(identity)))
        _cut_last_line(self._path)
        self.predictions: dict[Key, Prediction] = {}
        self._read()
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

    def finish(self, order: Sequence[Key]) -> list[Prediction] | None:
        """All answers to these, sorted so, which is also how predictions.jsonl is then; others stay behind them.

        None while answers are missing that other processes have yet to give.
        """
        self._read()
        wanted = set(order)
        if not wanted <= set(self.predictions):
            return None
        asked = [self.predictions[key] for key in order]
        others = [p for key, p in self.predictions.items() if key not in wanted]
        self._file.close()
        write(self.out / PREDICTIONS, [*asked, *others])
        return asked

    def _read(self) -> None:
        """Take in the whole lines of every process's file."""
        for path in sorted(self.out.glob("predictions*.jsonl")):
            self.predictions |= {key_of(p): p for p in _whole_lines(path)}

    def _check(self, identity: dict[str, Any]) -> None:
        record = self.out / IDENTITY
        if record.exists():
            before = json_text.load_object(record)
            if names := [name for name in identity if name in before and before[name] != identity[name]]:
                changes = "; ".join(f"{name}: {before[name]} there, {identity[name]} now" for name in names)
                raise OtherEvaluation(f"{self.out}: holds another evaluation: {changes}; give another --out")
            identity = before | identity
        elif any(self.out.glob("predictions*.jsonl")):
            raise OtherEvaluation(f"{self.out}: has {PREDICTIONS} and no {IDENTITY}; give another --out, or remove it")
        write_atomically(record, json.dumps(identity, indent=1) + "\n")


def key_of(prediction: Prediction) -> Key:
    """What a prediction answers."""
    return prediction.benchmark, prediction.id, prediction.view


def read(path: pathlib.Path) -> list[Prediction]:
    """The predictions of a file that is whole. Raises JsonError, with the line, where it is not."""
    return _predictions(path, path.read_bytes())


def write(path: pathlib.Path, predictions: Iterable[Prediction]) -> None:
    """Write a whole file at once; it replaces one that is there when it is complete."""
    write_atomically(path, "".join(map(_line, predictions)))


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Write a file that is there whole or not at all, whoever else writes the same one."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)


def _cut_last_line(path: pathlib.Path) -> None:
    """Cut off what a killed process left of a last line."""
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def _whole_lines(path: pathlib.Path) -> list[Prediction]:
    """All but a last line that is being written, or was when its process was killed."""
    content = path.read_bytes()
    return _predictions(path, content[: content.rfind(b"\n") + 1])


def _line(prediction: Prediction) -> str:
    return json.dumps(dataclasses.asdict(prediction), ensure_ascii=True) + "\n"


def _predictions(path: pathlib.Path, content: bytes) -> list[Prediction]:
    predictions = []
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            if line:
                fields = json_text.parse(line)
                predictions.append(Prediction(**fields | {"ids": tuple(fields.get("ids", ()))}))
        except (json_text.JsonError, TypeError, AttributeError) as error:
            raise json_text.JsonError(f"{path}, line {number}: no prediction ({error}); remove the line") from None
    return predictions
