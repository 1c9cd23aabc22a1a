"""A run's record has its datasets' fingerprints: with other data it does not go on unasked."""

import json
import pathlib

import pytest

from nvlm_jax.config import ConfigError, RunConfig
from nvlm_jax.training.run_data import RunData
from nvlm_jax.training.workdir import open_workdir

QA = {"name": "qa", "samples": 600, "fingerprint": "aa"}
TEXT = {"name": "text", "samples": 1200, "fingerprint": "cc"}


def data(accept: bool = False, **changes) -> RunData:
    return RunData({"runs/qa": QA | changes, "runs/text": TEXT}, accept)


def begun(tmp_path: pathlib.Path, known: RunData | None, step: int = 10) -> pathlib.Path:
    path = open_workdir(tmp_path / "run", RunConfig(), known)
    (path / "checkpoints" / str(step)).mkdir(parents=True)
    return path


def record(path: pathlib.Path) -> dict:
    return json.loads((path / "config.json").read_text())


def test_changed_data_is_refused_by_name_and_may_be_accepted(tmp_path):
    path = begun(tmp_path, data())
    open_workdir(path, RunConfig(), data())
    with pytest.raises(ConfigError) as caught:
        open_workdir(path, RunConfig(), data(samples=400, fingerprint="bb"))
    text = str(caught.value)
    assert "dataset qa (runs/qa): 600 samples with fingerprint aa then, 400 samples with fingerprint bb now" in text
    assert "since step 10" in text and "--accept_data" in text and "text" not in text and "\n" not in text
    assert record(path)["datasets"]["runs/qa"] == QA
    open_workdir(path, RunConfig(), data(True, samples=400, fingerprint="bb"))
    assert record(path)["datasets"]["runs/qa"]["fingerprint"] == "bb"
    assert record(path)["data_changes"] == [{"step": 10, "datasets": data().datasets}]
    open_workdir(path, RunConfig(), data(samples=400, fingerprint="bb"))  # accepted once for all
    assert len(record(path)["data_changes"]) == 1
    with pytest.raises(ConfigError, match="400 samples with fingerprint bb then, 600 samples with fingerprint aa now"):
        open_workdir(path, RunConfig(), data())


def test_a_run_of_an_earlier_version_goes_on_with_a_notice(tmp_path, caplog):
    path = begun(tmp_path, None)
    assert "datasets" not in record(path)
    open_workdir(path, RunConfig(), data())
    assert "kept no fingerprints of the data" in caplog.text and record(path)["datasets"]["runs/qa"] == QA
    with pytest.raises(ConfigError, match="dataset qa"):
        open_workdir(path, RunConfig(), data(fingerprint="bb"))


def test_without_a_checkpoint_the_data_of_now_counts(tmp_path):
    path = open_workdir(tmp_path / "run", RunConfig(), data())
    open_workdir(path, RunConfig(), data(fingerprint="bb"))
    assert record(path)["datasets"]["runs/qa"]["fingerprint"] == "bb" and "data_changes" not in record(path)


def test_a_finished_run_reads_no_data(tmp_path):
    config = RunConfig()
    path = begun(tmp_path, data(), step=config.train.steps)
    open_workdir(path, config, data(fingerprint="bb"))
    assert record(path)["datasets"]["runs/qa"] == QA


def test_a_caller_without_data_leaves_the_record(tmp_path):
    path = begun(tmp_path, data())
    open_workdir(path, RunConfig())
    assert record(path)["datasets"]["runs/qa"] == QA
