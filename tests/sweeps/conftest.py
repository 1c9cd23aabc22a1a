"""A place to run sweeps in: the stand-ins on the path, the directory the current one."""

from __future__ import annotations

import os
import pathlib

import pytest

from nvlm_jax.sweeps import runner
from tests.sweeps.files import write_stand_ins

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path, monkeypatch) -> pathlib.Path:
    """The current directory, with quick commands in place of training and evaluation."""
    train, evaluate = write_stand_ins(tmp_path)
    monkeypatch.setattr(runner, "TRAIN", train)
    monkeypatch.setattr(runner, "EVALUATE", evaluate)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    (tmp_path / "nvlm_jax").symlink_to(ROOT / "nvlm_jax")  # for the assets, which configurations name from the root
    monkeypatch.chdir(tmp_path)
    return tmp_path
