"""Search by Optuna over the runs that a sweep file's `search(trial)` describes:

    def search(trial):
        rate = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
        return "arch=x", {"pretrain.optimizer.learning_rate": rate}

`tpe` samples by TPE and runs every trial to its end; `asha` samples at random and stops the worse trials early
(asynchronous successive halving over the last stage's loss). The study is SQLite in the sweep's directory; trials that
a kill interrupted are enqueued again with the same values, and so go on from their checkpoints.
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

from nvlm_jax.sweeps.record import value
from nvlm_jax.sweeps.runner import Pruned, Runner
from nvlm_jax.sweeps.store import FAILED, FINISHED, PRUNED, STUDY, Run, open_sweep, read_plan, read_runs
from nvlm_jax.sweeps.variants import Sweep, SweepError, Variant, resolve
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
    """

    module: ModuleType
    settings: Sweep
    root: Path
    how: str
    runner: Runner
    prepare: Callable[[Sweep], None] = lambda sweep: None

    def __post_init__(self) -> None:
        if not callable(getattr(self.module, "search", None)):
            raise SweepError(f"{self.settings.path}: has no function search(trial), which --search needs")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._lock = threading.Lock()
        self._trials: dict[str, Trial] = {}  # run's label -> the trial that it belongs to
        self._reported: dict[str, int] = {}
        self._variants: list[Variant] = []
        self.runner.watch = self._watch

    def open(self) -> optuna.Study:
        """The study, with interrupted trials enqueued again."""
        self.root.mkdir(parents=True, exist_ok=True)
        sampler = optuna.samplers.TPESampler(seed=0) if self.how == "tpe" else optuna.samplers.RandomSampler(seed=0)
        study = optuna.create_study(
            study_name=self.settings.name,
            storage=f"sqlite:///{self.root / STUDY}",
            direction="maximize",
            sampler=sampler,
            pruner=optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        if self.how == "asha":
            study.pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=RUNGS[1])
        if study.get_trials(deepcopy=False):
            sampler.reseed_rng()  # else a resumed study would draw its first trials again
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params, user_attrs={"again": trial.number})
        return study

    def run(self, trials: int) -> optuna.Study:
        """Run until the study has so many trials that ended, stopped early and failed ones among them."""
        study = self.open()
        left = trials - len(ended(study))
        with ThreadPoolExecutor(self.runner.parallel) as pool:
            list(pool.map(lambda _: self._one(study), range(max(left, 0))))
        return study

    def _one(self, study: optuna.Study) -> None:
        if self.runner.stop.is_set():
            return
        with self._lock:
            trial = study.ask()
            try:
                variant = self._variant(trial)
            except SweepError as error:
                self.runner.say(f"trial {trial.number}: {error}")
                trial.set_user_attr("error", str(error))
                study.tell(trial, state=TrialState.FAIL)
                return
            runs = self._runs(trial, variant)  # raises, for all trials, where the directory is of another sweep
        statuses = [self.runner.run(run) for run in runs]
        if all(status == FINISHED for status in statuses):
            scores = [value(run.results(), self.settings.metric) for run in runs]
            if None in scores:
                raise SweepError(f"METRIC: results.json has no number {self.settings.metric!r}")
            study.tell(trial, statistics.fmean(scores))
        elif PRUNED in statuses:
            study.tell(trial, state=TrialState.PRUNED)
        elif FAILED in statuses:
            trial.set_user_attr("error", next(run.state().get("error", "") for run in runs))
            study.tell(trial, state=TrialState.FAIL)
        # Stopped: the trial stays RUNNING, which the next start takes up.

    def _variant(self, trial: Trial) -> Variant:
        argument, changes = self.module.search(trial)
        name = ",".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.params.items())
        exact = hashlib.sha256(json.dumps(trial.params, sort_keys=True).encode()).hexdigest()[:6]
        asked = Variant(f"{name}-{exact}", argument, dict(changes), self.settings.seeds)
        return resolve(self.module, self.settings, [asked])[0]

    def _runs(self, trial: Trial, variant: Variant) -> list[Run]:
        known = {v.name: v for v in self._known()}
        base = next(iter(known), variant.name)
        variant = dataclasses.replace(variant, base=variant.name == base)
        self._variants = list((known | {variant.name: variant}).values())
        sweep = dataclasses.replace(self.settings, variants=tuple(self._variants))
        open_sweep(sweep, self.root)
        self.runner.plan = read_plan(self.root)
        self.prepare(sweep)
        trial.set_user_attr("variant", variant.name)
        runs = [Run(variant, seed, self.root) for seed in variant.seeds]
        self._trials |= {run.label: trial for run in runs}
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
    """Trials that count: completed, stopped early, or failed by themselves."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return [t for t in trials if t.state != TrialState.FAIL or "error" in t.user_attrs]
