"""A checkpoint's hash: the same for the same weights, another for any other."""

import pathlib

import pytest

from nvlm_jax.evaluation import subject
from nvlm_jax.training.checkpoints import CheckpointError


@pytest.fixture
def run(tmp_path, monkeypatch) -> pathlib.Path:
    """A workdir of steps 1 and 2 as far as names go; `meta` of step N holds checksums of N."""

    def read_meta(path):
        number = int(path.name)
        return None, {"checksums": {"params": {"decoder/head": number}, "frozen": {"vision/patch": 5}}}

    monkeypatch.setattr(subject, "read_meta", read_meta)
    for step in (1, 2):
        (tmp_path / "run" / "checkpoints" / str(step) / "meta").mkdir(parents=True)
    return tmp_path / "run"


def test_the_hash_of_a_step_is_over_its_checksums(run):
    newest = subject.identify(run)
    assert newest == subject.identify(run, 2) == subject.identify(run / "checkpoints" / "2") and newest[1] == 2
    first = subject.identify(run, 1)
    assert first[1] == 1 and first[0] != newest[0] and len(first[0]) == 16


def test_a_step_that_does_not_exist_lists_those_that_do(run):
    with pytest.raises(CheckpointError, match="no checkpoint of step 7; there are 1, 2"):
        subject.identify(run, 7)


def test_an_imported_checkpoint_is_hashed_by_its_files(run, monkeypatch):
    monkeypatch.setattr(subject, "read_meta", lambda path: (None, {"checksums": {"params": None, "frozen": None}}))
    (run / "frozen").mkdir()
    (run / "frozen" / "x").write_bytes(b"1")
    before = subject.identify(run)[0]
    (run / "evaluation.json").write_text("{}")  # results beside the weights change nothing
    assert subject.identify(run)[0] == before
    (run / "frozen" / "x").write_bytes(b"2")
    assert subject.identify(run)[0] != before


def test_a_hugging_face_directory_is_hashed_by_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "WHOLE", 64)
    monkeypatch.setattr(subject, "SAMPLE", 8)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(100))
    first = subject.identify(tmp_path)
    assert first[1] is None
    weights.write_bytes(bytes(99) + b"x")
    assert subject.identify(tmp_path) != first
    with pytest.raises(CheckpointError, match="no workdir, so there is no step 3 to choose"):
        subject.identify(tmp_path, 3)
    with pytest.raises(CheckpointError, match="nowhere: no such directory; expected a workdir"):
        subject.identify(tmp_path / "nowhere")
