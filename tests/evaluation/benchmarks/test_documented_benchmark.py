"""The example of docs/evaluation.md is a whole benchmark, in about 30 lines."""

import json
import pathlib
import re
import types

from nvlm_jax.evaluation.benchmark import Benchmark
from tests.evaluation.benchmarks import miniature

DOCS = pathlib.Path(__file__).parents[3] / "docs" / "evaluation.md"


def test_the_documented_example_is_a_benchmark(tmp_path):
    [code] = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
    module = types.ModuleType("capitals")
    exec(compile(code, "capitals.py", "exec"), vars(module))
    [benchmark] = module.BENCHMARKS
    assert isinstance(benchmark, Benchmark)
    miniature.save(tmp_path / "capitals/maps/pe.png", miniature.pages()[0].picture)
    row = {"id": 1, "country": "Peru", "capital": "Lima", "map": "maps/pe.png"}
    (tmp_path / "capitals/capitals.jsonl").write_text(json.dumps(row))
    [question] = benchmark.load(tmp_path)
    assert question.text.startswith("<image>\nWhat is the capital of Peru?") and question.type == "P"
    assert benchmark.score(question, "Lima.", "exact") == ("lima", 1.0)
    assert benchmark.score(question, "", "exact") == (None, 0.0)


def test_the_documentation_lists_every_benchmark():
    text = DOCS.read_text()
    assert all(f"`{name}`" in text for name in miniature.LAYOUTS)
