"""Preparing by Apache Beam: the bytes of the local processes, and what is said where it cannot run."""

import json
import sys

import pytest

from data_pipelines import beam, prepare
from data_pipelines.raw import lines
from data_pipelines.raw.entry import Spec
from tests.data_pipelines.raw_files import picture, put

SPEC = Spec("set", "json_columns", task="count")


@pytest.fixture(autouse=True)
def _small_stretches(monkeypatch):
    monkeypatch.setattr(lines, "GRAIN", 10)


def raw(path):
    rows = [{"id": f"r{i}", "image": f"{i % 4}.png", "question": f"{i}?", "answer": i} for i in range(40)]
    return put(path / "raw", {f"{i}.png": picture(30 + i) for i in range(3)} | {"rows.jsonl": rows})


def test_without_beam_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(beam.BeamError, match=r"pip install --no-deps -r requirements-beam\.txt"):
        prepare.prepare(SPEC, raw(tmp_path), tmp_path / "out", shard_records=10, runner="DirectRunner")
    assert not (tmp_path / "out" / "set").exists()


@pytest.mark.parity
def test_a_pipeline_makes_the_same_files_and_goes_on_where_another_stopped(tmp_path):
    root, seen = raw(tmp_path), []
    prepare.prepare(SPEC, root, tmp_path / "here", shard_records=10, processes=0)
    folder = tmp_path / "beam" / ".set.preparing"

    def stop(done, total):
        seen.append((done, total))
        if done >= 20:
            raise KeyboardInterrupt

    options = {"shard_records": 10, "runner": "DirectRunner"}
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(SPEC, root, tmp_path / "beam", processes=0, shard_records=10, progress=stop)
    made = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.array_record")}
    assert made
    prepare.prepare(SPEC, root, tmp_path / "beam", progress=lambda *at: seen.append(at), **options)
    assert seen[-1] == (40, 40)
    for file in (tmp_path / "here" / "set").iterdir():
        assert file.read_bytes() == (tmp_path / "beam" / "set" / file.name).read_bytes(), file.name
        assert made.get(file.name) in (None, (tmp_path / "beam" / "set" / file.name).stat().st_mtime_ns)
    report = json.loads((tmp_path / "beam" / "set" / "report.json").read_text())
    assert report["samples"] == 30 and report["rejected"]["missing_file"]["count"] == 10


@pytest.mark.parity
def test_a_runner_that_there_is_not_and_workers_that_write_elsewhere(tmp_path, monkeypatch):
    root = raw(tmp_path)
    with pytest.raises(beam.BeamError, match="--runner=NoRunner"):
        prepare.prepare(SPEC, root, tmp_path / "out", runner="NoRunner")
    monkeypatch.setattr(beam, "run_pipeline", lambda *_: None)
    with pytest.raises(
        prepare.PrepareError, match=r"without shards 0, 1, 2, 3\. .* that all of them mount"
    ):
        prepare.prepare(SPEC, root, tmp_path / "out", shard_records=10, runner="DirectRunner")
