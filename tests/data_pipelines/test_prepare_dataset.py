"""Shards, index and report of a prepared dataset; killed and run again it has the same bytes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from data_pipelines import index, prepare
from data_pipelines.prepare import PrepareError
from data_pipelines.raw import lines
from data_pipelines.raw.entry import LayoutError, Spec
from data_pipelines.records import RecordSource
from tests.data_pipelines.raw_files import made, picture, put

TOKENIZER = pathlib.Path(__file__).parents[2] / "nvlm_jax" / "assets" / "tiny"
SPEC = Spec("set", "json_columns", task="count")


def raw(path: pathlib.Path, size: int) -> pathlib.Path:
    images = {f"images/{i}.png": picture(30 + 400 * i, 30) for i in range(5)}
    rows = [{"id": f"r{i}", "image": f"images/{i % 7}.png", "question": f"{i}?", "answer": i} for i in range(size)]
    return put(path / "raw", images | {"rows.jsonl": rows})


def test_index_and_report_tell_what_is_there(tmp_path):
    samples, report = made(tmp_path, SPEC, raw(tmp_path, 70), tokenizer=str(TOKENIZER))
    assert len(samples) == report["samples"] == report["images"] == 50
    held = report["rejected"]["missing_file"]
    assert held["count"] == 20 and len(held["examples"]) == 20 and held["examples"][0]["id"] == "r5"
    assert report["tiles_per_image"] == {"1": 10, "7": 40}
    assert report["longer_side_up_to"] == {"224": 10, "448": 10, "896": 10, "1792": 20, "3584": 0, "more": 0}
    table = index.read(tmp_path / "out" / "set").to_pylist()
    assert table[1] | {"bytes": 0} == {
        **{"id": "r1", "shard": 0, "offset": 1, "bytes": 0, "messages": 2, "prompt_chars": 10, "answer_chars": 1},
        **{"widths": [430], "heights": [30], "tiles": [7], "prompt_tokens": table[1]["prompt_tokens"]},
        **{"answer_tokens": 1, "dataset": "set", "source": "rows.jsonl#1"},
    }
    assert report["bytes"] == sum(line["bytes"] for line in table)
    faults = [json.loads(line) for line in (tmp_path / "out/set/faults.jsonl").read_text().splitlines()]
    assert len(faults) == 20 and not any(fault["kept"] for fault in faults)
    assert RecordSource(tmp_path / "out" / "set").manifest.groups == ("count",)


def test_examples_are_twenty_and_the_list_is_whole(tmp_path):
    _, report = made(tmp_path, SPEC, raw(tmp_path, 140))
    held = report["rejected"]["missing_file"]
    assert held["count"] == 40 and len(held["examples"]) == 20
    assert len((tmp_path / "out/set/faults.jsonl").read_text().splitlines()) == 40


def test_what_is_ready_stays_and_other_settings_make_it_anew(tmp_path, monkeypatch):
    root = raw(tmp_path, 20)
    _, first = made(tmp_path, SPEC, root)
    monkeypatch.setattr(prepare, "make_shard", None)
    assert made(tmp_path, SPEC, root)[1] == first
    monkeypatch.undo()
    spec = Spec("set", "json_columns", "Say: {question}")
    assert made(tmp_path, spec, root)[0][0].messages[0].content == "<image>\nSay: 0?"


def test_too_many_bad_samples_stop_it_and_a_higher_share_goes_on(tmp_path, monkeypatch):
    root = raw(tmp_path, 70)
    with pytest.raises(PrepareError, match=r"28\.57% of the samples are bad, more than max_bad_share=0\.2.*") as caught:
        made(tmp_path, SPEC, root, max_bad_share=0.2)
    text = str(caught.value)
    assert "missing_file: 20 (r5, r6, r12, ...)" in text and f"{root}/images/5.png" in text and "field 'image'" in text
    listed = tmp_path / "out" / "set.rejected" / "faults.jsonl"
    assert str(listed) in text and len(listed.read_text().splitlines()) == 20
    assert not (tmp_path / "out" / "set").exists() and prepare.made_shards(tmp_path / "out" / "set") == (1, 1)
    monkeypatch.setattr(prepare, "make_shard", None)  # nothing is made a second time
    assert len(made(tmp_path, SPEC, root, max_bad_share=0.3)[0]) == 50


def test_a_dataset_of_nothing_is_refused_whatever_the_share(tmp_path):
    root = raw(tmp_path, 3)
    spec = Spec("set", "json_columns", fields={"image": "question"})
    with pytest.raises(PrepareError, match=r"none of 3 samples could be used; .*--fields") as caught:
        made(tmp_path, spec, root, max_bad_share=1.0)
    assert f"field 'question': '0?': there is no file {root}/0?" in str(caught.value)
    faults = [json.loads(line) for line in (tmp_path / "out/set.rejected/faults.jsonl").read_text().splitlines()]
    assert [fault["id"] for fault in faults] == ["r0", "r1", "r2"] and not (tmp_path / "out/set").exists()


def test_a_directory_in_another_layout_is_named(tmp_path):
    with pytest.raises(LayoutError, match="no layout 'tar_column'; there are json_conversations"):
        made(tmp_path, Spec("set", "tar_column"), raw(tmp_path, 1))
    with pytest.raises(LayoutError, match=r"no file matches '\*\*/\*\.tar'"):
        made(tmp_path, Spec("set", "tar_columns"), raw(tmp_path, 1))


def test_a_shard_may_come_out_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "GRAIN", 3)
    names = [*(["images/none.png"] * 3), "images/0.png", *(["images/none.png"] * 3)]
    rows = [{"id": f"r{i}", "image": name, "question": "?", "answer": "1"} for i, name in enumerate(names)]
    root = put(raw(tmp_path, 1), {"rows.jsonl": rows})
    samples, report = made(tmp_path, SPEC, root, shard_records=3)
    assert [sample.id for sample in samples] == ["r3"] and report["samples"] == 1
    assert RecordSource(tmp_path / "out" / "set").manifest.shards == (0, 1, 0)


def command(root: pathlib.Path, out: pathlib.Path, processes: int) -> list[str]:
    flags = {"dataset": "set", "layout": "json_columns", "raw": root, "out": out, "shard_records": 512}
    flags |= {"processes": processes, "max_bad_share": 0.5}
    return [sys.executable, "-m", "launch.prepare", *(f"--{name}={value}" for name, value in flags.items())]


@pytest.mark.slow
def test_killed_and_run_again_it_has_the_same_bytes(tmp_path):
    root = raw(tmp_path, 2100)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = subprocess.run(command(root, whole, 2), capture_output=True, text=True)
    assert done.returncode == 0 and "1,500 samples" in done.stdout and "missing_file: 600" in done.stdout
    process = subprocess.Popen(command(root, killed, 0), stdout=subprocess.DEVNULL)
    folder = killed / ".set.preparing"
    while len(list(folder.glob("tally-*.json"))) < 1:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    shards, _ = prepare.made_shards(killed / "set")
    assert 1 <= shards < 5 and not (killed / "set").exists()
    stamps = {file: file.stat().st_mtime_ns for file in folder.glob("tally-*.json")}
    again = subprocess.run(command(root, killed, 0), capture_output=True, text=True)
    assert again.returncode == 0 and len(stamps) == shards
    for file in (whole / "set").iterdir():
        assert file.read_bytes() == (killed / "set" / file.name).read_bytes(), file.name
    assert [p.name for p in killed.iterdir()] == ["set"]


def test_changed_raw_files_begin_anew(tmp_path):
    root = raw(tmp_path, 20)
    with pytest.raises(PrepareError):
        made(tmp_path, SPEC, root, max_bad_share=0.0)
    put(root, {"rows.jsonl": [{"id": "new", "image": "images/0.png", "question": "?", "answer": "1"}]})
    samples, _ = made(tmp_path, SPEC, root, max_bad_share=0.0)
    assert [sample.id for sample in samples] == ["new"]
