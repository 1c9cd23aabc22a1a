"""Restore a model from its checkpoint and evaluate it.

    python -m launch.evaluate --checkpoint=WORKDIR_OR_STEP --benchmarks=embedded --data=runs/data --out=DIR [--limit=N]

Writes DIR/results.json (accuracies as fractions of 1), DIR/predictions.jsonl, DIR/pages.json and DIR/report.html.
"""

from __future__ import annotations

import pathlib
import sys
import time
from collections.abc import Callable

from absl import app, flags, logging
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_pipelines.records import DatasetError, RecordSource
from nvlm_jax.config import ConfigError
from nvlm_jax.evaluation import embedded, pages, report, results
from nvlm_jax.evaluation.question import Question
from nvlm_jax.evaluation.runner import IMAGE_VIEWS, evaluate
from nvlm_jax.inputs.example import ExampleBuilder
from nvlm_jax.models.build import parameter_counts
from nvlm_jax.models.nvlm import PARTS
from nvlm_jax.training.checkpoints import CheckpointError, find_step, restore_model
from nvlm_jax.training.telemetry import METRICS, read_metrics


def load_embedded(data: pathlib.Path, limit: int) -> list[Question]:
    """The held-out pages and text-only questions; `limit` samples of each, 0 = all."""
    sources = [RecordSource(data / name) for name in ("qa-test", "text-test")]
    samples = (s[i] for s in sources for i in range(min(len(s), limit or len(s))))
    return list(embedded.questions(samples))


# Name -> (data directory, limit) -> questions.
BENCHMARKS: dict[str, Callable[[pathlib.Path, int], list[Question]]] = {"embedded": load_embedded}

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "a run's workdir, or one step of it", required=True)
STEP = flags.DEFINE_integer("step", None, "which step of the workdir; default: the newest")
ASKED = flags.DEFINE_list("benchmarks", ["embedded"], f"of {', '.join(BENCHMARKS)}")
DATA = flags.DEFINE_string("data", "runs/data", "directory that holds the benchmarks' datasets")
OUT = flags.DEFINE_string("out", None, "directory for the results", required=True)
LIMIT = flags.DEFINE_integer("limit", 0, "samples of each dataset; 0 = all", lower_bound=0)
VIEWS = flags.DEFINE_list("views", list(IMAGE_VIEWS), "how questions with an image are asked")
BATCH = flags.DEFINE_integer("batch_size", 32, "prompts decoded together", lower_bound=1)
TOKENS = flags.DEFINE_integer("max_new_tokens", 32, "of an answer", lower_bound=1)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option is a flag, --name=value")
    unknown = [name for name in ASKED.value if name not in BENCHMARKS]
    if unknown:
        raise app.UsageError(f"--benchmarks: no {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    logging.set_verbosity(logging.WARNING)  # of Orbax
    try:
        run(pathlib.Path(OUT.value))
    except (CheckpointError, ConfigError, DatasetError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


def run(out: pathlib.Path) -> None:
    """Restore, ask, score, write."""
    start = time.perf_counter()
    questions = [q for name in ASKED.value for q in BENCHMARKS[name](pathlib.Path(DATA.value), LIMIT.value)]
    workdir, step = find_step(CHECKPOINT.value, STEP.value)
    config, model = restore_model(workdir, step)
    if config.model.dense_labels:
        raise ConfigError(f"{workdir}: {config.name} is a vision encoder with labels; it answers no questions")
    builder = ExampleBuilder(config.inputs, config.model)

    total = sum(len(VIEWS.value) if q.images else 1 for q in questions)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("ETA"))
    with Progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task(f"evaluate {config.name}", total=total)
        predictions = evaluate(
            model, builder, questions, VIEWS.value, TOKENS.value, BATCH.value,
            lambda answered: bar.update(task, completed=answered),
        )  # fmt: skip

    parameters = parameter_counts(model)
    summary = {
        "arch": config.model.arch,
        "name": config.name,
        "checkpoint": CHECKPOINT.value,
        "step": step,
        "benchmarks": ASKED.value,
        "limit": LIMIT.value,
        "accuracy": results.accuracy(predictions),
        "counts": results.counts(predictions),
        "params": {part: parameters[part] for part in PARTS if part in parameters},
        "seconds": round(time.perf_counter() - start, 1),
    }
    images = {q.sample: q.images for q in questions}
    shown = pages.describe_pages(pages.choose_pages(predictions), images, config.inputs, config.model.vision.image_size)
    results.write(out, summary, predictions, shown)
    training = {"training": read_metrics(workdir)} if (workdir / METRICS).exists() else {}
    entry = report.Run(config.name, summary, predictions, shown, training)
    report.write_report(out / "report.html", [entry], f"{config.name}: {', '.join(ASKED.value)}")
    shares = {name: report.percent(value) for name, value in summary["accuracy"].items() if not isinstance(value, dict)}
    print(f"{config.name}: " + ", ".join(f"{name} {value} %" for name, value in shares.items()))
    print(f"{out / 'report.html'}")


if __name__ == "__main__":
    app.run(main)
