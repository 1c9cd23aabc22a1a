"""The claims' sweeps can all be run, verdicts follow their rules, and the smallest runs for real at a few steps."""

import dataclasses
import json
import os
import pathlib

import pytest

from data_pipelines import embedded
from data_pipelines.loader import samples_per_step
from nvlm_jax.sweeps import budgets, claims, compare, store, sweep_file, variants
from nvlm_jax.sweeps.record import value
from nvlm_jax.sweeps.runner import Runner
from tests.fast_compile import FAST_COMPILE
from tests.sweeps.files import write_sweep

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted((ROOT / "configs/sweeps/claims").glob("claim_*.py"))


def test_every_claim_can_be_planned_and_compares_what_it_runs():
    numbers = []
    for file in FILES:
        sweep = variants.load(file)
        claim = claims.from_mapping(sweep.claim)
        numbers.append(claim.number)
        assert file.stem == f"claim_{claim.number}" and len(claim.comparisons) >= 1
        names = {variant.name for variant in sweep.variants}
        assert {c.base for c in claim.comparisons} | {c.other for c in claim.comparisons} == names
        assert all(len(variant.seeds) >= claims.MINIMUM_SEEDS for variant in sweep.variants)
        assert all(c.kind in claims.KINDS for c in claim.comparisons) and any(c.needed for c in claim.comparisons)
        asked = [name for flags in sweep.evaluations.values() for name in flags["embedded"]]
        used = [d.name for v in sweep.variants for config in v.stages.values() for d in config.data.blend]
        assert set(asked + used) <= set(embedded.ALL)
    assert numbers == list(range(1, 10))


@pytest.mark.parametrize("number", [1, 2, 8])
def test_equal_samples_are_planned_from_the_data(tmp_path, monkeypatch, number):
    sweep = variants.load(ROOT / f"configs/sweeps/claims/claim_{number}.py")
    names = {d.name for v in sweep.variants for config in v.stages.values() for d in config.data.blend}
    (tmp_path / "nvlm_jax").symlink_to(ROOT / "nvlm_jax")
    monkeypatch.chdir(tmp_path)
    embedded.prepare("runs/data", sorted(names), samples=24, processes=0)
    base, *others = budgets.match(sweep, sweep.match, samples_per_step).variants
    for other in others:
        for stage, config in other.stages.items():
            seen, wanted = (c.train.steps * samples_per_step(c) for c in (config, base.stages[stage]))
            assert abs(seen - wanted) <= 0.51 * samples_per_step(config), (other.name, stage)


def test_the_committed_page_is_what_the_command_writes():
    known = sorted((sweep_file.load_module(file).CLAIM for file in FILES), key=lambda claim: claim.number)
    records = claims.read_records(ROOT / "docs/claims")
    text = claims.page(known, records)
    assert (ROOT / "docs/claims.md").read_text() == text
    assert ("None of them has been run yet" in text) == (not records)


def test_verdicts():
    def of(kind, gains, margin=0.01):
        found = compare.difference(dict.fromkeys(range(len(gains)), 0.0), dict(enumerate(gains)))
        return claims.verdict(kind, gains, found, margin)

    assert of("greater", [0.10, 0.12, 0.11]) == claims.HOLDS
    assert of("greater", [-0.10, -0.12, -0.11]) == claims.FAILS
    assert of("greater", [0.001, 0.0012, 0.0011]) == claims.HOLDS
    assert of("greater", [0.001, -0.001, 0.0005]) == claims.FAILS  # an effect of 0.01 is ruled out
    assert of("greater", [0.3, -0.2, 0.1]) == claims.UNDECIDED
    assert of("greater", [0.3]) == claims.UNDECIDED
    assert of("kept", [-0.001, 0.002, 0.0]) == claims.HOLDS
    assert of("kept", [-0.10, -0.12, -0.11]) == claims.FAILS
    assert of("kept", [-0.02, 0.01, 0.0]) == claims.UNDECIDED
    assert of("equal", [0.0, 0.0]) == claims.HOLDS and of("equal", [0.0, 1e-9]) == claims.FAILS
    assert claims.combine([claims.HOLDS, claims.FAILS, claims.UNDECIDED]) == claims.FAILS
    assert claims.combine([claims.HOLDS, claims.UNDECIDED]) == claims.UNDECIDED
    assert claims.combine([claims.HOLDS] * 2) == claims.HOLDS and claims.combine([]) == claims.UNDECIDED


def test_seeds_that_would_decide_are_counted_to_the_edge_of_a_verdict():
    needed = claims._seeds_needed
    gains = [-0.005 + shift for shift in (-0.02, -0.01, 0.0, 0.01, 0.02)]  # 0.015 below the margin, not 0.005 below 0
    assert needed("greater", gains, 0.01) == compare.seeds_needed(0.015, 0.0158113883)
    assert needed("greater", [gain + 0.025 for gain in gains], 0.01) == compare.seeds_needed(0.02, 0.0158113883)
    assert needed("kept", gains, 0.02) == compare.seeds_needed(0.015, 0.0158113883)
    assert needed("equal", gains, 0.0) is None and needed("greater", [0.1], 0.01) is None


def test_where_both_are_at_the_floor_nothing_is_decided():
    class _Variant:
        def __init__(self, name):
            self.name = name

    class _Run:
        def __init__(self, name, loss, seed=0):
            self.variant, self.seed, self._loss = _Variant(name), seed, loss

        def results(self):
            return {"loss": self._loss}

    runs = [_Run(name, loss + seed * 1e-5 * (1 + (name == "a")), seed)
            for name, loss in (("a", 0.0004), ("b", 0.0003)) for seed in range(5)]  # fmt: skip
    found = {floor: claims._compare(claims.Comparison("loss", "a", "b", "-loss", margin=0.05, floor=floor), runs)
             for floor in (0.0, 0.01)}  # fmt: skip
    assert found[0.0]["verdict"] == claims.HOLDS and not found[0.0]["at_floor"]
    assert found[0.01]["verdict"] == claims.UNDECIDED and found[0.01]["at_floor"]


def test_a_directory_that_is_not_there_does_not_empty_the_page(tmp_path):
    with pytest.raises(ValueError, match="docs/claims has the claims' records"):
        claims.read_records(tmp_path / "claims")


def test_committed_records_are_of_todays_configs():
    for number, record in claims.read_records(ROOT / "docs/claims").items():
        sweep = variants.load(ROOT / f"configs/sweeps/claims/claim_{number}.py")
        sweep = budgets.match(sweep, sweep.match) if sweep.match in ("flops", "steps", "none") else sweep
        for variant in sweep.variants:
            if sweep.match != "samples":  # which need the data
                ran = record["variants"][variant.name]
                # What `since` says of a record is of NVLM-H: its tiles bear their tags in another way today.
                stale = "since" in record and ran["settings"]["arch"] == "h"
                assert (ran["config_hash"] == variants.digest(variant.seeded(0))) != stale, number


def test_numbers_by_path():
    found = {"accuracy": {"vision": 0.5, "text": 0.2, "blind": None}, "device": "cpu"}
    assert value(found, "accuracy.vision - accuracy.text") == pytest.approx(0.3)
    assert value(found, "-accuracy.vision") == -0.5
    for metric in ("accuracy.blind", "accuracy.vision - accuracy.blind", "accuracy", "device", "nothing.here"):
        assert value(found, metric) is None
    assert value(None, "loss") is None


CLAIM = """
from nvlm_jax.sweeps.claims import Claim, Comparison
CLAIM = Claim(7, "Tags help", "1-D tags are better.", (
    Comparison("tags over none", "none", "1d", paper="728 -> 806"),
    Comparison("speed", "none", "1d", "samples_per_second", ratio=True, needed=False),
    Comparison("text", "1d", "1d", "accuracy.text", "evaluations.evaluation.accuracy.text", "equal"),
))

def sweep(add):
    add("arch=d", {"inputs.tile_tags": "none"}, label="none")
    add("arch=d", {"inputs.tile_tags": "1d"}, label="1d")
"""


def test_from_runs_to_a_record_and_a_page(place, monkeypatch):
    sweep = variants.load(write_sweep(place / "claim_7.py", CLAIM))
    store.open_sweep(sweep, "runs")
    plan, runs = store.read_runs("runs")
    Runner(plan, say=lambda line: None).run_all(runs[:-1])
    with pytest.raises(compare.MissingSeed, match=r"'tags over none': seed 1 \(waiting\) of 1d has no result"):
        claims.decide(plan, runs)
    Runner(plan, say=lambda line: None).run_all(runs)
    assert claims.decide(plan, runs)["verdict"] == claims.UNDECIDED  # two seeds are too few
    monkeypatch.setattr(claims, "MINIMUM_SEEDS", 2)
    assert claims.decide(plan, runs)["verdict"] == claims.UNDECIDED  # both gained the same: no spread to judge by
    (second,) = (run for run in runs if (run.variant.name, run.seed) == ("1d", 1))
    held = second.results()
    held["accuracy"]["vision"] = 0.702
    (second.path / "results.json").write_text(json.dumps(held))
    record = json.loads(json.dumps(claims.decide(plan, runs)))
    tags, speed, text = record["comparisons"]
    assert record["verdict"] == claims.HOLDS and tags["seeds"] == [0, 1]
    assert tags["base_values"] == [0.4, 0.5] and tags["other_values"] == [0.6, 0.702]
    assert tags["effect"] == pytest.approx(0.201) and speed["effect"] == 1.0 and text["verdict"] == claims.HOLDS
    assert len(record["variants"]["1d"]["config_hash"]) == 16 and record["commits"] and record["seconds"] == 16.0
    page = claims.page([claims.from_mapping(plan["claim"])], {7: record})
    assert "| 7 | Tags help | holds |" in page and "+0.201" in page and "x 1.00" in page and "728 -> 806" in page
    with pytest.raises(ValueError, match="is no claim"):
        claims.decide(plan | {"claim": None}, runs)
    with pytest.raises(ValueError, match=r"was a trial with --steps_scale=0\.1"):
        claims.decide(plan | {"scale": 0.1}, runs)


@pytest.mark.slow
def test_the_smallest_claim_for_real_at_two_steps(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ["JAX_COMPILATION_CACHE_DIR"])
    monkeypatch.setenv("XLA_FLAGS", FAST_COMPILE)
    monkeypatch.chdir(ROOT)
    sweep = variants.load(ROOT / "configs/sweeps/claims/claim_4.py")
    embedded.prepare(tmp_path / "data", ["tiles-1"], samples=20, processes=0)
    one = next(variant for variant in sweep.variants if variant.name == "d-1")
    config = one.stages["sft"]
    blend = (dataclasses.replace(config.data.blend[0], path=str(tmp_path / "data/tiles-1")),)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, blend=blend),
        train=dataclasses.replace(config.train, steps=2),
    )
    sweep = dataclasses.replace(sweep, variants=(dataclasses.replace(one, stages={"sft": config}, seeds=(0,)),))
    store.open_sweep(sweep, tmp_path / "runs")
    [run] = store.runs_of(sweep, tmp_path / "runs")
    assert Runner(store.read_plan(tmp_path / "runs"), say=print).run(run) == "finished", run.state().get("error")
    found = run.results()
    assert found["steps"] == {"sft": 2} and found["samples"]["sft"] > 0 and found["samples_per_second"] > 0
    assert found["params"]["vision"] == 893312 and found["trained_parameters"] > 900000
    assert found["device"] == "cpu"
    assert "page" not in found and not run.log_tail().startswith("Traceback")
