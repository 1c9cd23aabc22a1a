"""Compare two evaluations of the same benchmarks, question by question.

    python -m launch.compare --first=OUT_A --second=OUT_B [--out=DIR]

Prints a table of differences with 95 % intervals and p-values (McNemar's exact test for right-or-wrong scores, the
paired bootstrap for others). With --out, writes DIR/comparison.json and DIR/report.html with both runs side by side.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys

from absl import app, flags
from rich.table import Table

from launch.command import run_command
from nvlm_jax.evaluation import report
from nvlm_jax.evaluation.compare import Comparison, NotComparable, compare
from nvlm_jax.terminal import print_tables

FIRST = flags.DEFINE_string("first", None, "directory of results", required=True)
SECOND = flags.DEFINE_string("second", None, "directory of results", required=True)
OUT = flags.DEFINE_string("out", None, "directory for comparison.json and report.html; default: only print")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option is a flag, --name=value")
    paths = pathlib.Path(FIRST.value), pathlib.Path(SECOND.value)
    try:
        found = compare(*paths)
    except (FileNotFoundError, NotComparable) as error:
        sys.exit(f"launch.compare: {error}")
    print_tables(table(found, *map(str, paths)))
    if OUT.value:
        out = pathlib.Path(OUT.value)
        out.mkdir(parents=True, exist_ok=True)
        rows = [{"benchmark": c.benchmark, **dataclasses.asdict(c.paired)} for c in found]
        record = {"first": str(paths[0]), "second": str(paths[1]), "benchmarks": rows}
        (out / "comparison.json").write_text(json.dumps(record, indent=1) + "\n")
        runs = [report.load_run(path, str(path)) for path in paths]
        report.write_report(out / "report.html", runs, f"{paths[0]} and {paths[1]}", found)
        print(out / "report.html")


def table(found: list[Comparison], first: str, second: str) -> Table:
    """A row for each benchmark, in percent of a full score."""
    shown = Table(title=f"{second} less {first}")
    for name in ("benchmark", "items", "first", "second", "difference", "95 % interval", "p", "test"):
        shown.add_column(name, justify="left" if name in ("benchmark", "test") else "right")
    for c in found:
        p = c.paired
        numbers = [f"{100 * value:.1f}" for value in (p.first, p.second)]
        bounds = f"{100 * p.low:+.1f} to {100 * p.high:+.1f}"
        shown.add_row(
            c.benchmark, f"{p.items:,}", *numbers, f"{100 * p.difference:+.1f}", bounds, f"{p.p_value:.3g}", p.test
        )
    return shown


if __name__ == "__main__":
    run_command(main)
