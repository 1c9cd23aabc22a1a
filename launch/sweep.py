"""Run a sweep: many variants of one config, each trained and evaluated by the commands of a single run.

    python -m launch.sweep --config=configs/sweeps/smoke.py --workdir=runs/smoke [--parallel=2] [--dry_run]
    python -m launch.sweep --config=... --workdir=... --dry_run --topology=v5p:4x4x8    # and chip-hours
    python -m launch.sweep --status=runs/smoke
    python -m launch.sweep --config=... --workdir=... --search=tpe --trials=20

Prints the plan first: variants, differences from the base, parameters, FLOPs. Stop it (Ctrl-C) or kill it and run it
again: what is finished stays, what broke or was cut goes on. One failure does not stop the others. `launch.report`
makes the report; `tensorboard --logdir=WORKDIR` has an HParams tab. --backend=slurm and gke write a job array or a
JobSet of the same runs and hand it to the cluster; with --dry_run they only write it.
"""

from __future__ import annotations

import pathlib
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from absl import app, flags, logging
from optuna.trial import TrialState

from configs import locate
from data_pipelines.loader import samples_per_step
from launch import sweep_data
from launch.command import run_command
from nvlm_jax import json_text
from nvlm_jax.config import ConfigError
from nvlm_jax.planning import search as planning
from nvlm_jax.planning.chips import Chip
from nvlm_jax.planning.compile import planned_devices
from nvlm_jax.sweeps import budgets, cluster, store, sweep_file, tables, variants
from nvlm_jax.sweeps.runner import Runner
from nvlm_jax.sweeps.search import SEARCHES, Search, ended, failed
from nvlm_jax.terminal import print_tables
from nvlm_jax.training.run_data import RunData

CONFIG = flags.DEFINE_string("config", None, "a sweep file such as configs/sweeps/smoke.py")
WORKDIR = flags.DEFINE_string("workdir", None, "directory of the sweep")
STATUS = flags.DEFINE_string("status", None, "a sweep's directory, to see where it stands")
BACKEND = flags.DEFINE_enum("backend", "local", ("local", *cluster.TEMPLATES), "where the runs are processes")
PARALLEL = flags.DEFINE_integer(
    "parallel", 0, "runs at a time; 0 = one for each of --devices, or one here, and all on a cluster", lower_bound=0
)
DEVICES = flags.DEFINE_list("devices", [], "values of CUDA_VISIBLE_DEVICES that parallel runs take in turn")
DRY = flags.DEFINE_bool("dry_run", False, "print the plan (and write the cluster's file), run nothing")
TOPOLOGY = flags.DEFINE_string("topology", "", "with --dry_run: a slice such as v5p:4x4x8, to plan chip-hours for")
MATCH = flags.DEFINE_enum("match", None, sweep_file.MATCHES, "what variants share; default: the file's MATCH")
SCALE = flags.DEFINE_float("steps_scale", 1.0, "times the steps of each stage, for a trial", lower_bound=0.0001)
ONLY = flags.DEFINE_integer("only", None, "run this one of the plan's runs, counted from 0", lower_bound=0)
SEARCH = flags.DEFINE_enum("search", None, SEARCHES, "let Optuna choose what search(trial) of the file suggests")
TRIALS = flags.DEFINE_integer("trials", 20, "of the search, earlier ones included", lower_bound=1)
ACCEPT = flags.DEFINE_bool("accept_data", False, "go on though a dataset has changed since the sweep began; recorded")
OPTIONS = flags.DEFINE_string("cluster", None, "YAML file with the cluster's options; see docs/sweeps.md")

CLUSTER = {
    "python": "python",
    "root": ".",
    "sbatch": [],
    "image": "nvlm-jax",
    "accelerators": {},
    "selector": {},
    "mount": "/runs",
    "claim": "runs",
}


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option is a flag, --name=value")
    logging.set_verbosity(logging.WARNING)
    if STATUS.value:
        print_tables(tables.status_table(*store.read_runs(STATUS.value)))
        return
    if not (CONFIG.value and WORKDIR.value):
        raise app.UsageError("--config and --workdir are needed (or --status=WORKDIR)")
    if TOPOLOGY.value and (SEARCH.value or not DRY.value):
        raise app.UsageError("--topology plans alone: add --dry_run (and no --search)")
    failed = search() if SEARCH.value else sweep()
    if failed:
        sys.exit(f"{len(failed)} failed; run the same command again to go on with them")


def sweep() -> Sequence[str]:
    """Plan and run a file's `sweep(add)`; labels of failed runs."""
    slice_ = planned_devices(TOPOLOGY.value) if TOPOLOGY.value else None  # before anything else uses JAX
    elsewhere = BACKEND.value != "local" or slice_ is not None  # the files may be on other machines alone
    plan = variants.load(locate(CONFIG.value), (lambda config: ()) if elsewhere else sweep_data.file_faults)
    plan = budgets.scaled(plan, SCALE.value)
    how = MATCH.value or plan.match
    if not elsewhere:
        sweep_data.check_evaluations(plan)
    if how == "samples":
        sweep_data.prepare(plan)
        sweep_data.check_rows(plan)
    plan = store.known_names(budgets.match(plan, how, samples_per_step), WORKDIR.value)
    print_tables(tables.plan_table(plan, chip_hours(plan, *slice_) if slice_ else None))
    if BACKEND.value != "local":
        submit(plan)
        return ()
    if DRY.value:
        return ()
    runs = store.runs_of(plan, WORKDIR.value)
    store.check_same(plan, WORKDIR.value)
    if ONLY.value is not None:
        if ONLY.value >= len(runs):
            raise sweep_file.SweepError(f"--only={ONLY.value}: the plan has runs 0 to {len(runs) - 1}")
        runs = runs[ONLY.value : ONLY.value + 1]
    sweep_data.prepare(plan)
    if ONLY.value is None:  # a task of a cluster learns it from its own run
        sweep_data.check_rows(plan)
    store.open_sweep(plan, WORKDIR.value, RunData(sweep_data.fingerprints(plan), ACCEPT.value))
    runner = make_runner()
    statuses = runner.run_all(runs)
    texts = dict(tables.failures(runs))
    failures = {label: texts.get(label, "") for label, status in statuses.items() if status == store.FAILED}
    return report(runner, failures, runs)


def chip_hours(plan: sweep_file.Sweep, chip: Chip, devices: list[Any]) -> dict[str, float]:
    """Of one seed of each variant, counted by hand as `launch.plan --search` does before it compiles.

    Raises:
        SweepError: a stage that no mesh of these devices holds or divides.
    """
    found = {}
    for variant in plan.variants:
        try:
            stages = variant.stages.values()
            found[variant.name] = sum(planning.chip_hours(config, chip, devices) for config in stages)
        except ConfigError as error:
            raise sweep_file.SweepError(f"--topology={TOPOLOGY.value}: {variant.name}: {error}") from error
    return found


def search() -> Sequence[str]:
    """Run a file's `search(trial)` by Optuna; labels of failed runs."""
    module = sweep_file.load_module(locate(CONFIG.value))
    settings = sweep_file.read_settings(module, locate(CONFIG.value))
    if BACKEND.value != "local" or DRY.value:
        raise sweep_file.SweepError("--search: runs here (--backend=local), and has no plan to print before it")
    check_no_plan()
    sweep_data.check_evaluations(settings)
    runner = make_runner()
    data = (sweep_data.prepare, sweep_data.file_faults)
    found = Search(module, settings, pathlib.Path(WORKDIR.value), SEARCH.value, runner, *data).run(TRIALS.value)
    done = found.get_trials(states=(TrialState.COMPLETE,))
    print(f"{len(ended(found))} of {TRIALS.value} trials ended, {len(done)} of them with a score")
    if done:
        print(f"best: {settings.metric} {found.best_value:.4g} with {found.best_params}")
    return report(runner, {f"trial {trial.number}": trial.user_attrs["error"] for trial in failed(found)})


def check_no_plan() -> None:
    """Raise SweepError for flags of a planned sweep that a search cannot follow."""
    instead = {
        "match": (MATCH.value, "trials come one by one and have no base; let search(trial) set train.steps"),
        "steps_scale": (SCALE.value if SCALE.value != 1.0 else None, "let get_config or search(trial) set train.steps"),
        "only": (ONLY.value, "trials have no numbers before they begin; --trials says how many"),
    }
    if faults := [f"--{name}={value}: {text}" for name, (value, text) in instead.items() if value is not None]:
        raise sweep_file.SweepError("--search does not go with these:\n  " + "\n  ".join(faults))


def make_runner() -> Runner:
    """The runner on this machine; SIGINT and SIGTERM let its runs save and stop."""
    plan: Mapping[str, Any] = {}
    if (pathlib.Path(WORKDIR.value) / store.PLAN).exists():
        plan = store.read_plan(WORKDIR.value)
    parallel = PARALLEL.value or len(DEVICES.value) or 1
    more = ("--accept_data=true",) if ACCEPT.value else ()
    runner = Runner(plan, parallel, DEVICES.value, say=lambda line: print(line, flush=True), train_flags=more)

    def stop(number: int, _: Any) -> None:
        runner.stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return runner


def report(runner: Runner, failures: Mapping[str, str], runs: Sequence[store.Run] | None = None) -> Sequence[str]:
    """Say how it ended, of all the plan's runs unless they are named; labels of what failed. Exits if stopped."""
    for label, text in failures.items():
        print(f"\n{label} failed:\n{text}")
    if store.find_plan(WORKDIR.value) is not None:  # a search whose trials were all invalid has none
        plan, planned = store.read_runs(WORKDIR.value)
        print_tables(tables.status_table(plan, planned if runs is None else runs))
    if runner.stop.is_set():
        sys.exit("stopped, and what ran has saved; the same command goes on")
    return list(failures)


def read_options() -> dict[str, Any]:
    """The options of --cluster."""
    try:
        given = yaml.safe_load(json_text.read_text(OPTIONS.value))
    except (OSError, json_text.JsonError, yaml.YAMLError, RecursionError) as error:
        text = " ".join(str(error).split())  # YAML's tells the place in three lines
        raise sweep_file.SweepError(f"--cluster={OPTIONS.value}: cannot be read: {text}") from error
    if not isinstance(given, dict):
        raise sweep_file.SweepError(f"--cluster={OPTIONS.value}: holds no `option: value` lines; see docs/sweeps.md")
    return given


def submit(plan: sweep_file.Sweep) -> None:
    """Write the cluster's file and hand it over."""
    given = read_options() if OPTIONS.value else {}
    if unknown := sorted(set(given) - set(CLUSTER)):
        raise sweep_file.SweepError(f"--cluster: no option {', '.join(unknown)}; there are {', '.join(CLUSTER)}")
    root = pathlib.Path(WORKDIR.value)
    store.open_sweep(plan, root)
    options = CLUSTER | given | {"parallel": PARALLEL.value, "workdir": WORKDIR.value}
    arguments = [f"--config={CONFIG.value}", f"--workdir={WORKDIR.value}", f"--match={plan.match}"]
    arguments += [f"--steps_scale={SCALE.value}"] if SCALE.value != 1.0 else []
    runs = store.runs_of(plan, root)
    path = root / ("sweep.sbatch" if BACKEND.value == "slurm" else "sweep.yaml")
    path.write_text(cluster.render(BACKEND.value, plan.name, arguments, len(runs), options))
    print(path)
    if not DRY.value:
        sweep_data.prepare(plan)  # before tasks that would all do it at once
        print(cluster.submit(BACKEND.value, path))


if __name__ == "__main__":
    run_command(main)
