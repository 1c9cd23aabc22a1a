"""Runs on this machine: resumable, one failure does not stop the others, nothing is done twice."""

import dataclasses
import json
import subprocess
import sys
import threading
import time

import pytest

from nvlm_jax.sweeps import store, tables
from nvlm_jax.sweeps.runner import Runner
from nvlm_jax.sweeps.sweep_file import SweepError
from nvlm_jax.sweeps.variants import load
from tests.sweeps.files import write_sweep

TWO = """
def sweep(add):
    add("arch=x", {"inputs.tile_tags": "1d"})
    add("arch=x", {"sft.optimizer.learning_rate": 0.5})
"""


def prepare(place, body=TWO, name="two"):
    sweep = store.known_names(load(write_sweep(place / f"{name}.py", body)), "runs")
    store.open_sweep(sweep, "runs")
    return store.runs_of(sweep, "runs"), Runner(store.read_plan("runs"), say=lambda line: None)


def starts(path) -> int:
    return len((path / "starts").read_text())


def test_from_plan_to_results_and_nothing_twice(place):
    runs, runner = prepare(place)
    assert [run.label.rsplit("/")[1] for run in runs] == ["seed=0", "seed=0", "seed=1", "seed=1"]
    assert set(runner.run_all(runs).values()) == {"finished"}
    first, other = runs[0], runs[1]
    found = first.results()
    assert found["accuracy"]["vision"] == 0.6 and found["params"] == {"decoder": 100, "projector": 10}
    assert found["gates"] == {"attention_gate": [0.1, 0.2]} and found["steps"] == {"pretrain": 4, "sft": 4}
    assert found["samples"] == {"pretrain": 8, "sft": 8} and found["seconds"] == 4.0
    assert found["flops"] > 0 and len(found["config_hash"]) == 16 and found["loss_by_group"] == {"word": 0.25}
    # The variants differ in their second stage alone: the first is trained once for each seed.
    assert first.workdir("pretrain") == other.workdir("pretrain") != runs[2].workdir("pretrain")
    assert starts(first.workdir("pretrain")) == 1 == starts(other.workdir("sft"))
    assert json.loads((other.path / "sft.json").read_text())["init"]["checkpoint"] == str(other.workdir("pretrain"))
    assert "$ python -m stand_in_train" in (first.path / "log.txt").read_text()

    before = (first.path / "results.json").read_bytes()
    assert set(runner.run_all(runs).values()) == {"finished"}
    assert (first.path / "results.json").read_bytes() == before and starts(first.workdir("sft")) == 1
    # What is missing is done again, and no more.
    (first.path / "results.json").unlink()
    assert runner.run(first) == "finished"
    assert starts(first.workdir("sft")) == 1 and (first.path / "evaluation.starts").read_text() == "x"


def test_one_failure_stops_no_other_and_is_told_with_its_last_lines(place):
    body = TWO + """    add("arch=d", {"sft.name": "broken"}, seeds=(0,))"""
    runs, runner = prepare(place, body)
    statuses = runner.run_all(runs)
    [failed] = [run for run in runs if statuses[run.label] == "failed"]
    assert list(statuses.values()).count("finished") == 4 and "name=broken" in failed.label
    assert "sft: exit status 1" in failed.state()["error"] and "the loss is not finite" in failed.state()["error"]
    (place / "mended").touch()
    assert runner.run(failed) == "finished"
    assert starts(failed.workdir("pretrain")) == 1 and starts(failed.workdir("sft")) == 2


def test_stopped_it_lets_its_children_save_and_goes_on_later(place):
    runs, runner = prepare(place, "def sweep(add):\n    add('', {'sft.name': 'slow'}, seeds=(0,))\n    add('arch=x')")
    thread = threading.Thread(target=lambda: statuses.update(runner.run_all(runs)))
    statuses: dict[str, str] = {}
    thread.start()
    marker, deadline = runs[0].workdir("sft") / "starts", time.monotonic() + 60
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert runs[0].state()["status"] == "running" and runs[0].state()["stage"] == "sft"
    time.sleep(0.3)
    runner.stop.set()
    thread.join(20)
    assert list(statuses.values()) == ["stopped", "waiting", "waiting"]
    again = Runner(store.read_plan("runs"), parallel=2, say=lambda line: None)
    assert set(again.run_all(runs).values()) == {"finished"}
    assert starts(runs[0].workdir("pretrain")) == 1 and starts(runs[0].workdir("sft")) == 2


def test_an_orphan_keeps_its_directory_until_it_ends(place):
    """A child whose sweep was killed still writes; the next start waits for its lock."""
    runs, _ = prepare(place, "def sweep(add):\n    add(seeds=(0,))")
    said: list[str] = []
    runner = Runner(store.read_plan("runs"), say=said.append)
    path = runs[0].workdir("pretrain").with_name(runs[0].workdir("pretrain").name + ".lock")
    path.parent.mkdir(parents=True)
    hold = f"import fcntl, time; f = open({str(path)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); "
    orphan = subprocess.Popen([sys.executable, "-c", hold + "time.sleep(60)"], stdout=subprocess.PIPE)
    orphan.stdout.readline()
    thread = threading.Thread(target=runner.run, args=(runs[0],))
    thread.start()
    deadline = time.monotonic() + 20
    while not said and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "waits for another process that holds" in said[0] and not runs[0].workdir("pretrain").exists()
    orphan.kill()
    orphan.wait()
    thread.join(30)
    assert runs[0].state()["status"] == "finished"


def test_two_starts_on_one_directory_share_the_runs_out(place):
    runs, _ = prepare(place)
    said: list[str] = []
    first, other = (Runner(store.read_plan("runs"), say=said.append) for _ in range(2))
    thread = threading.Thread(target=lambda: statuses.update(other.run_all(runs)))
    statuses: dict[str, str] = {}
    thread.start()
    assert set(first.run_all(runs).values()) == {"finished"}
    thread.join(60)
    assert set(statuses.values()) == {"finished"} and len(statuses) == 4
    assert any("waits for another process that holds" in line for line in said)
    for run in runs:
        assert starts(run.workdir("pretrain")) == 1 == starts(run.workdir("sft"))
        assert (run.path / "evaluation.starts").read_text() == "x"


def test_a_run_whose_state_cannot_be_written_stops_no_other(place, monkeypatch):
    runs, _ = prepare(place, "def sweep(add):\n    add(seeds=(0, 1))")
    said: list[str] = []
    runner = Runner(store.read_plan("runs"), say=said.append)
    note = store.Run.note

    def full(self, **changes):
        if self.seed == 0 and "status" in changes:
            raise OSError("no space left on device")
        note(self, **changes)

    monkeypatch.setattr(store.Run, "note", full)
    assert list(runner.run_all(runs).values()) == ["failed", "finished"]
    assert any("seed=0: failed: OSError: no space left on device" in line for line in said)


def test_parallel_runs_take_devices_in_turn_and_share_a_stage(place, monkeypatch):
    with open(place / "stand_in_train.py", "a") as module:
        module.write("import os\n(workdir / 'device').write_text(os.environ['CUDA_VISIBLE_DEVICES'])\n")
    runs, _ = prepare(place)
    runner = Runner(store.read_plan("runs"), parallel=2, devices=["4", "5"], say=lambda line: None)
    assert set(runner.run_all(runs).values()) == {"finished"}
    assert {(run.workdir("sft") / "device").read_text() for run in runs} == {"4", "5"}
    assert all(starts(run.workdir("pretrain")) == 1 for run in runs)


def test_another_sweeps_directory_and_other_settings(place):
    runs, runner = prepare(place)
    runner.run(runs[0])
    before = (place / "runs" / "sweep.json").read_bytes()
    with pytest.raises(SweepError, match="belongs to the sweep 'two', not 'three'"):
        prepare(place, TWO, "three")
    assert (place / "runs" / "sweep.json").read_bytes() == before and runs[0].results()
    (place / "other").mkdir()
    (place / "other" / "file").touch()
    with pytest.raises(SweepError, match=r"is not empty and has no sweep\.json"):
        store.open_sweep(load(place / "two.py"), place / "other")
    with pytest.raises(SweepError, match=r"no sweep\.json there"):
        store.read_plan(place / "nowhere")


def test_a_sweep_of_the_same_name_that_shares_nothing_and_a_search(place):
    prepare(place, "def sweep(add):\n    add(label='a')\n    add('arch=x', label='b')")
    with pytest.raises(SweepError, match="another sweep named 'two': it has a, b, and this one has c"):
        prepare(place, "def sweep(add):\n    add('arch=h', label='c')")
    search = dataclasses.replace(load(place / "two.py"), kind="search")
    with pytest.raises(SweepError, match="belongs to a sweep named 'two', and this is a search"):
        store.open_sweep(search, "runs")


def test_a_metric_that_is_not_there_fails_the_run_and_can_be_mended(place):
    body = "METRIC = '{}'\ndef sweep(add):\n    add(seeds=(0,))"
    with pytest.raises(SweepError, match=r"METRIC: .* will have no 'accuracy\.vison'; did you mean accuracy\.vision\?"):
        prepare(place, body.format("accuracy.vison"))
    [run], runner = prepare(place, body.format("accuracy.by_type.wrod"))  # which types there are the data decides
    assert runner.run(run) == "failed" and not run.results()
    error = run.state()["error"]
    assert "METRIC: 'accuracy.by_type.wrod' is no number of this" in error and "accuracy.vision, accuracy.text" in error
    [run], runner = prepare(place, body.format("accuracy.vision"))
    assert runner.run(run) == "finished" and starts(run.workdir("sft")) == 1
    with pytest.raises(SweepError, match=r"metric: 'accuracy\.vision' there, 'accuracy\.text' now"):
        prepare(place, body.format("accuracy.text"))


def test_damaged_files_are_named_and_stop_no_other(place):
    runs, runner = prepare(place, "def sweep(add):\n    add(seeds=(0, 1))")
    runs[0].note(status="running")
    (runs[0].path / "state.json").write_text('{"status": ')
    assert list(runner.run_all(runs).values()) == ["failed", "finished"]
    assert "state.json: cannot be read" in runs[0].state()["error"] and "remove it" in runs[0].state()["error"]
    (runs[0].path / "state.json").unlink()
    assert runner.run(runs[0]) == "finished"
    (runs[0].path / "results.json").write_text("[]")
    with pytest.raises(SweepError, match=r"results\.json: holds list in place of a mapping; remove it"):
        runs[0].results()


@pytest.mark.parametrize("content", [b"{}", b"[]", b'{"loss": ', b"\xff\xfe\x00", b'{"loss": 1.0}'])
def test_damaged_results_end_no_table_and_are_written_again(place, content):
    runs, runner = prepare(place, "def sweep(add):\n    add(seeds=(0, 1))")
    assert list(runner.run_all(runs).values()) == ["finished", "finished"]
    before = (runs[0].path / "results.json").read_bytes()
    (runs[0].path / "results.json").write_bytes(content)
    state = runs[0].state()
    assert state["status"] == "damaged" and "results.json" in state["error"] and "remove it" in state["error"]
    table = tables.status_table(runner.plan, runs)
    shown = {name: list(table.columns[i].cells) for i, name in enumerate(("variant", "seed", "state"))}
    assert shown["state"] == ["damaged", "finished"] and "1 damaged, 1 finished" in table.title
    assert [label for label, _ in tables.failures(runs)] == [runs[0].label]
    assert runner.run(runs[0]) == "finished" and starts(runs[0].workdir("sft")) == 1
    assert json.loads((runs[0].path / "results.json").read_text()) == json.loads(before)
    plan = json.loads((place / "runs" / "sweep.json").read_text())
    for damaged in ("{", "{}", json.dumps(plan | {"variants": []}), json.dumps(plan | {"variants": {"a": {}}})):
        (place / "runs" / "sweep.json").write_text(damaged)
        with pytest.raises(SweepError, match=r"sweep\.json: .*; restore it, or use another --workdir"):
            store.read_runs("runs")
    (place / "file").touch()
    with pytest.raises(SweepError, match="file: is, or lies in, a file"):
        store.open_sweep(load(place / "two.py"), place / "file")


def test_changed_steps_of_a_known_variant_are_listed(place):
    prepare(place, "def sweep(add):\n    add(label='a')\n    add('arch=x', label='b')")
    with pytest.raises(SweepError, match=r"variant b: sft\.train\.steps: 4 there, 7 now"):
        prepare(place, "def sweep(add):\n    add(label='a')\n    add('arch=x', {'sft.train.steps': 7}, label='b')")


def test_a_name_stays_though_a_new_variant_would_lengthen_it(place):
    body = "def sweep(add):\n    add('', {'inputs.tile_tags': '1d'})\n    add('', {'inputs.tile_tags': 'none'})"
    assert [run.variant.name for run in prepare(place, body)[0]][:2] == ["tile_tags=1d", "tile_tags=none"]
    names = [run.variant.name for run in prepare(place, body + "\n    add('arch=x', {'inputs.tile_tags': 'none'})")[0]]
    assert names[:3] == ["tile_tags=1d", "tile_tags=none", "tile_tags=none,arch=x"]


def test_variants_and_seeds_may_be_added_and_those_that_went_stay_on_record(place):
    runs, runner = prepare(place, "def sweep(add):\n    add(label='a', seeds=(0,))\n    add('arch=x', label='b')")
    runner.run(runs[0])
    runs, runner = prepare(place, "def sweep(add):\n    add(label='a')\n    add('arch=h', label='c')")
    assert [run.label for run in runs] == ["a/seed=0", "c/seed=0", "a/seed=1", "c/seed=1"]
    assert runner.run(runs[0]) == "finished" and starts(runs[0].workdir("sft")) == 1
    plan, known = store.read_runs("runs")
    assert plan["variants"]["b"]["gone"] and {run.variant.name for run in known} == {"a", "c"}
    assert [run.path for run in known if run.label == "a/seed=0"] == [runs[0].path]
    assert dataclasses.asdict(known[0].variant.stages["sft"]) == dataclasses.asdict(runs[0].variant.stages["sft"])
