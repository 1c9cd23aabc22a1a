"""One evaluation from plans to files: what is not answered yet is asked, everything is scored and written.

    plans, missing = make_plans(["docvqa", "mmlu"], data)
    summary = evaluate(out, subject, plans, Settings())

Kill it anywhere and call it again: the rest is asked once, nothing twice.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax

from nvlm_jax.evaluation import pages, results
from nvlm_jax.evaluation.benchmark import Benchmark
from nvlm_jax.evaluation.check import Checked, check
from nvlm_jax.evaluation.examples import Examples
from nvlm_jax.evaluation.files import BenchmarkError
from nvlm_jax.evaluation.journal import Journal
from nvlm_jax.evaluation.judge import Judge
from nvlm_jax.evaluation.question import Prediction, Question
from nvlm_jax.evaluation.runner import IMAGE_VIEWS, TEXT_VIEW, Asker, Key
from nvlm_jax.evaluation.subject import Subject
from nvlm_jax.training.workdir import commit, versions

RULES = ("default", "paper")
VIEW_ORDER = (*IMAGE_VIEWS, TEXT_VIEW)


@dataclasses.dataclass(frozen=True)
class Plan:
    """One benchmark to be asked."""

    benchmark: Benchmark
    data: pathlib.Path
    rule: str
    max_new_tokens: int
    limit: int = 0  # questions, the first ones; 0 = all

    def questions(self) -> Iterator[Question]:
        return itertools.islice(self.benchmark.load(self.data), self.limit or None)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What one evaluation does beyond its plans."""

    checkpoint: str = ""  # as it was named, for the record
    limit: int = 0  # as it was asked for, for the record
    batch_size: int = 32
    backbone: Mapping[str, Any] | None = None  # `scores` of the backbone's results.json
    judge: Judge | None = None
    share: tuple[int, int] = (0, 1)  # this process and how many there are: it asks every so many-th question


def make_plans(
    benchmarks: Sequence[Benchmark],
    data: pathlib.Path,
    rules: str = "default",
    limit: int = 0,
    max_new_tokens: int = 0,
    skip_missing: bool = False,
) -> tuple[list[Plan], dict[str, str]]:
    """Plans for benchmarks whose files are there and without fault; every record of each is read for that.

    Args:
        benchmarks: in the order in which they are asked.
        data: the directory of all their files.
        rules: "default", or "paper" for those of the paper's evaluator where it has its own.
        limit: questions of each; 0 = all.
        max_new_tokens: of each answer; 0 = each benchmark's own limit.
        skip_missing: leave out benchmarks that cannot be read instead of raising. `checked_plans` leaves them out and
            says more of them.

    Returns:
        The plans, and benchmark -> why it was left out.

    Raises:
        BenchmarkError: files that are missing or damaged; or none of the benchmarks can be read.
    """
    plans, faulty = checked_plans(benchmarks, data, rules, limit, max_new_tokens)
    missing = {name: checked.reason for name, checked in faulty.items()}
    if missing and not skip_missing:
        raise BenchmarkError("\n".join(missing.values()))
    if not plans:
        raise BenchmarkError("no benchmark can be read:\n" + "\n".join(missing.values()))
    return plans, missing


def checked_plans(
    benchmarks: Sequence[Benchmark],
    data: pathlib.Path,
    rules: str = "default",
    limit: int = 0,
    max_new_tokens: int = 0,
) -> tuple[list[Plan], dict[str, Checked]]:
    """As `make_plans`, but nothing is raised: the plans, and benchmark -> all that is wrong with its files."""
    plans, faulty = [], {}
    for benchmark in benchmarks:
        rule = benchmark.paper_rule if rules == "paper" and benchmark.paper_rule else benchmark.rule
        checked = check(benchmark, data)
        if checked.faults:
            faulty[benchmark.name] = checked
        else:
            plans.append(Plan(benchmark, data, rule, max_new_tokens or benchmark.max_new_tokens, limit))
    return plans, faulty


def evaluate(
    out: pathlib.Path,
    subject: Subject,
    plans: Sequence[Plan],
    settings: Settings,
    missing: Mapping[str, str] | None = None,
    progress: Callable[[str, int], None] = lambda name, answered: None,
) -> dict[str, Any] | None:
    """Ask, score and write; the summary that results.json holds. None where other processes have yet to end.

    Args:
        out: directory for the files; may hold the beginning of this same evaluation.
        subject: the restored model.
        plans: what to ask.
        settings: the rest.
        missing: what `make_plans` left out, for the record.
        progress: called with a benchmark's name and the number of answers that came.

    Raises:
        OtherEvaluation, BenchmarkError, BadSample, PromptsChanged, JudgeError.
    """
    begin = time.perf_counter()
    with Journal(out, identity(subject, plans, settings.judge), settings.share) as journal:
        asker = Asker(subject.model, subject.builder, settings.batch_size, subject.end_ids, settings.judge)
        examples, order = Examples(out), []
        for place, plan in enumerate(plans):
            questions = _noted(plan, place, order, settings.share)
            for answered in asker.ask(plan.benchmark, questions, plan.rule, plan.max_new_tokens, journal.done):
                journal.add(prediction for _, prediction in answered)
                if plan.benchmark.name != "embedded":  # whose pages are shown whole
                    examples.add(answered)
                progress(plan.benchmark.name, len(answered))
        predictions = journal.finish([key for _, key in sorted(order, key=lambda noted: noted[0])])
    if predictions is None:
        return None
    shown = _pages(subject, plans, predictions)
    summary = summarize(subject, plans, settings, predictions, missing or {})
    summary["seconds"] = round(time.perf_counter() - begin, 1)
    _write_submissions(out, plans, predictions)
    results.write_summary(out, summary, shown)
    return summary


def identity(subject: Subject, plans: Sequence[Plan], judge: Judge | None = None) -> dict[str, Any]:
    """What must be the same for answers to be of one evaluation. More benchmarks or questions may join it later."""
    rules = {p.benchmark.name: f"rule {p.rule}, at most {p.max_new_tokens} tokens" for p in plans}
    for name in [p.benchmark.name for p in plans if judge and p.benchmark.judged]:
        rules[name] += f", judge {judge.model}"
    return {"checkpoint_hash": subject.hash, "step": subject.step} | rules


def summarize(
    subject: Subject,
    plans: Sequence[Plan],
    settings: Settings,
    predictions: Sequence[Prediction],
    missing: Mapping[str, str],
) -> dict[str, Any]:
    """What results.json holds, but for the seconds."""
    by_name = {plan.benchmark.name: [p for p in predictions if p.benchmark == plan.benchmark.name] for plan in plans}
    scores = {
        plan.benchmark.name: results.score(
            plan.benchmark, by_name[plan.benchmark.name], plan.rule, plan.max_new_tokens, subject.arch
        )
        for plan in plans
    }
    summary = {
        "arch": subject.arch,
        "name": subject.name,
        "checkpoint": settings.checkpoint,
        "step": subject.step,
        "checkpoint_hash": subject.hash,
        "benchmarks": list(scores),
        "missing": dict(missing),
        "limit": settings.limit,
        "scores": scores,
        "text_average": results.text_average(scores, settings.backbone),
        "params": subject.params,
        "versions": versions() | {"python": platform.python_version()},
        "commit": commit(),
        "device": jax.devices()[0].device_kind,
    }
    if "embedded" in by_name:
        embedded = by_name["embedded"]
        summary |= {"accuracy": results.accuracy(embedded), "counts": results.counts(embedded)}
    return summary


def _noted(
    plan: Plan, place: int, order: list[tuple[tuple[int, int, int], Key]], share: tuple[int, int]
) -> Iterator[Question]:
    """This process's share of the questions; `order` gets (place, view, number) and key of every answer of all."""
    for number, question in enumerate(plan.questions()):
        for view in plan.benchmark.views if question.images else (TEXT_VIEW,):
            key = (plan.benchmark.name, question.id, view)
            order.append(((place, VIEW_ORDER.index(view), number), key))
        if number % share[1] == share[0]:
            yield question


def _pages(subject: Subject, plans: Sequence[Plan], predictions: Iterable[Prediction]) -> list[dict[str, Any]]:
    """Some pages of the embedded benchmark."""
    plan = next((plan for plan in plans if plan.benchmark.name == "embedded"), None)
    if plan is None:
        return []
    chosen = pages.choose_pages([p for p in predictions if p.benchmark == "embedded"])
    images = {question.sample: question.images for question in plan.questions() if question.sample in chosen}
    return pages.describe_pages(chosen, images, subject.builder.inputs, subject.builder.model.vision.image_size)


def _write_submissions(out: pathlib.Path, plans: Sequence[Plan], predictions: Sequence[Prediction]) -> None:
    for plan in plans:
        if plan.benchmark.submission:
            own = [p for p in predictions if p.benchmark == plan.benchmark.name]
            path = out / f"{plan.benchmark.name}_submission.json"
            path.write_text(json.dumps(plan.benchmark.submission(own)) + "\n", encoding="utf-8")
