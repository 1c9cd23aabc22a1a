"""Matched budgets: the same steps, samples or FLOPs for every variant."""

import dataclasses
import io

import pytest
from rich.console import Console

from nvlm_jax.number_format import flops
from nvlm_jax.sweeps import budgets, tables
from nvlm_jax.sweeps.sweep_file import SweepError
from nvlm_jax.sweeps.variants import load
from tests.sweeps.files import write_sweep

BODY = """
def sweep(add):
    add("arch=d", {"train.steps": 100})
    add("arch=x", {"train.steps": 50, "optimizer.warmup_steps": 10})
"""


@pytest.fixture
def sweep(tmp_path):
    return load(write_sweep(tmp_path / "two.py", BODY))


def test_equal_flops(sweep):
    d, x = budgets.match(sweep, "flops").variants
    for stage in ("pretrain", "sft"):
        spent = [v.stages[stage].train.steps * budgets.flops_of_step(v.stages[stage]) for v in (d, x)]
        assert d.stages[stage].train.steps == 100
        assert abs(spent[1] - spent[0]) <= 0.5 * budgets.flops_of_step(x.stages[stage])  # the nearest step
        assert x.stages[stage].optimizer.warmup_steps == round(10 * x.stages[stage].train.steps / 50)


def test_equal_steps_and_samples(sweep):
    assert [v.stages["sft"].train.steps for v in budgets.match(sweep, "steps").variants] == [100, 100]
    matched = budgets.match(sweep, "samples", lambda config: 8.0 if config.model.arch == "d" else 20.0)
    assert [v.stages["sft"].train.steps for v in matched.variants] == [100, 40]
    assert [v.stages["sft"].train.steps for v in budgets.match(sweep, "none").variants] == [100, 50]


def test_a_trial_has_a_share_of_the_steps(sweep):
    trial = budgets.scaled(sweep, 0.1)
    assert [v.stages["sft"].train.steps for v in trial.variants] == [10, 5] and trial.scale == 0.1
    assert trial.variants[1].stages["sft"].optimizer.warmup_steps == 1
    assert [v.stages["sft"].train.steps for v in budgets.scaled(sweep, 0.001).variants] == [1, 1]
    assert budgets.scaled(sweep, 1.0) is sweep


def test_a_budget_below_one_step_is_an_error(sweep):
    costly = [dataclasses.replace(v) for v in sweep.variants]
    with pytest.raises(SweepError, match="one step costs more than all of the base's"):
        budgets.match(dataclasses.replace(sweep, variants=tuple(costly)), "samples",
                      lambda config: 1.0 if config.model.arch == "d" else 1e6)  # fmt: skip
    with pytest.raises(SweepError, match="'time' is none of"):
        budgets.match(sweep, "time")


def test_the_plan_shows_costs_of_a_seed_and_of_all(sweep):
    def shown(**options):
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(tables.plan_table(sweep, **options))
        return console.export_text()

    total = sum(2 * budgets.planned_flops(v) for v in sweep.variants)
    assert f"all seeds: {flops(total)}" in shown() and "chip-hours" not in shown()
    text = shown(hours={v.name: hours for v, hours in zip(sweep.variants, (1.5, 0.25), strict=True)})
    assert "chip-hours a seed" in text and f"{flops(total)}, 3.5 chip-hours" in text
