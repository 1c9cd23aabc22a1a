"""The watcher: every checkpoint once, the newest first, until the run's last step."""

import json
import pathlib

import pytest

from nvlm_jax.evaluation.watch import last_step, watch
from nvlm_jax.training.checkpoints import CheckpointError


class Run:
    """A run's workdir that gains and loses checkpoints while the watcher sleeps or evaluates."""

    def __init__(self, root: pathlib.Path, *script):
        self.workdir, self.out, self.done, self.script = root / "run", root / "out", [], list(script)

    def save(self, *steps: int) -> None:
        for step in steps:
            (self.workdir / "checkpoints" / str(step)).mkdir(parents=True)
        (self.workdir / "config.json").write_text(json.dumps({"config": {"train": {"steps": 30}}}))

    def remove(self, step: int) -> None:
        (self.workdir / "checkpoints" / str(step)).rmdir()

    def sleep(self, seconds: float) -> None:
        assert seconds == 5
        self.script.pop(0)(self)

    def evaluate(self, step: int, out: pathlib.Path) -> dict:
        if not (self.workdir / "checkpoints" / str(step)).exists():
            raise CheckpointError("gone")
        self.done.append(step)
        out.mkdir(parents=True)
        (out / "results.json").write_text("{}")
        return {"scores": {"docvqa": {"score": float(step)}}}

    def watch(self) -> None:
        watch(self.workdir, self.out, self.evaluate, 5, self.sleep)


def test_each_checkpoint_is_evaluated_as_it_appears(tmp_path):
    run = Run(tmp_path, lambda run: run.save(10, 20), lambda run: None, lambda run: run.save(30))
    run.watch()
    assert run.done == [20, 10, 30] and not run.script
    lines = [json.loads(line) for line in (run.out / "steps.jsonl").read_text().splitlines()]
    assert lines[0] == {"step": 20, "scores": {"docvqa": 20.0}} and len(lines) == 3


def test_a_second_watcher_does_only_what_is_left(tmp_path):
    Run(tmp_path, lambda run: run.save(10, 30)).watch()
    again = Run(tmp_path)
    (again.workdir / "checkpoints" / "20").mkdir()
    again.watch()
    assert again.done == [20]


def test_a_checkpoint_that_is_removed_meanwhile_is_left_out(tmp_path, capsys):
    run = Run(tmp_path)
    run.save(10, 30)
    evaluate = run.evaluate

    def slow(step, out):
        if step == 10:
            run.remove(10)
        return evaluate(step, out)

    run.evaluate = slow
    run.watch()
    assert run.done == [30] and "step 10: its checkpoint was removed" in capsys.readouterr().out


def test_a_checkpoint_that_cannot_be_read_stops_it(tmp_path):
    run = Run(tmp_path)
    run.save(30)

    def broken(step, out):
        raise CheckpointError("damaged")

    run.evaluate = broken
    with pytest.raises(CheckpointError, match="damaged"):
        run.watch()


def test_the_last_step_is_the_configs(tmp_path):
    assert last_step(tmp_path) is None
    (tmp_path / "config.json").write_text("{")
    assert last_step(tmp_path) is None
