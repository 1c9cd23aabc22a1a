"""A sweep's record has its datasets' fingerprints: runs of other data could not be compared."""

import logging

import pytest

from data_pipelines.records import write_dataset
from launch import sweep_data
from nvlm_jax.inputs.batch import Message, Sample
from nvlm_jax.sweeps import store
from nvlm_jax.sweeps.runner import Runner
from nvlm_jax.sweeps.sweep_file import SweepError
from nvlm_jax.sweeps.variants import load
from nvlm_jax.training.run_data import RunData
from tests.sweeps.files import write_sweep

BODY = """
EVALUATIONS = {"evaluation": {"benchmarks": "docvqa"}}

def sweep(add):
    blend = ({"name": "mine", "path": "data/mine", "weight": 1.0},)
    add("arch=x", {"pretrain.data.blend": blend, "sft.data.blend": blend}, seeds=(0,))
"""


def write_mine(size: int) -> None:
    turns = (Message("user", "why?"), Message("assistant", "so"))
    write_dataset("data/mine", [Sample(f"s{i}", turns) for i in range(size)])


def test_changed_data_is_refused_by_name_and_may_be_accepted(place, caplog):
    write_mine(6)
    sweep = store.known_names(load(write_sweep(place / "one.py", BODY)), "runs")
    known = sweep_data.fingerprints(sweep)
    assert list(known) == ["data/mine"] and known["data/mine"]["samples"] == 6
    store.open_sweep(sweep, "runs", RunData(known))
    assert store.read_plan("runs")["datasets"] == known
    write_mine(4)
    now = sweep_data.fingerprints(sweep)
    with pytest.raises(SweepError, match=r"dataset mine \(data/mine\): 6 samples .* then, 4 samples .*--accept_data"):
        store.open_sweep(sweep, "runs", RunData(now))
    assert store.read_plan("runs")["datasets"] == known
    store.open_sweep(sweep, "runs", RunData(now, accept=True))
    plan = store.read_plan("runs")
    assert plan["datasets"] == now and plan["data_changes"] == [known]
    runs = store.runs_of(sweep, "runs")
    assert Runner(plan, say=lambda line: None).run(runs[0]) == "finished"
    write_mine(5)  # no run is left that would read it
    store.open_sweep(sweep, "runs", RunData(sweep_data.fingerprints(sweep)))
    assert store.read_plan("runs")["datasets"] == now and not caplog.records


def test_a_sweep_of_an_earlier_version_goes_on_with_a_notice(place, caplog):
    write_mine(6)
    sweep = load(write_sweep(place / "one.py", BODY))
    store.open_sweep(sweep, "runs")
    assert "datasets" not in store.read_plan("runs")
    with caplog.at_level(logging.WARNING):
        store.open_sweep(sweep, "runs", RunData(sweep_data.fingerprints(sweep)))
    assert "kept no fingerprints" in caplog.text and "data/mine" in store.read_plan("runs")["datasets"]
