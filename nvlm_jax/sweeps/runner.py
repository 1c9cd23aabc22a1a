"""Runs on this machine: train, stage by stage, evaluate, write results.json, each as the command a user would type.

Nothing finished is done again, and what a kill interrupted goes on, for each of these commands does so by itself. A
process holds a lock on the directory it writes for as long as it lives, whatever becomes of its parent; and a sweep
holds one on each run it is at, so that several on one directory (tasks of a cluster) share the runs out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nvlm_jax import json_text
from nvlm_jax.evaluation import results as evaluation_results
from nvlm_jax.sweeps import hparams
from nvlm_jax.sweeps.record import collect, value
from nvlm_jax.sweeps.store import FAILED, FINISHED, LOG, PRUNED, RESULTS, RUNNING, STOPPED, Run
from nvlm_jax.sweeps.sweep_file import SweepError
from nvlm_jax.training.allocator import KEEP_MEMORY
from nvlm_jax.training.workdir import flatten, write_atomically

TRAIN, EVALUATE, RESOLVED = "launch.train", "launch.evaluate", "configs/resolved.py"
FLAGS = "sweep_flags.json"  # in an evaluation's folder: what it was asked
LOCK = ".lock"  # in a run's folder
POLL = 0.2  # seconds between two looks at a child


class ChildFailed(Exception):
    """A command ended with another status than 0."""


class Stopped(Exception):
    """The sweep was stopped while it waited."""


class Pruned(Exception):
    """A run that the search stopped early."""


@dataclasses.dataclass
class Runner:
    """Runs of one sweep.

    Attributes:
        plan: of sweep.json.
        parallel: runs at a time.
        devices: values of CUDA_VISIBLE_DEVICES that runs take in turn; empty leaves it as it is.
        say: called with one line of news.
        watch: called with the run and the stage while a child trains; may raise Pruned.
        train_flags: further flags of every launch.train.
    """

    plan: Mapping[str, Any]
    parallel: int = 1
    devices: Sequence[str] = ()
    say: Callable[[str], None] = print
    watch: Callable[[Run, str], None] = lambda run, stage: None
    train_flags: Sequence[str] = ()
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._slots: queue.Queue[str] = queue.Queue()
        for i in range(self.parallel):
            self._slots.put(self.devices[i % len(self.devices)] if self.devices else "")

    def run_all(self, runs: Sequence[Run]) -> dict[str, str]:
        """Run what is not finished; label -> status. One failure does not stop the others."""
        with ThreadPoolExecutor(self.parallel) as pool:
            return dict(zip([run.label for run in runs], pool.map(self.run, runs), strict=True))

    def run(self, run: Run) -> str:
        """One run to its end; its status. Whatever goes wrong is of this run and stops no other."""
        try:
            status = run.state()["status"]
            if status != FINISHED and not self.stop.is_set():
                with self.lock(run.path / LOCK, run.label):
                    return self._run(run)
        except Stopped:
            return STOPPED
        except Exception as unexpected:  # its state cannot be read or written
            self.say(f"{run.label}: {FAILED}: {type(unexpected).__name__}: {unexpected}")
            return FAILED
        if status == FINISHED:
            self.say(f"{run.label}: finished before")
        return status

    def _run(self, run: Run) -> str:
        if run.state()["status"] == FINISHED:
            self.say(f"{run.label}: finished by another process meanwhile")
            return FINISHED
        device = self._slots.get()
        try:
            status, error = self._attempt(run, device), ""
        except ChildFailed as failure:
            status, error = (STOPPED, "") if self.stop.is_set() else (FAILED, str(failure))
        except Stopped:
            status, error = STOPPED, ""
        except Pruned:
            status, error = PRUNED, ""
        except Exception as unexpected:  # a full disk, a damaged file
            status, error = FAILED, f"{type(unexpected).__name__}: {unexpected}"
        finally:
            self._slots.put(device)
        run.note(status=status, error=error)
        self.say(f"{run.label}: {status}")
        return status

    def _attempt(self, run: Run, device: str) -> str:
        run.write_configs()
        last = list(run.stages)[-1]
        for stage in run.stages:
            self._train(run, stage, device)
        for name, flags in self.plan["evaluations"].items():
            self._evaluate(run, name, dict(flags), last, device)
        found = collect(self.plan, run)
        _check_metric(self.plan["metric"], found)
        hparams.write(run.path / "tensorboard", found, self.plan["metric"])
        write_atomically(run.path / RESULTS, json.dumps(found, indent=1) + "\n")
        return FINISHED

    def _train(self, run: Run, stage: str, device: str) -> None:
        workdir = run.workdir(stage)
        if run.is_trained(stage):
            return
        run.note(status=RUNNING, stage=stage, error="")
        with self.lock(workdir.with_name(workdir.name + ".lock"), run.label) as lock:
            if run.is_trained(stage):  # by another variant, meanwhile
                return
            self.say(f"{run.label}: {stage}, {run.stages[stage].train.steps} steps")
            config = f"--config={RESOLVED}:{run.path / stage}.json"
            self._call(run, stage, [TRAIN, config, f"--workdir={workdir}", *self.train_flags], lock, device)

    def _evaluate(self, run: Run, name: str, flags: dict[str, Any], last: str, device: str) -> None:
        stage, out = flags.pop("stage", last), run.path / name
        checkpoint = run.workdir(stage) / "checkpoints" / str(run.stages[stage].train.steps)
        values = {key: ",".join(map(str, v)) if isinstance(v, (list, tuple)) else v for key, v in flags.items()}
        arguments = [f"--checkpoint={checkpoint}", *(f"--{key}={value}" for key, value in values.items())]
        record = out / FLAGS
        if _says(record, arguments):
            return
        run.note(status=RUNNING, stage=name, error="")
        with self.lock(run.path / f".{name}.lock", run.label) as lock:
            self.say(f"{run.label}: {name}")
            self._call(run, name, [EVALUATE, *arguments, f"--out={out}"], lock, device)
        evaluation_results.read(out)
        write_atomically(record, json.dumps(arguments) + "\n")

    def _call(self, run: Run, what: str, module: Sequence[str], lock: int, device: str) -> None:
        """Run `python -m MODULE ...`, its output in the run's log.

        Raises:
            ChildFailed: it ended with another status than 0.
            Pruned: `watch` said so; the child has saved and ended.
        """
        environment = self._environment(run, device)
        begin = time.monotonic()
        with (run.path / LOG).open("a") as log:
            log.write(f"\n$ python -m {' '.join(module)}\n")
            log.flush()
            # A session of its own: Ctrl-C reaches this process alone, which then asks its children to save.
            child = subprocess.Popen(
                [sys.executable, "-m", *module],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
                pass_fds=(lock,),
            )
            try:
                status = self._wait(child, run, what)
            finally:
                if child.poll() is None:
                    child.terminate()
                    child.wait()
                seconds = run.state().get("seconds", {})
                seconds[what] = round(seconds.get(what, 0.0) + time.monotonic() - begin, 1)
                run.note(seconds=seconds)
        if status:
            raise ChildFailed(f"{what}: exit status {status}\n{run.log_tail()}")

    def _wait(self, child: subprocess.Popen[bytes], run: Run, what: str) -> int:
        asked = False
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(POLL)
            if self.stop.is_set() and not asked:
                child.terminate()
                asked = True
            if not asked and what in run.stages:
                self.watch(run, what)

    def _environment(self, run: Run, device: str) -> dict[str, str]:
        environment = KEEP_MEMORY | dict(os.environ)
        environment.setdefault("JAX_COMPILATION_CACHE_DIR", str((run.root / ".jax_cache").absolute()))
        if device:
            environment["CUDA_VISIBLE_DEVICES"] = device
        return environment

    @contextlib.contextmanager
    def lock(self, path: pathlib.Path, who: str) -> Iterator[int]:
        """Holds a lock; says so when it waits for it.

        Args:
            path: of the lock's file, which stays.
            who: wants it, for the message.

        Yields:
            Its file descriptor: a child that is given it keeps the lock, orphaned or not.

        Raises:
            Stopped: the sweep was stopped first.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            waited = False
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not waited:
                        self.say(f"{who}: waits for another process that holds {path}")
                    waited = True
                    if self.stop.wait(POLL):
                        raise Stopped(f"stopped while it waited for {path}") from None
            yield lock
        finally:
            os.close(lock)


def _says(record: pathlib.Path, arguments: list[str]) -> bool:
    """Whether the evaluation that the file tells of was made with these arguments; a damaged one tells of none."""
    try:
        return json_text.load(record) == arguments
    except (json_text.JsonError, OSError):
        return False


def _check_metric(metric: str, found: Mapping[str, Any]) -> None:
    if value(found, metric) is None:
        numbers = [key for key, each in flatten(found).items() if "[" not in key and type(each) in (int, float)]
        raise SweepError(f"METRIC: {metric!r} is no number of this run; there are {', '.join(numbers)}")
