"""Search by Optuna over the runs that a sweep file's `search(trial)` describes:

    def search(trial):
        rate = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
        return "arch=x", {"pretrain.optimizer.learning_rate": rate}

`tpe` samples by TPE and runs every trial to its end; `asha` samples at random and stops the worse trials early
(asynchronous successive halving over the last stage's loss, of the first seed: another seed begins only where the one
before finished). The study is SQLite in the sweep's directory; trials that a kill interrupted or that failed are
enqueued again at the next start with the same values, and so go on from their checkpoints.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import optuna
from optuna.trial import Trial, TrialState

from nvlm_jax.config import to_mapping
from nvlm_jax.sweeps.record import value
from nvlm_jax.sweeps.runner import Pruned, Runner
from nvlm_jax.sweeps.store import FAILED, FINISHED, PRUNED, STUDY, Run, check_same, open_sweep, read_plan, read_runs
from nvlm_jax.sweeps.sweep_file import Sweep, SweepError, Variant, call, make_variant
from nvlm_jax.sweeps.variants import Check, resolve
from nvlm_jax.training.telemetry import METRICS, read_metrics

SEARCHES = ("tpe", "asha")
RUNGS = 9, 3  # the first rung is a 9th of the steps, the next the 3-fold
STEPS_OF_MEAN = 5  # whose mean loss is reported


@dataclasses.dataclass
class Search:
    """One study over one sweep file.

    Attributes:
        module: the sweep file.
        settings: its constants.
        root: the sweep's directory.
        how: one of SEARCHES.
        runner: runs the trials; its `watch` is set here.
        prepare: called with a sweep of one trial before it runs, to make its data.
        check: as for `variants.load`.
    """

    module: ModuleType
    settings: Sweep
    root: Path
    how: str
    runner: Runner
    prepare: Callable[[Sweep], None] = lambda sweep: None
    check: Check = lambda config: ()

    def __post_init__(self) -> None:
        if not callable(getattr(self.module, "search", None)):
            raise SweepError(f"{self.settings.path}: has no function search(trial), which --search needs")
        if self.settings.match != "none":
            raise SweepError(
                f"{self.settings.path}: MATCH = {self.settings.match!r}: trials come one by one and have no base to be "
                "matched with; leave it out, and let search(trial) set train.steps"
            )
        self.settings = dataclasses.replace(self.settings, kind="search")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._lock = threading.Lock()
        self._trials: dict[str, Trial] = {}  # label of a trial's first run -> the trial
        self._reported: dict[str, int] = {}
        self._variants: list[Variant] = []
        self.runner.watch = self._watch

    def open(self) -> optuna.Study:
        """The study, with interrupted and failed trials enqueued again.

        Raises:
            SweepError: it, or the directory, is of another sweep, sampler or metric.
        """
        sampler = optuna.samplers.TPESampler(seed=0) if self.how == "tpe" else optuna.samplers.RandomSampler(seed=0)
        name, file = self.settings.name, self.root / STUDY
        storage = f"sqlite:///{file}"
        try:
            others = [other for other in optuna.get_all_study_names(storage) if other != name]
        except Exception as error:  # of SQLAlchemy
            raise SweepError(f"{file}: is no study ({error}); restore it, or use another --workdir") from error
        if others:
            raise SweepError(f"{file}: is of the search {others[0]!r}, not {name!r}; use another --workdir")
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            direction="maximize",
            sampler=sampler,
            pruner=optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        self._check_study(study)
        if self.how == "asha":
            study.pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=RUNGS[1])
        if study.get_trials(deepcopy=False):
            sampler.reseed_rng()  # else a resumed study would draw its first trials again
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
            self._again(study, trial.number)
        for trial in failed(study):
            self._again(study, trial.number)
        return study

    def run(self, trials: int) -> optuna.Study:
        """Run until the study has so many trials that ended, stopped early and failed ones among them.

        One process at a time; what is enqueued is run in any case. Raises as `open`.
        """
        check_same(self.settings, self.root)
        self.root.mkdir(parents=True, exist_ok=True)
        with self.runner.lock(self.root / f"{STUDY}.lock", "search"):
            study = self.open()
            waiting = len(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
            left = max(trials - len(ended(study)), waiting)
            with ThreadPoolExecutor(self.runner.parallel) as pool:
                list(pool.map(lambda _: self._one(study), range(left)))
        return study

    def _check_study(self, study: optuna.Study) -> None:
        """A study keeps its sampler, and its metric once a trial has a number of it: other values do not compare."""
        now = {"sampler": self.how, "metric": self.settings.metric}
        kept = now if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) else ("sampler",)
        faults = [
            f"{key}: {study.user_attrs[key]!r} there, {now[key]!r} now"
            for key in kept
            if study.user_attrs.get(key, now[key]) != now[key]
        ]
        if faults:
            raise SweepError(
                f"{self.root / STUDY}: was begun with other settings (--search, METRIC):\n  "
                + "\n  ".join(faults)
                + "\nUse another --workdir, or set them back."
            )
        for key, setting in now.items():
            study.set_user_attr(key, setting)

    def _one(self, study: optuna.Study) -> None:
        if self.runner.stop.is_set():
            return
        with self._lock:
            trial = study.ask()
            try:
                asked = self._asked(trial)
                try:
                    runs = self._runs(trial, resolve(self.module, self.settings, [asked], self.check)[0])
                except SweepError as error:  # of these values alone
                    self.runner.say(f"trial {trial.number}: {error}")
                    return self._fail(study, trial, str(error))
            except Exception:  # of the file or its data, and so of all trials
                study.tell(trial, state=TrialState.FAIL)
                self._again(study, trial.number)
                raise
        for run in runs:
            status = self.runner.run(run)
            if status != FINISHED:
                break
        if status == FINISHED:
            self._score(study, trial, runs)
        elif status == PRUNED:
            study.tell(trial, state=TrialState.PRUNED)
        elif status == FAILED:
            self._fail(study, trial, f"{run.label}: {run.state().get('error', '')}")
        # Stopped: the trial stays RUNNING, which the next start takes up.

    def _score(self, study: optuna.Study, trial: Trial, runs: Sequence[Run]) -> None:
        try:
            scores = [value(run.results(), self.settings.metric) for run in runs]
        except SweepError as error:
            return self._fail(study, trial, str(error))
        if None in scores:  # finished before METRIC was changed
            return self._fail(study, trial, f"METRIC: results.json has no number {self.settings.metric!r}")
        study.tell(trial, statistics.fmean(scores))

    def _again(self, study: optuna.Study, number: int) -> None:
        """Enqueue a trial's values, those among them that it was itself enqueued with and had not asked for yet."""
        trial = study.get_trials(deepcopy=False)[number]
        params = trial.system_attrs.get("fixed_params", {}) | trial.params
        study.enqueue_trial(params, user_attrs={"again": number})

    def _fail(self, study: optuna.Study, trial: Trial, error: str) -> None:
        trial.set_user_attr("error", error)
        study.tell(trial, state=TrialState.FAIL)

    def _asked(self, trial: Trial) -> Variant:
        found = call(self.settings.path, "search(trial)", self.module.search, trial)
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            raise SweepError(
                f"{self.settings.path}: search(trial) returned {found!r}; the argument of get_config and the changes, "
                "such as ('arch=x', {'train.steps': 100}), would be right"
            )
        name = ",".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.params.items())
        asked = call(self.settings.path, "search(trial)", make_variant, name, *found, self.settings.seeds)
        whole = [trial.params, asked.argument, to_mapping(dict(asked.changes))]
        exact = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:6]
        return dataclasses.replace(asked, name=f"{name}-{exact}")

    def _runs(self, trial: Trial, variant: Variant) -> list[Run]:
        known = {v.name: v for v in self._known()}
        base = next(iter(known), variant.name)
        variant = dataclasses.replace(variant, base=variant.name == base)
        variants = list((known | {variant.name: variant}).values())
        sweep = dataclasses.replace(self.settings, variants=tuple(variants))
        open_sweep(sweep, self.root)
        self._variants = variants
        self.runner.plan = read_plan(self.root)
        self.prepare(sweep)
        trial.set_user_attr("variant", variant.name)
        runs = [Run(variant, seed, self.root) for seed in variant.seeds]
        self._trials[runs[0].label] = trial
        return runs

    def _known(self) -> Sequence[Variant]:
        if not self._variants and (self.root / "sweep.json").exists():
            self._variants = list({run.variant.name: run.variant for run in read_runs(self.root)[1]}.values())
        return self._variants

    def _watch(self, run: Run, stage: str) -> None:
        trial, metrics = self._trials.get(run.label), run.workdir(stage) / METRICS
        if self.how != "asha" or trial is None or stage != list(run.stages)[-1] or not metrics.exists():
            return
        rows = read_metrics(run.workdir(stage))
        first = max(1, run.stages[stage].train.steps // RUNGS[0])
        rung = (rows[-1]["step"] if rows else 0) // first
        if rung > self._reported.get(run.label, 0):
            self._reported[run.label] = rung
            losses = [row["loss"] for row in rows if row["step"] <= rung * first][-STEPS_OF_MEAN:]
            trial.report(-statistics.fmean(losses), rung)
            if trial.should_prune():
                raise Pruned


def ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that count: completed, stopped early, or failed by themselves and not tried again."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return trials + failed(study)


def failed(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that failed by themselves, and that no later trial tries again."""
    trials = study.get_trials(deepcopy=False)
    again = {trial.user_attrs.get("again") for trial in trials}
    return [t for t in trials if t.state == TrialState.FAIL and "error" in t.user_attrs and t.number not in again]
