"""What a step says about itself is checked against what is there now."""

import dataclasses
import json
import pathlib
import shutil

import orbax.checkpoint as ocp
import pytest

from configs.nvlm import get_config
from nvlm_jax.config import RunConfig, from_mapping
from nvlm_jax.convert.shards import CheckpointError
from nvlm_jax.training.steps import read_meta
from nvlm_jax.training.workdir import open_workdir, run_record

TINY = pathlib.Path(__file__).parents[2] / "nvlm_jax" / "assets" / "tiny"


def test_another_tokenizer_under_the_same_name_is_refused(tmp_path):
    (tmp_path / "tok").mkdir()
    file = pathlib.Path(shutil.copy(TINY / "tokenizer.json", tmp_path / "tok"))
    run = from_mapping(RunConfig, get_config("arch=d,size=tiny,stage=sft").to_dict())
    run = dataclasses.replace(run, inputs=dataclasses.replace(run.inputs, tokenizer=str(tmp_path / "tok")))
    step = tmp_path / "checkpoints" / "7"
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        checkpointer.save(step / "meta", run_record(run))
    assert read_meta(step)[0] == run
    held = json.loads(file.read_text())
    held["model"]["merges"] = held["model"]["merges"][:-1]
    file.write_text(json.dumps(held))
    with pytest.raises(
        CheckpointError, match=r"/7: was saved with another tokenizer: .*/tok had the digest"
    ):
        read_meta(step)
    file.unlink()  # whoever needs it says so
    assert read_meta(step)[0] == run


def test_the_tokenizer_in_the_workdir_is_taken_wherever_that_is(tmp_path):
    run = from_mapping(RunConfig, get_config("arch=d,size=tiny,stage=sft").to_dict())
    run = dataclasses.replace(run, inputs=dataclasses.replace(run.inputs, tokenizer=str(TINY)))
    workdir = open_workdir(tmp_path / "begun", run)
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        checkpointer.save(workdir / "checkpoints" / "7" / "meta", run_record(run))
    moved = workdir.rename(tmp_path / "moved")
    assert read_meta(moved / "checkpoints" / "7")[0].inputs.tokenizer == str(moved / "tokenizer")
