"""One run at a time in a workdir, however the one before has ended."""

import multiprocessing
import os
import pathlib
import signal

import pytest

from nvlm_jax.config import ConfigError
from nvlm_jax.training.lock import locked
from nvlm_jax.training.loop import train
from tests.tiny import make_batches, make_run_config


def hold(workdir: pathlib.Path, ready) -> None:
    with locked(workdir):
        ready.set()
        signal.pause()


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `run`."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "run", ready))
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_second_start_is_refused_and_a_killed_one_holds_nothing(tmp_path, holder):
    config, before = make_run_config("d", steps=1), sorted(os.listdir(tmp_path / "run"))
    with pytest.raises(ConfigError, match=rf"run: process {holder.pid} of .+ is training here; wait until"):
        train(config, tmp_path / "run", lambda start: make_batches(config, start))
    assert sorted(os.listdir(tmp_path / "run")) == before  # nothing of the first one's was touched
    holder.kill()
    holder.join()
    with locked(tmp_path / "run"):
        pass


def test_a_run_holds_it_to_its_end_and_no_longer(tmp_path):
    config, seen = make_run_config("d", steps=1), []

    def batches(start):
        with (
            pytest.raises(ConfigError, match=f"process {os.getpid()} of .* is training here"),
            locked(tmp_path / "run"),
        ):
            pass
        seen.append(start)
        yield from make_batches(config, start)

    assert train(config, tmp_path / "run", batches).finished and seen == [0]
    with locked(tmp_path / "run"):
        pass


def test_where_a_filesystem_has_no_locks_a_warning_says_so(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("nvlm_jax.training.lock.fcntl.flock", refuse)
    with locked(tmp_path / "run"):
        assert "no lock (Operation not supported)" in caplog.text


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written: Not a directory"), locked(tmp_path / "file" / "run"):
        pass
