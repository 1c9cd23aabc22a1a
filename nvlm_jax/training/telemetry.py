"""What a run says of itself: metrics.jsonl, TensorBoard event files, a progress bar or plain lines."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from tensorboardX import SummaryWriter

from nvlm_jax.training.workdir import write_atomically

METRICS, EVENTS = "metrics.jsonl", "tensorboard"
# Not for event files: text.
NOT_SCALARS = ("step", "sample_hash")
log = logging.getLogger(__name__)


class Telemetry:
    """Writes every step to metrics.jsonl, every `log_every`-th to the event files and, off a terminal, as a line."""

    def __init__(self, workdir: Path, step: int, steps: int, log_every: int, name: str = ""):
        """
        Args:
            workdir: of the run.
            step: steps done. What is written of later ones is removed: they will be done again.
            steps: of the whole run.
            log_every: steps from one line to the next.
            name: of the run, shown beside the bar.
        """
        self.steps, self.log_every, self.name = steps, log_every, name
        truncate(workdir / METRICS, step)
        self._file = (workdir / METRICS).open("a")
        # The suffix keeps a start within a second of the last one from writing over its file.
        self._events = SummaryWriter(
            str(workdir / EVENTS), purge_step=step + 1 if step else None, filename_suffix=f".{step}"
        )
        self._recent: deque[tuple[float, float, float]] = deque(maxlen=20)  # end of a step, its tokens, its samples
        self._bar = _bar() if sys.stdout.isatty() else None
        self._task = self._bar and self._bar.add_task(name, total=steps, completed=step, text="compiling")
        self._first = step

    def __enter__(self) -> Telemetry:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar:
            self._bar.stop()
        self.sync()
        self._file.close()
        self._events.close()

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """One step: numbers, or text under a key of NOT_SCALARS. Numbers are written so that they read back exactly."""
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        line = self._line(step, metrics)
        due = step % self.log_every == 0 or step == self.steps
        if self._bar:
            self._bar.update(self._task, completed=step, text=line)
        elif due:
            print(f"{self.name} step {step}/{self.steps}  {line}", flush=True)
        if due:
            for key, value in metrics.items():
                if key not in NOT_SCALARS:
                    self._events.add_scalar(key, value, step)

    def say(self, text: str) -> None:
        """A line of its own above the bar."""
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def sync(self) -> None:
        """Return when all that was written is on disk, so that no checkpoint is ahead of it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._events.flush()

    def _line(self, step: int, metrics: Mapping[str, Any]) -> str:
        self._recent.append((time.monotonic(), metrics.get("useful_tokens", 0.0), metrics.get("samples", 0.0)))
        begin, end = self._recent[0][0], self._recent[-1][0]
        text = f"loss {metrics['loss']:.4f}"
        if end > begin:
            tokens, samples = (sum(entry[i] for entry in list(self._recent)[1:]) for i in (1, 2))
            left = (self.steps - step) * (end - begin) / (len(self._recent) - 1)
            text += f"  {tokens / (end - begin):,.0f} useful tokens/s  {samples / (end - begin):.1f} samples/s"
            text += f"  ETA {_duration(left)}"
        return text


class Silence:
    """In place of `Telemetry` where another process writes."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""


def truncate(path: Path, step: int) -> None:
    """Keep the lines of steps 1 .. `step` of a metrics file; the line that a kill cut short goes with the rest."""
    if path.exists():
        lines = list(read_lines(path))
        if len(lines) + 1 < sum(1 for _ in path.open("rb")):  # more than what a kill cut short
            aside = path.with_name(f"{path.name}.damaged")
            shutil.copyfile(path, aside)
            log.warning("%s: holds lines that are no metrics; as it was it is now %s", path, aside)
        kept = [line for line, record in lines if record["step"] <= step]
        write_atomically(path, "".join(line + "\n" for line in kept))


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each whole line of a metrics file and what it says; what is no line of metrics is passed over."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(ValueError, RecursionError):
                record = json.loads(line)
                if isinstance(record, dict) and type(record.get("step")) is int:
                    yield line.rstrip("\n"), record


def read_metrics(workdir: str | Path) -> list[dict[str, Any]]:
    """Every step's metrics, in order."""
    return [record for _, record in read_lines(Path(workdir) / METRICS)]


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("{task.fields[text]}"), refresh_per_second=4)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
