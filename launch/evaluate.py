"""Restore a model from its checkpoint and evaluate it.

    python -m launch.evaluate --checkpoint=PATH --benchmarks=docvqa,mmlu --data=DIR --out=DIR [--limit=N]

PATH is a run's workdir, one step of it, or a Hugging Face directory. DIR of --data has a folder for each benchmark, as
docs/evaluation.md lists them; --benchmarks=all takes those that are there, --benchmarks=embedded the generated pages.
Writes results.json, predictions.jsonl and report.html to --out. Every record of the benchmarks is read before the
checkpoint is restored; one with faults is left out, all are in OUT/faults.jsonl, and the exit status is 1.
Kill it and run it again: it goes on where it was.

Several processes share the work as --share=0/4, --share=1/4 ...; the one that ends last writes the results.

    python -m launch.evaluate --checkpoint=WORKDIR --watch ...

evaluates each new checkpoint of a run as it appears, into OUT/step-N, until the run's last step is done.
"""

from __future__ import annotations

import functools
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import app, flags, logging
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from data_pipelines.records import DatasetError, RecordSource
from launch.command import run_command
from nvlm_jax.config import ConfigError
from nvlm_jax.evaluation import check, embedded, report, results, session, subject, watch
from nvlm_jax.evaluation.benchmark import Benchmark
from nvlm_jax.evaluation.benchmarks import registry
from nvlm_jax.evaluation.files import BenchmarkError
from nvlm_jax.evaluation.journal import OtherEvaluation
from nvlm_jax.evaluation.judge import Judge, JudgeError
from nvlm_jax.evaluation.question import Question
from nvlm_jax.evaluation.runner import IMAGE_VIEWS, PromptsChanged
from nvlm_jax.inputs.errors import BadSample
from nvlm_jax.terminal import print_tables
from nvlm_jax.training.checkpoints import CheckpointError

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "a workdir, one step of it, or an HF directory", required=True)
STEP = flags.DEFINE_integer("step", None, "which step of the workdir; default: the newest")
ASKED = flags.DEFINE_list("benchmarks", ["embedded"], f"all, or some of embedded, {', '.join(registry())}")
DATA = flags.DEFINE_string("data", "runs/data", "directory that holds the benchmarks' datasets")
EMBEDDED = flags.DEFINE_list("embedded", ["qa-test", "text-test"], "datasets of the benchmark embedded, below --data")
OUT = flags.DEFINE_string("out", None, "directory for the results", required=True)
LIMIT = flags.DEFINE_integer("limit", 0, "questions of each benchmark, samples of each embedded dataset; 0 = all",
                             lower_bound=0)  # fmt: skip
RULES = flags.DEFINE_enum("rules", "default", session.RULES, "paper = score as the paper's evaluator does")
VIEWS = flags.DEFINE_list("views", list(IMAGE_VIEWS), "how embedded questions with an image are asked")
BATCH = flags.DEFINE_integer("batch_size", 32, "prompts decoded together", lower_bound=1)
TOKENS = flags.DEFINE_integer("max_new_tokens", 0, "of an answer; 0 = each benchmark's own limit", lower_bound=0)
DTYPE = flags.DEFINE_enum("dtype", "float32", ("float32", "bfloat16"), "of an HF directory's weights")
DEVICES = flags.DEFINE_integer("devices", 0, "to spread the model over, of those there are; 0 = all", lower_bound=0)
INT8 = flags.DEFINE_bool("int8", False, "matrices of the layers in 8 bits; needs qwix (requirements-int8.txt)")
BACKBONE = flags.DEFINE_string("backbone", None, "results of the text backbone, for the change of the text average")
JUDGE = flags.DEFINE_string("judge", None, "URL up to /v1 of a server whose model reads what the rules cannot")
JUDGE_MODEL = flags.DEFINE_string("judge_model", "default", "its name there; NVLM_JUDGE_KEY may hold the key")
SHARE = flags.DEFINE_string("share", "0/1", "I/N: this is process I, from 0, of N that share the questions")
WATCH = flags.DEFINE_bool("watch", False, "evaluate each new checkpoint of the run as it appears")
POLL = flags.DEFINE_float("poll_seconds", 30.0, "between two looks for a new checkpoint", lower_bound=0.01)

FAILURES = (
    BadSample, BenchmarkError, CheckpointError, ConfigError, DatasetError, FileNotFoundError, JudgeError,
    OtherEvaluation, PromptsChanged,
)  # fmt: skip


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option is a flag, --name=value")
    known = available()
    if unknown := [name for name in ASKED.value if name not in (*known, "all")]:
        raise app.UsageError(f"--benchmarks: no {', '.join(unknown)}; there are {', '.join(known)}, and all")
    if unknown := [view for view in VIEWS.value if view not in IMAGE_VIEWS]:
        raise app.UsageError(f"--views: no {', '.join(unknown)}; there are {', '.join(IMAGE_VIEWS)}")
    if share_of(SHARE.value)[1] > 1 and WATCH.value:
        raise app.UsageError("--watch: one process does it alone; leave out --share")
    logging.set_verbosity(logging.WARNING)  # of Orbax
    try:
        plans, faulty = make_plans()
        one = functools.partial(run, plans, faulty)
        if WATCH.value:
            watch.watch(pathlib.Path(CHECKPOINT.value), pathlib.Path(OUT.value), one, POLL.value)
        else:
            one(STEP.value, pathlib.Path(OUT.value))
    except FAILURES as error:
        sys.exit(f"{type(error).__name__}: {error}")
    if damaged := [name for name, checked in faulty.items() if is_fault(checked)]:
        sys.exit(f"left out for the faults of their files: {', '.join(damaged)}")


def available() -> dict[str, Benchmark]:
    """Every benchmark, the embedded one first."""
    return {"embedded": embedded.benchmark(load_embedded, tuple(VIEWS.value)), **registry()}


def load_embedded(data: pathlib.Path) -> Iterator[Question]:
    """The held-out pages and text-only questions; --limit samples of each dataset."""
    try:
        sources = [RecordSource(data / name) for name in EMBEDDED.value]
        samples = (s[i] for s in sources for i in range(min(len(s), LIMIT.value or len(s))))
        yield from embedded.questions(samples)
    except (DatasetError, ValueError) as error:
        raise BenchmarkError(str(error)) from error


def share_of(text: str) -> tuple[int, int]:
    """"1/4" -> (1, 4)."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise app.UsageError(f"--share: {text!r}; expected I/N with I from 0 to N - 1, such as 0/4")
    return int(found[1]), int(found[2])


def run(
    plans: Sequence[session.Plan], faulty: Mapping[str, check.Checked], step: int | None, out: pathlib.Path
) -> Mapping[str, Any] | None:
    """Evaluate one checkpoint; what results.json holds, or None if other processes have yet to end."""
    backbone = results.read(pathlib.Path(BACKBONE.value))[0]["scores"] if BACKBONE.value else None
    judge = None
    if JUDGE.value:
        replies = pathlib.Path(OUT.value) / "judge.jsonl"
        judge = Judge(JUDGE.value, JUDGE_MODEL.value, replies, os.environ.get("NVLM_JUDGE_KEY", ""))
    share = share_of(SHARE.value)
    settings = session.Settings(CHECKPOINT.value, LIMIT.value, BATCH.value, backbone, judge, share)
    devices = jax.devices()[: DEVICES.value or None]
    restored = subject.restore(CHECKPOINT.value, step, DTYPE.value, devices, INT8.value)
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed} answers"), TimeElapsedColumn())
    with Progress(*columns) as bar:
        tasks = {plan.benchmark.name: bar.add_task(plan.benchmark.name, total=None) for plan in plans}
        advance = functools.partial(_advance, bar, tasks)
        missing = {name: checked.reason for name, checked in faulty.items()}
        summary = session.evaluate(out, restored, plans, settings, missing, advance)
    if summary is None:
        print(f"share {SHARE.value} is done; the process that ends last writes {out / results.RESULTS}")
        return None
    entry = report.load_run(out, f"NVLM-{restored.arch.upper()}", restored.workdir)
    report.write_report(out / "report.html", [entry], f"{restored.name}: {', '.join(summary['benchmarks'])}")
    print_tables(table(summary, {name: c for name, c in faulty.items() if is_fault(c)}))
    for name in (name for name in summary["scores"] if available()[name].judged):
        entry = summary["scores"][name]
        print(f"{entry['title']}: {entry['read_by_rule']:,} of {entry['items']:,} answers read by rule, "
              f"{entry['judged']:,} by the judge, {entry['unparsed']:,} by neither")  # fmt: skip
    print(out / "report.html")
    return summary


def make_plans() -> tuple[list[session.Plan], dict[str, check.Checked]]:
    """Plans of what --benchmarks names, each read whole, and what is wrong with those that are left out.

    All faults go to OUT/faults.jsonl, the first ones to the terminal.

    Raises:
        BenchmarkError: nothing is left.
    """
    known, data, out = available(), pathlib.Path(DATA.value), pathlib.Path(OUT.value)
    names = list(registry()) if "all" in ASKED.value else [name for name in ASKED.value if name != "embedded"]
    plans: list[session.Plan] = []
    faulty: dict[str, check.Checked] = {}
    if "embedded" in ASKED.value:  # its --limit counts samples
        plans, faulty = session.checked_plans([known["embedded"]], data, max_new_tokens=TOKENS.value)
    chosen = [known[name] for name in dict.fromkeys(names)]
    more, others = session.checked_plans(chosen, data, RULES.value, LIMIT.value, TOKENS.value)
    plans, faulty = [*plans, *more], faulty | others
    path = check.write_faults(out, {name: checked for name, checked in faulty.items() if is_fault(checked)})
    if not plans:
        raise BenchmarkError("no benchmark can be read:\n" + "\n".join(checked.reason for checked in faulty.values()))
    for name, checked in faulty.items():
        print(f"left out {name}: {checked.reason if is_fault(checked) else checked.brief}")
    if path:
        print(f"all faults: {path}")
    return plans, faulty


def is_fault(checked: check.Checked) -> bool:
    """Whether a benchmark was named and cannot be asked; of `all`, those without files were not named."""
    return not (checked.missing and "all" in ASKED.value)


def table(summary: Mapping[str, Any], faulty: Mapping[str, check.Checked]) -> Table:
    """A row for each benchmark, beside the paper's numbers for the architecture; those left out at the end."""
    models = list(dict.fromkeys(model for entry in summary["scores"].values() for model in entry["paper"]))
    shown = Table(title=f"{summary['name']}, step {summary['step']}")
    for name in ("benchmark", "score", "95 % interval", *models, "items", "unparsed", "cut", "items/s"):
        shown.add_column(name, justify="left" if name == "benchmark" else "right")
    for entry in summary["scores"].values():
        score = "–" if entry["score"] is None else f"{entry['score']:.1f}"
        bounds = "–" if entry["interval"] is None else "{:.1f} to {:.1f}".format(*entry["interval"])
        numbers = [str(entry["paper"].get(model, "–")) for model in models]
        counts = [str(entry[key]) for key in ("items", "unparsed", "cut")]
        shown.add_row(entry["title"], score, bounds, *numbers, *counts, f"{entry['items_per_second'] or 0:.1f}")
    for name, checked in faulty.items():
        count = len(checked.faults)
        shown.add_row(available()[name].title, f"left out, {count:,} fault{'s' * (count > 1)}")
    return shown


def _advance(bar: Progress, tasks: Mapping[str, Any], name: str, answered: int) -> None:
    bar.advance(tasks[name], answered)


if __name__ == "__main__":
    run_command(main)
