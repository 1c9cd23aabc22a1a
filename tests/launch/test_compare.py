"""The true command over two finished evaluations: table, file and page."""

import dataclasses
import json
import pathlib

from nvlm_jax.evaluation import results
from nvlm_jax.evaluation.benchmarks import registry
from nvlm_jax.evaluation.question import Prediction
from tests.commands import command

ROOT = pathlib.Path(__file__).parents[2]


def finished(out: pathlib.Path, right: int) -> None:
    """Results of 20 questions of which the first `right` are right."""
    answers = [
        Prediction(f"q/{i}", "s", "text", "", "text", "?", "4", "4", i < right, "gsm8k", float(i < right), "4")
        for i in range(20)
    ]
    answers = [dataclasses.replace(p, prompt_digest="0") for p in answers]
    entry = results.score(registry()["gsm8k"], answers, "flexible-extract", 512, "d")
    summary = {"arch": "d", "checkpoint": str(out), "step": 1, "params": {"decoder": 10}, "scores": {"gsm8k": entry}}
    results.write(out, summary, answers, [])


def run(*flags: str) -> tuple[int, str]:
    done = command("launch.compare", *flags, env={"COLUMNS": "200"})
    return done.returncode, done.stdout + done.stderr


def test_two_evaluations_are_compared(tmp_path):
    finished(tmp_path / "a", 4)
    finished(tmp_path / "b", 12)
    status, output = run(f"--first={tmp_path}/a", f"--second={tmp_path}/b", f"--out={tmp_path}/both")
    assert status == 0, output
    assert "gsm8k" in output and "+40.0" in output and "McNemar" in output
    [row] = json.loads((tmp_path / "both" / "comparison.json").read_text())["benchmarks"]
    assert (row["benchmark"], row["items"], row["only_first"], row["only_second"]) == ("gsm8k", 20, 0, 8)
    assert row["p_value"] == 2 / 2**8
    page = (tmp_path / "both" / "report.html").read_text()
    assert 'id="comparison"' in page and "92.9" in page  # the paper's number beside ours


def test_an_unfinished_evaluation_is_named(tmp_path):
    finished(tmp_path / "a", 4)
    status, output = run(f"--first={tmp_path}/a", f"--second={tmp_path}/none")
    assert status == 1 and f"{tmp_path}/none: no results.json" in output
