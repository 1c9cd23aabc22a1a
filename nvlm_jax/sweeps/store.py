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

from nvlm_jax import json_text
from nvlm_jax.config import ConfigError, RunConfig, from_mapping, to_mapping
from nvlm_jax.sweeps.budgets import planned_flops
from nvlm_jax.sweeps.data import data_of_sweep
from nvlm_jax.sweeps.sweep_file import Sweep, SweepError, Variant
from nvlm_jax.sweeps.variants import CHAIN, differences, digest, settings_table
from nvlm_jax.training.run_data import RunData
from nvlm_jax.training.steps import saved_steps
from nvlm_jax.training.workdir import differences as lines_of_differences
from nvlm_jax.training.workdir import write_atomically

PLAN, STATE, RESULTS, LOG, STUDY = "sweep.json", "state.json", "results.json", "log.txt", "study.db"
FINISHED, FAILED, RUNNING, STOPPED, WAITING, PRUNED, DAMAGED = (
    "finished", "failed", "running", "stopped", "waiting", "pruned", "damaged"
)  # fmt: skip
PLAN_KEYS = ("name", "stages", "evaluations", "metric", "variants")
MEND_PLAN = "restore it, or use another --workdir"
MEND_STATE = "remove it: it says no more than where the run stands"
RESULT_KEYS = ("variant", "seed", "loss")  # of every results.json
MEND_RESULTS = "remove it, and the next start writes it again"
NAMED = 3  # variants that a message shows
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
        """`status`, and what else is known: `stage`, `seconds` by stage, `error`.

        Failed where state.json is damaged, damaged where results.json is: the next start writes that again.
        """
        try:
            state = {"status": WAITING} | (_read(self.path / STATE, MEND_STATE) or {})
        except SweepError as error:
            state = {"status": FAILED, "error": str(error)}
        try:
            if self.results() is not None:
                return state | {"status": FINISHED}
        except SweepError as error:
            return state | {"status": DAMAGED, "error": str(error)}
        if state["status"] == FINISHED or (state["status"] == RUNNING and not self._alive(state)):
            return state | {"status": STOPPED}
        return state

    def note(self, **changes: Any) -> None:
        """Change the state."""
        self.path.mkdir(parents=True, exist_ok=True)
        here = {"pid": os.getpid(), "host": socket.gethostname(), "time": round(time.time(), 1)}
        state = (_read(self.path / STATE, MEND_STATE) or {}) | changes | here
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
        """What stands in results.json; None where it is not finished. Raises SweepError where it is damaged."""
        found = _read(self.path / RESULTS, MEND_RESULTS)
        if found is not None and (missing := [key for key in RESULT_KEYS if key not in found]):
            raise SweepError(f"{self.path / RESULTS}: lacks {', '.join(missing)}; {MEND_RESULTS}")
        return found

    def whole_results(self) -> dict[str, Any] | None:
        """`results`; None where they are damaged, too, so that one file ends no table of all runs."""
        return self.results() if self.state()["status"] == FINISHED else None

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
    plan = find_plan(root) or {"variants": {}}
    names = {record["config_hash"]: name for name, record in plan["variants"].items()}
    variants = (dataclasses.replace(v, name=names.get(digest(v.seeded(0)), v.name)) for v in sweep.variants)
    return dataclasses.replace(sweep, variants=tuple(variants))


def open_sweep(sweep: Sweep, root: str | pathlib.Path, data: RunData | None = None) -> None:
    """Write the plan, or check that the one there is of this sweep and was begun on this data.

    Raises:
        SweepError: as `check_same`, or a dataset has changed since and that was not accepted; nothing is changed then.
    """
    root = pathlib.Path(root)
    check_same(sweep, root)
    found = find_plan(root)
    root.mkdir(parents=True, exist_ok=True)
    kept = {} if found is None else found["variants"]
    own = records_of(sweep)
    # Variants that the file no longer has stay on record: their results are still there.
    gone = {name: record | {"gone": True} for name, record in kept.items() if name not in own}
    known = data_of_sweep(root, {} if found is None else found, data, lambda: _all_finished(sweep, root))
    plan = json.loads(json.dumps(settings_of(sweep) | known | {"variants": own | gone}))
    if plan != found:  # tasks of a cluster that start together find it written
        write_atomically(root / PLAN, json.dumps(plan, indent=1) + "\n")


def _all_finished(sweep: Sweep, root: pathlib.Path) -> bool:
    return all(run.state()["status"] == FINISHED for run in runs_of(sweep, root))


def settings_of(sweep: Sweep) -> dict[str, Any]:
    """The sweep without its variants."""
    return {
        "name": sweep.name,
        "kind": sweep.kind,
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
        SweepError: there is none, or it is damaged.
    """
    found = find_plan(root)
    if found is None:
        raise SweepError(f"{root}: no {PLAN} there; expected the --workdir of launch.sweep")
    return found


def find_plan(root: str | pathlib.Path) -> dict[str, Any] | None:
    """sweep.json; None where there is none.

    Raises:
        SweepError: it is damaged, or `root` is a file.
    """
    path = pathlib.Path(root) / PLAN
    found = _read(path, MEND_PLAN)
    if found is not None and (missing := [key for key in PLAN_KEYS if key not in found]):
        raise SweepError(f"{path}: is no plan of a sweep, for it lacks {', '.join(missing)}; {MEND_PLAN}")
    if found is not None and not isinstance(found["variants"], Mapping):
        raise SweepError(f"{path}: variants: expected a mapping; {MEND_PLAN}")
    return found


def read_runs(root: str | pathlib.Path) -> tuple[dict[str, Any], list[Run]]:
    """The plan and every run that it names, from the directory alone. Raises as `read_plan`."""
    root = pathlib.Path(root)
    plan = read_plan(root)
    try:
        known = [(_variant(name, record), record) for name, record in plan["variants"].items()]
    except (AttributeError, KeyError, TypeError, ConfigError) as error:
        raise SweepError(f"{root / PLAN}: is damaged ({type(error).__name__}: {error}); {MEND_PLAN}") from error
    return plan, [Run(v, seed, root) for v, record in known for seed in v.seeds if not record.get("gone")]


def _variant(name: str, record: Mapping[str, Any]) -> Variant:
    stages = {stage: from_mapping(RunConfig, config, stored=True) for stage, config in record["stages"].items()}
    return Variant(name, record["argument"], record["changes"], tuple(record["seeds"]), record["base"], stages)


def check_same(sweep: Sweep, root: str | pathlib.Path) -> None:
    """Check that the directory is of this sweep or empty; of a sweep without variants by its settings alone.

    Raises:
        SweepError: it belongs to another sweep, or was begun with other settings or configurations, which are listed.
    """
    root = pathlib.Path(root)
    found = find_plan(root)
    if found is None:
        if root.is_dir() and any(not path.name.startswith((STUDY, PLAN)) for path in root.iterdir()):
            raise SweepError(f"{root}: is not empty and has no {PLAN}; use another --workdir")
        if not root.exists():  # what cannot be made is said before minutes of making data; nothing is left of a refusal
            root.mkdir(parents=True)
            root.rmdir()
        return
    if other := _other_sweep(sweep, root, found):
        raise SweepError(f"{root}: {other}; use another --workdir")
    if faults := _other_settings(sweep, root, found):
        raise SweepError(
            f"{root}: was begun with other settings:\n  " + "\n  ".join(faults) + "\nUse another --workdir, or set "
            "these back. Variants and seeds may be added."
        )


def _other_sweep(sweep: Sweep, root: pathlib.Path, found: Mapping[str, Any]) -> str:
    if found["name"] != sweep.name:
        return f"belongs to the sweep {found['name']!r}, not {sweep.name!r}"
    kind = found.get("kind") or ("search" if (root / STUDY).exists() else "sweep")  # plans of earlier versions
    if kind != sweep.kind:
        return f"belongs to a {kind} named {sweep.name!r}, and this is a {sweep.kind}"
    there, here = list(found["variants"]), [variant.name for variant in sweep.variants]
    if sweep.kind == "sweep" and there and here and not set(there) & set(here):
        return f"belongs to another sweep named {sweep.name!r}: it has {_some(there)}, and this one has {_some(here)}"
    return ""


def _other_settings(sweep: Sweep, root: pathlib.Path, found: Mapping[str, Any]) -> list[str]:
    # Another metric is a mended one where no run could be finished with it.
    finished = any(any((root / name).glob(f"seed=*/{RESULTS}")) for name in found["variants"])
    keys = ("stages", "evaluations", "metric") if finished else ("stages", "evaluations")
    now = json.loads(json.dumps(settings_of(sweep)))
    faults = lines_of_differences({key: found[key] for key in keys}, {key: now[key] for key in keys})
    for variant in sweep.variants:
        record = found["variants"].get(variant.name)
        if record and record["config_hash"] != digest(variant.seeded(0)):
            stages = {stage: to_mapping(config) for stage, config in variant.seeded(0).items()}
            lines = lines_of_differences(record["stages"], json.loads(json.dumps(stages)))
            faults += [f"variant {variant.name}: {line}" for line in lines]
    return faults


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _read(path: pathlib.Path, mend: str) -> dict[str, Any] | None:
    """What a JSON file holds; None where there is none. Raises SweepError, with `mend`, where it is damaged."""
    try:
        found = json_text.parse(json_text.read_bytes(path))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise SweepError(f"{path.parent}: is, or lies in, a file; a directory would be right") from None
    except (OSError, json_text.JsonError) as error:
        raise SweepError(f"{path}: cannot be read ({error}); {mend}") from error
    if not isinstance(found, dict):
        raise SweepError(f"{path}: holds {type(found).__name__} in place of a mapping; {mend}")
    return found


def _written(path: pathlib.Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0
