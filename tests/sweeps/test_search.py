"""Optuna over a sweep file's search(trial): scores, early stops, failures, and going on after a stop."""

import pathlib
import shutil
import threading
import time

import pytest
from optuna.trial import TrialState

from nvlm_jax.sweeps import store
from nvlm_jax.sweeps.runner import Runner
from nvlm_jax.sweeps.search import Search, ended, failed
from nvlm_jax.sweeps.sweep_file import SweepError, load_module, read_settings
from tests.sweeps.files import write_sweep

TPE = """
SEEDS = (0,)
def search(trial):
    tags = trial.suggest_categorical("tags", ["1d", "none", "grid"])
    rate = trial.suggest_float("rate", 1e-3, 1e-1, log=True)
    return "arch=d", {"inputs.tile_tags": tags, "sft.optimizer.learning_rate": rate}
"""


def search(place, body, how="tpe", parallel=1) -> Search:
    path = write_sweep(place / "find.py", body)
    module = load_module(path)
    runner = Runner({}, parallel, say=lambda line: None)
    return Search(module, read_settings(module, path), pathlib.Path("found"), how, runner)


def test_tpe_finds_and_keeps_its_study_beside_the_sweep(place):
    study = search(place, TPE, parallel=2).run(3)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    best = study.best_trial
    assert best.value == {"1d": 0.6, "none": 0.4, "grid": 0.5}[best.params["tags"]]
    assert (place / "found" / "study.db").is_file()
    plan, runs = store.read_runs("found")
    assert len(runs) == 3 == len(plan["variants"]) and all(run.results() for run in runs)
    assert best.user_attrs["variant"] in plan["variants"] and "rate=" in best.user_attrs["variant"]
    # The same again does nothing; more trials go on with the same study and draw other values.
    assert len(search(place, TPE).run(3).trials) == 3
    rates = [trial.params["rate"] for trial in search(place, TPE).run(4).trials]
    assert len(set(rates)) == 4


def test_a_stopped_trial_goes_on_with_its_values(place):
    body = TPE.replace('"arch=d", {', '"arch=d", {"sft.name": "slow", ')
    first = search(place, body)
    thread = threading.Thread(target=first.run, args=(1,))
    thread.start()
    deadline = time.monotonic() + 60
    while not list(pathlib.Path("found").glob("*/seed=0/sft/starts")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    first.runner.stop.set()
    thread.join(20)
    study = search(place, body).run(1)
    stopped, done = study.trials
    assert (stopped.state, done.state) == (TrialState.FAIL, TrialState.COMPLETE) and stopped.params == done.params
    assert ended(study) == [done]
    [starts] = pathlib.Path("found").glob("*/seed=0/sft/starts")  # one directory for both
    assert len(starts.read_text()) == 2


def test_asha_stops_what_is_worse_at_a_rung(place):
    body = """
    SEEDS = (0,)
    def search(trial):
        rate = trial.suggest_float("rate", 0.01, 0.1)
        rate = (0.01, 0.5, 0.6, 0.7)[trial.number]  # from good to bad, so that the later ones are stopped
        return "arch=d", {"sft.optimizer.learning_rate": rate, "sft.optimizer.eps": 0.12, "sft.train.steps": 9}
    """
    study = search(place, body, "asha").run(4)
    states = [trial.state for trial in study.trials]
    assert states[0] == TrialState.COMPLETE and states[1:].count(TrialState.PRUNED) >= 2
    pruned = next(trial for trial in study.trials if trial.state == TrialState.PRUNED)
    assert 1 <= pruned.last_step < 9 and pruned.intermediate_values[pruned.last_step] < 0
    assert [run.state()["status"] for run in store.read_runs("found")[1]].count("pruned") >= 2


def test_failures_count_and_say_why(place):
    body = """
    SEEDS = (0,)
    def search(trial):
        number = trial.suggest_int("number", 0, 9) * 0 + trial.number
        return "arch=d", [{"sft.name": "broken"}, {"sft.train.stesp": 3}, {}][number]
    """
    study = search(place, body).run(3)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]
    assert "the loss is not finite" in study.trials[0].user_attrs["error"]
    assert "did you mean train.steps?" in study.trials[1].user_attrs["error"]


BROKEN = """
SEEDS = (0, 1)
def search(trial):
    trial.suggest_int("number", 0, 99)
    return "arch=d", {"sft.name": "broken" if trial.number in (0, 2) else "whole"}  # 2 is 0, tried again
"""


def test_a_failed_trial_is_tried_again_at_the_next_start_until_it_is_mended(place):
    first = search(place, BROKEN).run(2)
    assert [trial.number for trial in failed(first)] == [0] and len(ended(first)) == 2
    (place / "mended").touch()
    study = search(place, BROKEN).run(2)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert failed(study) == [] and len(ended(study)) == 2 and study.trials[2].params == study.trials[0].params
    [starts] = [p for p in pathlib.Path("found").glob("*/seed=0/sft/starts") if len(p.read_text()) == 2]
    assert starts.read_text() == "xx"  # it went on in its directory
    assert len(search(place, BROKEN).run(2).trials) == 3


def test_no_other_seed_is_trained_once_one_failed(place):
    [trial] = search(place, BROKEN).run(1).trials
    assert trial.state == TrialState.FAIL and "seed=0: sft: exit status 1" in trial.user_attrs["error"]
    assert len(list(pathlib.Path("found").glob("*/seed=0"))) == 1
    assert not list(pathlib.Path("found").glob("*/seed=1"))


@pytest.mark.parametrize("returned", ["{'train.steps': 1}", "'arch=d', {}, 3", "'arch=d', ['a']", "1 / 0"])
def test_what_search_may_not_return(place, returned):
    body = f"SEEDS = (0,)\ndef search(trial):\n    trial.suggest_int('n', 0, 9)\n    return {returned}"
    with pytest.raises(SweepError, match=r"find\.py.*: search\(trial\)"):
        search(place, body).run(1)
    fine = search(place, body.replace(returned, "'arch=d', {}")).run(1)
    assert [trial.state.name for trial in fine.trials] == ["FAIL", "COMPLETE"]
    assert fine.trials[0].params == fine.trials[1].params


def test_a_study_keeps_its_sampler_and_metric(place):
    search(place, TPE).run(1)
    with pytest.raises(SweepError, match="sampler: 'tpe' there, 'asha' now"):
        search(place, TPE, "asha").run(1)
    with pytest.raises(SweepError, match=r"metric: 'accuracy\.vision' there, 'loss' now"):
        search(place, TPE + "METRIC = 'loss'\n").run(1)
    (place / "found" / "sweep.json").unlink()
    for path in (place / "found").glob("*=*"):
        shutil.rmtree(path)
    shutil.rmtree(place / "found" / "stages")
    shutil.rmtree(place / "found" / ".jax_cache", ignore_errors=True)
    with pytest.raises(SweepError, match=r"study\.db: was begun with other settings.*\n.*metric: 'accuracy"):
        search(place, TPE + "METRIC = 'loss'\n").run(1)
    (place / "found" / "study.db").write_text("damaged")
    with pytest.raises(SweepError, match=r"study\.db: is no study"):
        search(place, TPE).run(1)


def test_a_budget_to_match_is_nothing_for_a_search(place):
    with pytest.raises(SweepError, match=r"MATCH = 'flops': trials come one by one"):
        search(place, TPE + "MATCH = 'flops'\n")


def test_a_file_without_search(place):
    with pytest.raises(SweepError, match=r"has no function search\(trial\)"):
        search(place, "def sweep(add):\n    add()")
