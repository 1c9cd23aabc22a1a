"""The directory of a sweep.

sweep.json                       the plan: every variant's settings, differences from the base, hashes
study.db                         Optuna's study, for a search
stages/STAGE-HASH/               workdirs of all stages but the last: variants that agree on them share them
VARIANT/seed=N/                  one run
    STAGE.json                   resolved config of each stage, as launch.train is given it
    STAGE/                       workdir of the last stage
    EVALUATION/                  what launch.evaluate wrote
    log.txt, state.json          what its processes printed; where it stands
    results.json                 written last: settings, cost, scores
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import socket
import time
from collections.abc import Mapping
from typing import Any

from nvlm_jax.config import RunConfig, from_mapping, to_mapping
from nvlm_jax.sweeps.budgets import planned_flops
from nvlm_jax.sweeps.variants import CHAIN, Sweep, SweepError, Variant, differences, digest, settings_table
from nvlm_jax.training.steps import saved_steps
from nvlm_jax.training.workdir import differences as lines_of_differences
from nvlm_jax.training.workdir import write_atomically

PLAN, STATE, RESULTS, LOG, STUDY = "sweep.json", "state.json", "results.json", "log.txt", "study.db"
FINISHED, FAILED, RUNNING, STOPPED, WAITING, PRUNED = (
    "finished", "failed", "running", "stopped", "waiting", "pruned"
)  # fmt: skip
SILENCE = 900.0  # seconds without a line after which a process of another host counts as gone


@dataclasses.dataclass(frozen=True)
class Run:
    """One variant with one seed, and where it lies."""

    variant: Variant
    seed: int
    root: pathlib.Path

    @property
    def label(self) -> str:
        return f"{self.variant.name}/seed={self.seed}"

    @property
    def path(self) -> pathlib.Path:
        return self.root / self.variant.name / f"seed={self.seed}"

    @property
    def stages(self) -> dict[str, RunConfig]:
        """The stages as launch.train is to run them: each begins from the workdir of the one before."""
        configs, found, before = self.variant.seeded(self.seed), {}, None
        for stage, config in configs.items():
            if before is not None and config.init.checkpoint == CHAIN:
                init = dataclasses.replace(config.init, checkpoint=str(before))
                config = dataclasses.replace(config, init=init)
            found[stage], before = config, self.workdir(stage)
        return found

    def workdir(self, stage: str) -> pathlib.Path:
        """Of the last stage inside the run, of an earlier one by what it computes."""
        configs = self.variant.seeded(self.seed)
        order = list(configs)
        if stage == order[-1]:
            return self.path / stage
        chain = {name: configs[name] for name in order[: order.index(stage) + 1]}
        return self.root / "stages" / f"{stage}-{digest(chain)}"

    def write_configs(self) -> None:
        """STAGE.json of each stage."""
        self.path.mkdir(parents=True, exist_ok=True)
        for stage, config in self.stages.items():
            write_atomically(self.path / f"{stage}.json", json.dumps(to_mapping(config), indent=1) + "\n")

    def is_trained(self, stage: str) -> bool:
        """Whether the stage's last step is saved."""
        return self.stages[stage].train.steps in saved_steps(self.workdir(stage))

    def state(self) -> dict[str, Any]:
        """`status`, and what else is known: `stage`, `seconds` by stage, `error`."""
        state = _read(self.path / STATE) or {"status": WAITING}
        if (self.path / RESULTS).exists():
            return state | {"status": FINISHED}
        if state["status"] == FINISHED or (state["status"] == RUNNING and not self._alive(state)):
            return state | {"status": STOPPED}
        return state

    def note(self, **changes: Any) -> None:
        """Change the state."""
        self.path.mkdir(parents=True, exist_ok=True)
        here = {"pid": os.getpid(), "host": socket.gethostname(), "time": round(time.time(), 1)}
        state = (_read(self.path / STATE) or {}) | changes | here
        write_atomically(self.path / STATE, json.dumps(state, indent=1) + "\n")

    def _alive(self, state: Mapping[str, Any]) -> bool:
        """Whether the process that said it runs this still does; of another host's, whether it wrote lately."""
        if state.get("host") != socket.gethostname():
            return time.time() - max(_written(self.path / LOG), state.get("time", 0)) < SILENCE
        try:
            os.kill(state["pid"], 0)
        except (OSError, KeyError):
            return False
        return True

    def results(self) -> dict[str, Any] | None:
        """What stands in results.json; None where it is not finished."""
        return _read(self.path / RESULTS)

    def log_tail(self, lines: int = 12) -> str:
        """The last lines that its processes printed."""
        file = self.path / LOG
        return "\n".join(file.read_text(errors="replace").splitlines()[-lines:]) if file.exists() else ""


def runs_of(sweep: Sweep, root: str | pathlib.Path) -> list[Run]:
    """Every variant with every seed, in order, seed by seed so that comparisons are complete early."""
    root = pathlib.Path(root)
    seeds = list(dict.fromkeys(seed for variant in sweep.variants for seed in variant.seeds))
    return [Run(v, seed, root) for seed in seeds for v in sweep.variants if seed in v.seeds]


def known_names(sweep: Sweep, root: str | pathlib.Path) -> Sweep:
    """The sweep with its variants' names in the directory: a variant that is added later changes no other's name."""
    plan = _read(pathlib.Path(root) / PLAN) or {"variants": {}}
    names = {record["config_hash"]: name for name, record in plan["variants"].items()}
    variants = (dataclasses.replace(v, name=names.get(digest(v.seeded(0)), v.name)) for v in sweep.variants)
    return dataclasses.replace(sweep, variants=tuple(variants))


def open_sweep(sweep: Sweep, root: str | pathlib.Path) -> None:
    """Write the plan, or check that the one there is of this sweep.

    Raises:
        SweepError: the directory belongs to another sweep, or one of its variants was run with another configuration;
            nothing is changed then.
    """
    root = pathlib.Path(root)
    found = _read(root / PLAN)
    if found is None and root.is_dir() and any(not path.name.startswith((STUDY, PLAN)) for path in root.iterdir()):
        raise SweepError(f"{root}: is not empty and has no {PLAN}; use another --workdir")
    if found is not None:
        _check_same(sweep, root, found)
    root.mkdir(parents=True, exist_ok=True)
    kept = {} if found is None else found["variants"]
    own = records_of(sweep)
    # Variants that the file no longer has stay on record: their results are still there.
    gone = {name: record | {"gone": True} for name, record in kept.items() if name not in own}
    plan = json.loads(json.dumps(settings_of(sweep) | {"variants": own | gone}))
    if plan != found:  # tasks of a cluster that start together find it written
        write_atomically(root / PLAN, json.dumps(plan, indent=1) + "\n")


def settings_of(sweep: Sweep) -> dict[str, Any]:
    """The sweep without its variants."""
    return {
        "name": sweep.name,
        "config": sweep.path,
        "doc": sweep.doc,
        "stages": list(sweep.stages),
        "evaluations": {name: dict(flags) for name, flags in sweep.evaluations.items()},
        "match": sweep.match,
        "metric": sweep.metric,
        "claim": sweep.claim,
        "scale": sweep.scale,
    }


def records_of(sweep: Sweep) -> dict[str, dict[str, Any]]:
    """Each variant in sweep.json: its settings beside the others', its differences from the base, cost and configs."""
    found = {}
    for variant, settings in zip(sweep.variants, settings_table(sweep.variants), strict=True):
        changed = differences(sweep.base, variant)
        found[variant.name] = {
            "argument": variant.argument,
            "changes": to_mapping(dict(variant.changes)),
            "settings": {key: to_mapping(value) for key, value in settings.items()},
            "seeds": list(variant.seeds),
            "base": variant.base,
            "config_hash": digest(variant.seeded(0)),
            "flops": planned_flops(variant),
            "steps": {stage: config.train.steps for stage, config in variant.stages.items()},
            "differences": {key: list(pair) for key, pair in changed.items()},
            "stages": {stage: to_mapping(config) for stage, config in variant.seeded(0).items()},
        }
    return found


def read_plan(root: str | pathlib.Path) -> dict[str, Any]:
    """sweep.json.

    Raises:
        SweepError: there is none.
    """
    found = _read(pathlib.Path(root) / PLAN)
    if found is None:
        raise SweepError(f"{root}: no {PLAN} there; expected the --workdir of launch.sweep")
    return found


def read_runs(root: str | pathlib.Path) -> tuple[dict[str, Any], list[Run]]:
    """The plan and every run that it names, from the directory alone."""
    root = pathlib.Path(root)
    plan = read_plan(root)
    runs = []
    for name, record in plan["variants"].items():
        stages = {stage: from_mapping(RunConfig, config) for stage, config in record["stages"].items()}
        variant = Variant(name, record["argument"], record["changes"], tuple(record["seeds"]), record["base"], stages)
        runs += [Run(variant, seed, root) for seed in variant.seeds if not record.get("gone")]
    return plan, runs


def _check_same(sweep: Sweep, root: pathlib.Path, found: Mapping[str, Any]) -> None:
    if found.get("name") != sweep.name:
        raise SweepError(
            f"{root}: belongs to the sweep {found.get('name')!r}, not {sweep.name!r}; use another --workdir"
        )
    faults = []
    now, then = settings_of(sweep), found
    for key in ("stages", "evaluations"):
        faults += [f"{key}: {line}" for line in lines_of_differences(then[key], now[key])]
    for variant in sweep.variants:
        record = found["variants"].get(variant.name)
        if record and record["config_hash"] != digest(variant.seeded(0)):
            stages = {stage: to_mapping(config) for stage, config in variant.seeded(0).items()}
            lines = lines_of_differences(record["stages"], json.loads(json.dumps(stages)))
            faults += [f"variant {variant.name}: {line}" for line in lines]
    if faults:
        raise SweepError(
            f"{root}: was begun with other settings:\n  " + "\n  ".join(faults) + "\nUse another --workdir, or set "
            "these back. Variants and seeds may be added."
        )


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def _written(path: pathlib.Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0
