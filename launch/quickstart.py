"""Data, both training stages and an evaluation of each architecture at size tiny, then one table and one report.

    python -m launch.quickstart [--archs=d,x,h] [--workdir=runs/quickstart] [--steps_scale=1] [--seed=0]

    WORKDIR/ARCH/pretrain, WORKDIR/ARCH/sft     the two stages, each an ordinary workdir of launch.train
    WORKDIR/ARCH/evaluation                     what launch.evaluate wrote
    WORKDIR/results.json, WORKDIR/report.html   all architectures together; accuracies in the JSON are fractions of 1

Run it again to go on where it stopped; what is finished is not done again.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

from absl import app, flags
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from configs.nvlm import ARCHS, TINY_DATA, get_config
from data_pipelines import embedded
from data_pipelines.records import RecordSource
from launch.command import run_command
from nvlm_jax import json_text
from nvlm_jax.config import RunConfig, from_mapping
from nvlm_jax.evaluation import report, results
from nvlm_jax.number_format import percent
from nvlm_jax.terminal import print_tables
from nvlm_jax.training.allocator import KEEP_MEMORY
from nvlm_jax.training.telemetry import METRICS, read_metrics

ARCHITECTURES = flags.DEFINE_list("archs", list(ARCHS), f"of {', '.join(ARCHS)}")
WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "directory for everything but the data")
SCALE = flags.DEFINE_float("steps_scale", 1.0, "times the steps of each stage, for a shorter run", lower_bound=0.001)
SEED = flags.DEFINE_integer("seed", 0, "of the initial weights and the order of the data", lower_bound=0)
LIMIT = flags.DEFINE_integer("limit", 50, "held-out pages, and text-only samples, that are evaluated", lower_bound=1)

PAGE = "page.png"  # a held-out one, to ask about by hand
STAGES = ("pretrain", "sft")
HELD_OUT = ("qa-test", "text-test")
SECONDS = "quickstart_seconds.json"  # in each stage's directory: wall-clock spent on it, over all starts


def main(argv: list[str]) -> None:
    unknown = [arch for arch in ARCHITECTURES.value if arch not in ARCHS]
    if len(argv) > 1 or unknown or not ARCHITECTURES.value:
        raise app.UsageError(f"{' '.join(argv[1:] + unknown)}: --archs takes some of {', '.join(ARCHS)}")
    root = pathlib.Path(WORKDIR.value)
    root.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str((root / ".jax_cache").absolute()))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    for name, value in KEEP_MEMORY.items():
        os.environ.setdefault(name, value)
    try:
        prepare()
    except KeyboardInterrupt:
        go_on(signal.SIGINT)
    page = RecordSource(pathlib.Path(TINY_DATA) / HELD_OUT[0])[0].images[0]
    (root / PAGE).write_bytes(page)
    entries = []
    for arch in dict.fromkeys(ARCHITECTURES.value):
        for stage in STAGES:
            train(root, arch, stage)
        evaluate(root, arch)
        entries.append(entry(root, arch))
        # After each, so that an interrupted run has what is finished.
        (root / results.RESULTS).write_text(json.dumps(entries, indent=1) + "\n")
    runs = [load_run(root, e["arch"]) for e in entries]
    report.write_report(root / "report.html", runs, "NVLM quickstart: " + ", ".join(run.label for run in runs))
    print_tables(table(entries))
    print(f"accuracies in percent; {root / results.RESULTS} has them as fractions\nreport: {root / 'report.html'}")


def prepare() -> None:
    """Make the datasets that the chosen runs name, where they are not there yet."""
    stages = [get_config(f"arch={a},size=tiny,stage={s}") for a in ARCHITECTURES.value for s in STAGES]
    names = list(dict.fromkeys([d["name"] for stage in stages for d in stage.data.blend] + list(HELD_OUT)))
    with Progress(TextColumn("data: {task.description}"), BarColumn(), MofNCompleteColumn()) as bars:
        tasks: dict[str, Any] = {}

        def progress(name: str, done: int, size: int) -> None:
            tasks.setdefault(name, bars.add_task(name, total=size) if name not in tasks else None)
            bars.update(tasks[name], completed=done)

        embedded.prepare(TINY_DATA, names, progress=progress)


def overrides(root: pathlib.Path, arch: str, stage: str) -> dict[str, Any]:
    """What a stage's run changes in its named config."""
    config = get_config(f"arch={arch},size=tiny,stage={stage}")
    changes = {"seed": SEED.value, "train.steps": max(1, round(config.train.steps * SCALE.value))}
    if stage == "sft":
        changes["init.checkpoint"] = str(root / arch / "pretrain")
    return changes


def train(root: pathlib.Path, arch: str, stage: str) -> None:
    """Train a stage to its last step, unless it is there."""
    name, workdir, changes = f"arch={arch},size=tiny,stage={stage}", root / arch / stage, overrides(root, arch, stage)
    if is_trained(workdir, name, changes):
        print(f"{workdir}: finished before")
        return
    command = ["launch.train", f"--config=configs/nvlm.py:{name}", f"--workdir={workdir}"]
    run_module([*command, *(f"--config.{key}={value}" for key, value in changes.items())], workdir)


def is_trained(workdir: pathlib.Path, name: str, changes: dict[str, Any]) -> bool:
    """Whether the last step of exactly this configuration is saved."""
    config = get_config(name)
    config.update_from_flattened_dict(changes)
    record = workdir / "config.json"
    if not (workdir / "checkpoints" / str(config.train.steps)).is_dir() or not record.exists():
        return False
    try:
        saved = from_mapping(RunConfig, json_text.load_object(record)["config"], stored=True)
        return saved == from_mapping(RunConfig, config.to_dict())
    except (KeyError, ValueError):  # of another version; launch.train says what differs
        return False


def evaluate(root: pathlib.Path, arch: str) -> None:
    """Evaluate the fine-tuned model in a new process, unless that has been done since it was trained."""
    out, steps = root / arch / "evaluation", overrides(root, arch, "sft")["train.steps"]
    checkpoint = root / arch / "sft" / "checkpoints" / str(steps)
    if (out / results.RESULTS).exists():
        summary = results.read(out)[0]
        fresh = (out / results.RESULTS).stat().st_mtime > checkpoint.stat().st_mtime
        if fresh and summary["checkpoint"] == str(checkpoint) and summary["limit"] == LIMIT.value:
            print(f"{out}: finished before")
            return
    shutil.rmtree(out, ignore_errors=True)
    command = ["launch.evaluate", f"--checkpoint={checkpoint}", "--benchmarks=embedded", f"--data={TINY_DATA}"]
    run_module([*command, f"--out={out}", f"--limit={LIMIT.value}"], out)


def run_module(module: list[str], directory: pathlib.Path) -> None:
    """Run `python -m MODULE ...` with this terminal and add its seconds to those spent in `directory`.

    A stop signal is passed on and waited for, so that a training run saves; then this process says how to go on.
    """
    stopped: list[int] = []
    begin = time.monotonic()
    child = subprocess.Popen([sys.executable, "-m", *module])

    def pass_on(number: int, _: Any) -> None:
        # Ctrl-C reaches the child by itself, a signal sent to this process alone does not; SIGTERM after SIGINT asks
        # for nothing more than the first did.
        if not stopped:
            child.terminate()
        stopped.append(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    directory.mkdir(parents=True, exist_ok=True)
    seconds = spent(directory) + time.monotonic() - begin
    (directory / SECONDS).write_text(json.dumps(seconds))
    if stopped:
        go_on(stopped[0])
    if status:
        sys.exit(f"launch.quickstart: exit status {status} from\n  {shlex.join(['python', '-m', *module])}")


def go_on(number: int) -> None:
    """Say how to go on after a signal, and exit as it asks."""
    print(f"\nstopped; to go on:\n  {shlex.join(['python', '-m', 'launch.quickstart', *sys.argv[1:]])}", flush=True)
    sys.exit(128 + number)


def spent(directory: pathlib.Path) -> float:
    """Seconds spent so far on what `directory` holds."""
    file = directory / SECONDS
    with contextlib.suppress(OSError, ValueError):  # none yet, or one that a full disk cut short
        return float(json_text.load(file))
    return 0.0


def entry(root: pathlib.Path, arch: str) -> dict[str, Any]:
    """One architecture in results.json. `seconds` is both stages and the evaluation, starts of processes included."""
    directories = [root / arch / name for name in (*STAGES, "evaluation")]
    summary = results.read(directories[-1])[0]
    speeds = [row["samples_per_second"] for row in read_metrics(directories[1])]
    return {
        "arch": arch,
        "seconds": round(sum(map(spent, directories)), 1),
        "accuracy": summary["accuracy"],
        "checkpoint": summary["checkpoint"],
        "params": summary["params"],
        "samples_per_second": round(statistics.median(speeds), 1),
    }


def load_run(root: pathlib.Path, arch: str) -> report.Run:
    """One architecture in the report."""
    summary, predictions, pages = results.read(root / arch / "evaluation")
    training = {s: read_metrics(root / arch / s) for s in STAGES if (root / arch / s / METRICS).exists()}
    return report.Run(f"NVLM-{arch.upper()}", summary, predictions, pages, training)


def table(entries: list[dict[str, Any]]) -> Table:
    """The table: a column for each architecture."""
    shown = Table(title="NVLM quickstart, held-out pages")
    shown.add_column("")
    for e in entries:
        shown.add_column(f"NVLM-{e['arch'].upper()}", justify="right")

    def line(label: str, cells: list[str], last: bool = False) -> None:
        shown.add_row(label, *cells, end_section=last)

    def accuracy(label: str, key: str, inside: str = "") -> None:
        shares = [e["accuracy"] for e in entries]
        line(label, [percent((s[inside] if inside else s).get(key)) for s in shares], key == "text")

    accuracy("vision questions, %", "vision")
    accuracy("  by content", "content", "by_kind")
    accuracy("  by place", "place", "by_kind")
    accuracy("  with blanked images", "vision_blind")
    accuracy("  on the thumbnail alone", "vision_thumbnail")
    accuracy("text-only questions, %", "text")
    for part in dict.fromkeys(part for e in entries for part in e["params"]):
        line(f"parameters: {part}", [f"{e['params'].get(part, 0):,}" for e in entries])
    line("parameters", [f"{sum(e['params'].values()):,}" for e in entries], last=True)
    line("samples/s in fine-tuning", [f"{e['samples_per_second']:.1f}" for e in entries])
    line("seconds", [f"{e['seconds']:.0f}" for e in entries])
    return shown


if __name__ == "__main__":
    run_command(main)
