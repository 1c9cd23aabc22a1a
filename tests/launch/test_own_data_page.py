"""docs/own_data.md: its Python and every one of its commands, one after the other, in a few steps each."""

import json
import pathlib
import re
import shlex

import pytest

from tests.commands import command

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own_data.md").read_text()
# What makes a command short; nothing else of it is changed.
SHORTER = {
    "launch.train": ("--config.train.steps=2", "--config.optimizer.warmup_steps=1"),
    "launch.sweep": ("--steps_scale=0.01", "--only=0"),
    "launch.generate": ("--max_new_tokens=4",),
}


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.S | re.M)


def run(line: str, place: pathlib.Path) -> str:
    python, flag, module, *flags = shlex.split(line)
    assert (python, flag) == ("python", "-m")
    done = command(module, *flags, *SHORTER.get(module, ()), cwd=place, env={"PYTHONPATH": str(ROOT)})
    text = done.stdout + done.stderr
    incomplete = module == "launch.report"  # of a sweep of which one run was made; its status says so
    assert done.returncode == 0 or incomplete, f"{line}\n{text}"
    assert "Traceback" not in text
    return text


@pytest.mark.slow
def test_every_command_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    raw, sweep = blocks("python")
    exec(compile(raw, "raw", "exec"), {})
    [record] = blocks("json")
    assert json.loads(record).keys() == json.loads(pathlib.Path("raw/mine/train.json").read_text())[0].keys()
    pathlib.Path("mine_sweep.py").write_text(sweep)
    texts = {line: run(line, tmp_path) for block in blocks("sh") for line in block.splitlines()}
    said = "\n".join(texts.values())
    assert "mine: 120 samples" in said and "mine-val: 10 samples" in said
    assert "runs/mine-sft: finished, 2 steps" in said
    held = json.loads(pathlib.Path("runs/mine-sft/config.json").read_text())
    assert held["config"]["data"]["blend"] == [{"name": "mine", "path": "runs/data/mine", "weight": 1.0}]
    assert held["datasets"]["runs/data/mine"]["samples"] == 120
    results = json.loads(pathlib.Path("runs/mine-eval/results.json").read_text())
    asked = pathlib.Path("runs/mine-eval/predictions.jsonl").read_text().splitlines()
    assert results["counts"]["vision"] == 40 and len(asked) == 80  # and once more with blanked pictures
    assert pathlib.Path("runs/batch.html").exists() and pathlib.Path("runs/mine-hf/config.json").exists()
    assert pathlib.Path("runs/mine-sweep/report.html").exists()
