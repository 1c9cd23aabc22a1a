"""The report of a small sweep: the page, the tables, and what it says of runs that are missing."""

import io
import json
import re

import pyarrow.csv
import pyarrow.parquet
import pytest
from rich.console import Console

from nvlm_jax.sweeps import page, rows, store, tables
from nvlm_jax.sweeps.runner import Runner
from nvlm_jax.sweeps.variants import load
from tests.commands import command
from tests.sweeps.files import write_sweep

BODY = """
def sweep(add):
    add("arch=d", label="plain")
    add("arch=x", {"inputs.tile_tags": "none"}, label="x-none")
    add("arch=d", {"inputs.tile_tags": "grid", "sft.name": "broken"}, label="grid")
"""


def run(place, seeds="SEEDS = (0, 1)"):
    sweep = load(write_sweep(place / "tags.py", BODY + seeds))
    store.open_sweep(sweep, "runs")
    Runner(store.read_plan("runs"), say=lambda line: None).run_all(store.runs_of(sweep, "runs"))
    return store.read_runs("runs")


def test_page_tables_and_missing_runs(place):
    plan, runs = run(place)
    problems = page.write(place / "report.html", plan, runs)
    assert problems == ["seed 0 of grid is missing: failed; seed 1 of grid is missing: failed"]
    text = (place / "report.html").read_text()
    shown = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert "Plotly" in text and not re.search(r'(src|href)="http', shown)
    assert "x-none" in shown and "65.0" in shown and "-20.0" in shown  # means 0.65 and 0.45
    assert "not compared: seed 0 of grid is missing: failed" in shown
    assert "the loss is not finite" in shown and "grid/seed=1: failed" in shown
    assert "inputs.tile_tags" in shown and "@media print" in shown
    for title in ("Quality against cost", "Learning curves", "Gates by layer", "Accuracy by question type"):
        assert title in shown
    # Every chart draws what was asked: three costs, two stages, types, gates.
    assert text.count("Plotly.newPlot(") - page.get_plotlyjs().count("Plotly.newPlot(") == 7

    table = rows.table(runs, plan)
    rows.write_parquet(place / "results.parquet", table)
    rows.write_csv(place / "results.csv", table)
    frame = pyarrow.parquet.read_table(place / "results.parquet").to_pylist()
    assert len(frame) == 6 and frame[0]["accuracy.vision"] == 0.6 and frame[0]["params.decoder"] == 100
    assert {row["status"] for row in frame} == {"finished", "failed"}
    assert pyarrow.csv.read_csv(place / "results.csv").num_rows == 6
    json.dumps(frame)  # plain values alone


def test_one_seed_is_tested_by_questions_and_none_is_an_error(place):
    plan, runs = run(place, "SEEDS = (0,)")
    by_name = {line.name: line for line in page.lines(plan, runs)}
    assert by_name["plain"].difference is None and by_name["plain"].mean.low is None
    assert by_name["x-none"].difference.test == "McNemar over questions"
    assert by_name["x-none"].difference.mean == pytest.approx(-0.2)
    for one in runs:
        (one.path / "results.json").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="no run is finished"):
        page.write(place / "report.html", plan, runs)


def test_status_table(place):
    plan, runs = run(place, "SEEDS = (0,)")
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(tables.status_table(plan, runs))
    text = console.export_text()
    assert "2 finished, 1 failed" in text and "best so far: plain, accuracy.vision 0.6 (mean of 1 seed)" in text
    [(label, error)] = tables.failures(runs)
    assert label == "grid/seed=0" and "the loss is not finite" in error


@pytest.mark.slow
def test_the_commands(place):
    run(place, "SEEDS = (0,)")

    def call(*arguments):
        done = command(*arguments, cwd=place)
        return done.returncode, done.stdout + done.stderr

    status, output = call("launch.report", "--sweep=runs", "--out=r/report.html", "--csv=r/rows.csv")
    assert status == 1 and "not compared:\n  seed 0 of grid is missing: failed" in output
    assert {file.name for file in (place / "r").iterdir()} == {"report.html", "rows.csv", "results.parquet"}
    status, output = call("launch.sweep", "--config=tags.py", "--workdir=other", "--backend=slurm", "--dry_run")
    assert status == 0 and "differs from the base in" in output
    assert "--array=0-2%3" in (place / "other" / "sweep.sbatch").read_text()
