"""How fast answers come: this project's engine against `transformers.generate`, with the same NVLM-D weights.

    python -m launch.benchmarks.decode --checkpoint=runs/quickstart/d/sft [--data=runs/data] [--repeats=3]

Both start from the same prepared prompts (token ids and tiles) and end with the ids of the answers. `transformers` gets
the vision encoder and the projector in front of its own Qwen2, prompts sorted by length and padded on the left, and the
best of several batch sizes. Everything is timed in turn, `repeats` times; ratios are of times in the same round.
Without PyTorch, only the engine's own rows are measured.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

import nvlm_jax
from data_pipelines.generated.samples import GeneratedSource
from data_pipelines.records import RecordSource
from launch.benchmarks.output import run
from launch.benchmarks.torch_reference import Reference
from nvlm_jax.evaluation import embedded
from nvlm_jax.evaluation.question import Question
from nvlm_jax.generation.engine import Engine
from nvlm_jax.generation.request import Request
from nvlm_jax.inputs.batch import Example
from nvlm_jax.pretrained import LoadedModel

TOKENS = 32  # of an answer at most, as the embedded benchmark has it
READ_TOKENS = 64  # where whole tiles are read out
LONG = 64  # of every long answer, end tokens aside, as benchmarks of inference have it
# Long answers of other lengths: their median, the spread of their logarithm, limits.
MEDIAN, SPREAD, SHORTEST, LONGEST = 48, 0.8, 8, 256
MIXED = 128  # requests of many kinds
BATCHES = (16, 32)  # of transformers
PAGES, A_PAGE = 8, 8  # pages with several questions, and how many
ALONE = 16  # requests that are also asked one at a time
SLOTS = 32
ONE_BY_ONE = "alone"
Answers = list[list[int]]


class Load(NamedTuple):
    """Prompts that are asked together."""

    examples: list[Example]
    most: list[int]  # tokens of each answer at most
    ends: bool = True  # an end token ends it; else it has just so many tokens


def measure(checkpoint: str, data: Path, repeats: int, reference: bool, loads: Sequence[str] = ()) -> dict[str, Any]:
    """Seconds of every way to answer, `repeats` times.

    Args:
        checkpoint: a workdir of NVLM-D, in float32.
        data: directory with the embedded dataset `qa-test`.
        repeats: rounds.
        reference: also `transformers`, which must be installed.
        loads: names of those of `prompts` that are measured; none = all.
    """
    model = nvlm_jax.load(checkpoint)
    workloads = {name: load for name, load in prompts(model, data).items() if name in loads or not loads}
    ways: dict[str, dict[str, Callable[[], Answers]]] = {name: {} for name in workloads}
    theirs = Reference(model, checkpoint) if reference else None
    for name, load in workloads.items():
        ways[name]["engine"] = lambda load=load: together(model, load)
        if name.startswith(ONE_BY_ONE):
            ways[name]["one at a time"] = lambda load=load: one_at_a_time(model, load)
        elif theirs:
            for size in BATCHES:
                ways[name][f"transformers, {size} a batch"] = lambda load=load, n=size: theirs.generate(*load, n)
    found: dict[str, Any] = {"device": jax.devices()[0].device_kind, "workloads": {}}
    for name, choices in ways.items():
        answers = {way: ask() for way, ask in choices.items()}  # compiles; not timed
        lengths, load = [len(answer) for answer in answers["engine"]], workloads[name]
        if not load.ends and lengths != load.most:
            raise RuntimeError(f"{name}: answers of {lengths} tokens, not {load.most}")
        seconds: dict[str, list[float]] = {way: [] for way in choices}
        cpu: dict[str, list[float]] = {way: [] for way in choices}
        for _, (way, ask) in itertools.product(range(repeats), choices.items()):
            begin, used = time.perf_counter(), time.process_time()
            ask()
            seconds[way].append(time.perf_counter() - begin)
            cpu[way].append(time.process_time() - used)
        same = {way: sum(map(list.__eq__, answers["engine"], other)) for way, other in answers.items()}
        found["workloads"][name] = {
            "items": len(workloads[name].examples),
            "tokens": sum(map(len, answers["engine"])),
            "prompt_tokens": sum(len(example.tokens) for example in workloads[name].examples),
            "longest": max(map(len, answers["engine"])),
            "seconds": seconds,
            "cpu_seconds": cpu,
            "same_answers": same,
        }
    return found


def report(found: dict[str, Any]) -> str:
    """Items a second, and how many times as many as each other way, in Markdown."""
    lines = [
        "| prompts | way | items/s | the engine's, as a multiple | the same in CPU time | same answers |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, load in found["workloads"].items():
        for way, seconds in load["seconds"].items():
            times, cpu = (_multiple(load[key], way) for key in ("seconds", "cpu_seconds"))
            rate = load["items"] / statistics.median(seconds)
            same = f"{load['same_answers'][way]} of {load['items']}"
            lines.append(f"| {name} ({load['items']}) | {way} | {rate:.1f} | {times} | {cpu} | {same} |")
    return "\n".join(lines)


def _multiple(measured: dict[str, list[float]], way: str) -> str:
    if way == "engine":
        return ""
    ratios = sorted(b / a for a, b in zip(measured["engine"], measured[way], strict=True))
    return f"{statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"


def prompts(model: LoadedModel, data: Path) -> dict[str, Load]:
    """One question on each of many pages; several on each of a few; answers of many lengths; some for one at a time."""
    source = RecordSource(data / "qa-test")
    pages = [list(embedded.questions([source[i]])) for i in range(min(len(source), PAGES * A_PAGE))]

    def example(question) -> Example:
        return model.builder.prompt(question.messages, question.images)

    single = [example(page[0]) for page in pages]
    # Of pages with as many questions, those of the most tiles: documents, as benchmarks have them.
    order = sorted(range(len(pages)), key=lambda i: -len(single[i].tiles))
    several = [pages[i] for i in order if len(pages[i]) >= A_PAGE][:PAGES]
    mixed = [example(question) for question in mixed_questions(MIXED)]
    lengths = np.random.default_rng(0).lognormal(np.log(MEDIAN), SPREAD, MIXED).clip(SHORTEST, LONGEST).astype(int)
    loads = {
        "one question a page": up_to(TOKENS, single),
        "several questions a page": up_to(TOKENS, [example(q) for page in several for q in page[:A_PAGE]]),
        "answers of mixed lengths": up_to(READ_TOKENS, mixed),
        "long answers": Load(mixed, [LONG] * MIXED, ends=False),
        "long answers of mixed lengths": Load(mixed, lengths.tolist(), ends=False),
    }
    for name in ("one question a page", "answers of mixed lengths", "long answers"):
        examples, most, ends = loads[name]
        loads[f"{ONE_BY_ONE}, {name}"] = Load(examples[:ALONE], most[:ALONE], ends)
    return loads


def up_to(tokens: int, examples: list[Example]) -> Load:
    """Prompts with answers of at most `tokens`."""
    return Load(examples, [tokens] * len(examples))


def mixed_questions(count: int) -> list[Question]:
    """In turn: a tile to be read out, a question, several things at once, and a question without a page.

    Of held-out pages that `qa-test` has too.
    """
    kinds = ({"reads": 1, "questions": 0}, {"questions": 1}, {"lists": 1, "questions": 0})
    pages = [GeneratedSource("qa", "test", 0, count, **kind) for kind in kinds]
    sources = [*pages, GeneratedSource("text", "test", 0, count, questions=1)]
    return [next(embedded.questions([sources[i % len(sources)][i]])) for i in range(count)]


def together(model: LoadedModel, load: Load) -> Answers:
    """All at once, by an engine that has seen nothing before."""
    engine = make_engine(model, min(SLOTS, len(load.examples)), load.ends)
    return [answer.tokens for answer in engine.generate(map(Request, load.examples, load.most))]


def one_at_a_time(model: LoadedModel, load: Load) -> Answers:
    """Each when the one before is answered, by an engine that has seen nothing before."""
    engine = make_engine(model, 1, load.ends)
    return [engine.generate([Request(*each)])[0].tokens for each in zip(load.examples, load.most, strict=True)]


def make_engine(model: LoadedModel, slots: int, ends: bool) -> Engine:
    """An engine for many requests; without `ends` the model's last id, which it never chooses, stands for the end."""
    if ends:
        return model.make_engine(slots, layers_apart=True)
    size = model.config.decoder.vocab_size
    return Engine(model.model, size, [size - 1], slots, layers_apart=True)


if __name__ == "__main__":
    CHECKPOINT = flags.DEFINE_string("checkpoint", "runs/quickstart/d/sft", "a workdir of NVLM-D")
    DATA = flags.DEFINE_string("data", "runs/data", "directory that holds qa-test")
    REPEATS = flags.DEFINE_integer("repeats", 3, "times each way is taken", lower_bound=1)
    REFERENCE = flags.DEFINE_bool("reference", True, "transformers too; needs requirements-parity.txt")
    run("decode", lambda directory: measure(CHECKPOINT.value, Path(DATA.value), REPEATS.value, REFERENCE.value), report)
