import json

import numpy as np
import pytest

from data_pipelines import embedded
from launch.benchmarks import packing as benchmark_packing
from tests.commands import command


@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_little_of_either_budget_is_padding(tmp_path, arch):
    found = benchmark_packing.measure(tmp_path, arch, 8192)
    line = found["line"]
    assert line["rows"] == 8192 and line["dropped"] == 0
    assert line["token_padding"] <= 0.02 and line["tile_padding"] <= 0.02
    assert json.loads(benchmark_packing.report(found).splitlines()[-1]) == line


def test_early_tells_a_biased_order_from_a_fair_one(tmp_path, monkeypatch):
    fair = benchmark_packing.measure(tmp_path, "x", 32_768)["early"]
    monkeypatch.setattr("data_pipelines.packing.permutation", lambda size, *key: np.arange(size))
    biased = benchmark_packing.measure(tmp_path, "x", 32_768)["early"]
    assert fair["departure"] < 0.03 < 0.2 < biased["departure"]


def test_the_command_ends_with_one_json_line_about_an_index(tmp_path):
    embedded.prepare(tmp_path, ["qa"], samples=40, processes=0)
    options = ["--arch=h", f"--index={tmp_path}/qa/index.parquet", f"--directory={tmp_path}"]
    done = command("launch.benchmarks.packing", *options)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert list(line) == ["rows", "token_padding", "tile_padding", "seconds", "peak_rss_mib", "dropped"]
    assert line["rows"] == 40 and line["peak_rss_mib"] < 400
    done = command("launch.benchmarks.packing", *options, "--index=none.parquet")
    assert done.returncode == 1 and "DatasetError: none.parquet" in done.stderr
