"""The report of a sweep, or the page of the paper's claims.

    python -m launch.report --sweep=DIR --out=report.html [--csv=FILE] [--record=docs/claims/claim_1.json]
    python -m launch.report --claims=docs/claims --out=docs/claims.md

Writes one page that needs nothing else, and results.parquet beside it. Comparisons that lack a seed are named, on the
page and at the end, and the exit status is then 1. --record writes the verdict of a claim's sweep.
"""

from __future__ import annotations

import json
import pathlib
import sys

from absl import app, flags

from configs import locate
from launch.command import run_command
from nvlm_jax.config import ConfigError
from nvlm_jax.sweeps import claims, compare, page, rows, store, sweep_file

SWEEP = flags.DEFINE_string("sweep", None, "directory of a sweep")
OUT = flags.DEFINE_string("out", None, "the page", required=True)
CSV = flags.DEFINE_string("csv", None, "one row a run, for other programs")
RECORD = flags.DEFINE_string("record", None, "where to write the verdict of a claim's sweep, JSON")
CLAIMS = flags.DEFINE_string("claims", None, "directory of such files, for the page of all claims")
FILES = flags.DEFINE_string("claim_files", "configs/sweeps/claims", "directory of the claims' sweeps")


def main(argv: list[str]) -> None:
    if len(argv) > 1 or bool(SWEEP.value) == bool(CLAIMS.value):
        raise app.UsageError("expected --sweep=DIR or --claims=DIR, and --out=FILE")
    try:
        problems = sweep_report() if SWEEP.value else claims_page()
    except (compare.MissingSeed, sweep_file.SweepError, ConfigError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    if problems:
        sys.exit("not compared:\n  " + "\n  ".join(problems))


def sweep_report() -> list[str]:
    """The page and the tables of one sweep; why comparisons are missing."""
    plan, runs = store.read_runs(SWEEP.value)
    out = pathlib.Path(OUT.value)
    table = rows.table(runs, plan)
    rows.write_parquet(out.parent / "results.parquet", table)
    if CSV.value:
        rows.write_csv(pathlib.Path(CSV.value), table)
    problems = page.write(out, plan, runs)
    print(out)
    if RECORD.value:
        record = pathlib.Path(RECORD.value)
        found = claims.decide(plan, runs)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(found, indent=1) + "\n")
        print(f"claim {found['claim']}: {found['verdict']}; {record}")
    return problems


def claims_page() -> list[str]:
    """The page of all claims."""
    files = sorted(pathlib.Path(locate(FILES.value)).glob("claim_*.py"))
    known = [sweep_file.load_module(file).CLAIM for file in files]
    records = claims.read_records(pathlib.Path(CLAIMS.value))
    out = pathlib.Path(OUT.value)
    out.write_text(claims.page(sorted(known, key=lambda claim: claim.number), records), encoding="utf-8")
    print(out)
    return []


if __name__ == "__main__":
    run_command(main)
