"""How commands end: what a user can mend is one line and a status above 0, everything else keeps its traceback."""

import logging

import pytest

from launch.command import is_expected, one_line, without_traceback
from nvlm_jax.config import ConfigError
from tests.commands import command

NAMED = "--config=configs/nvlm.py:arch=d,size=tiny,stage=sft"


def last_line(done) -> str:
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([NAMED, "--config.train.stepz=12"], "--config.train.stepz: no such key; did you mean --config.train.steps?"),
        ([NAMED, "--config.steps=12"], "--config.steps: no such key; did you mean --config.train.steps?"),
        ([NAMED, "--config.model.decoder.hedas=2"], "did you mean --config.model.decoder.heads?"),
        (["--config=configs/other.py:arch=d"], "--config=configs/other.py: no such file; a configuration is a Python"),
        ([NAMED, "--config.optimizer.beta2=nan"], "optimizer.beta2: nan is out of range; from 0 below 1 would be"),
    ],
)
def test_an_ordinary_mistake_is_a_line(flags, line, tmp_path):
    assert line in last_line(command("launch.train", *flags, f"--workdir={tmp_path / 'run'}"))


def test_a_config_file_that_refuses_its_choices_says_so_without_a_traceback(tmp_path):
    done = command("launch.train", "--config=configs/nvlm.py:arch=q", f"--workdir={tmp_path / 'run'}")
    assert "'arch=q' is none of arch=d|x|h" in done.stderr and "Traceback" not in done.stderr


def test_the_traceback_is_there_for_who_asks(tmp_path):
    flags = (NAMED, "--config.train.stepz=12", f"--workdir={tmp_path / 'run'}")
    done = command("launch.train", *flags, env={"NVLM_TRACEBACK": "1"})
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_what_is_expected():
    class Ours(Exception):
        __module__ = "nvlm_jax.somewhere"

    assert is_expected(Ours()) and is_expected(ConfigError("a")) and is_expected(OSError(28, "No space left on device"))
    assert not is_expected(ZeroDivisionError()) and not is_expected(RuntimeError()) and not is_expected(KeyError("a"))
    assert one_line(ConfigError("train.steps: 0")) == "ConfigError: train.steps: 0"
    assert one_line(OSError(28, "No space left", "a/b")) == "OSError: [Errno 28] No space left: 'a/b'"


def test_tracebacks_that_libraries_log_are_short_lines():
    error = (ValueError, ValueError("a page"), None)
    record = logging.LogRecord("absl", logging.ERROR, "", 1, "thread %s failed\nmore", ("a",), error)
    assert without_traceback(record) and record.getMessage() == "thread a failed" and record.exc_info is None
    record.msg = "Future exception was never retrieved\nfuture: ..."
    assert not without_traceback(record)
