import json

import pytest

from data_pipelines.loader import batches, make_plan
from launch.verify_order import OrderError, verify
from nvlm_jax.config import to_mapping
from tests.data_pipelines.conftest import data_path, make_config  # noqa: F401, fixtures


@pytest.fixture
def workdir(make_config, tmp_path):  # noqa: F811
    """What a run of five steps leaves: its config, and its hashes, the last line cut short by a kill."""
    config = make_config(steps=9)
    (tmp_path / "config.json").write_text(json.dumps({"config": to_mapping(config), "commit": "abc"}))
    plan = make_plan(config)
    lines = [{"step": info.step + 1, "loss": 1.0, "sample_hash": info.sample_hash} for _, info in batches(config, plan)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:5]) + '{"step": 6, "lo')
    return tmp_path


def test_the_order_of_a_run_is_derived_again(workdir):
    assert "5 steps from 1 to 5 as planned" in verify(workdir)
    assert "2 steps from 3 to 4 as planned" in verify(workdir, 3, 4)


def test_another_order_is_told_with_its_step(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    lines = text.splitlines()
    record = json.loads(lines[3])
    lines[3] = json.dumps(record | {"sample_hash": "0" * 16})
    (workdir / "metrics.jsonl").write_text("\n".join(lines))
    with pytest.raises(OrderError, match=r"step 4 was trained on batch 0000.*commit abc\. Its samples would be .*qa/"):
        verify(workdir)
    (workdir / "metrics.jsonl").write_text(text)
    record = json.loads((workdir / "config.json").read_text())
    record["config"]["seed"] = 1
    (workdir / "config.json").write_text(json.dumps(record))
    with pytest.raises(OrderError, match="step 1 was trained on"):
        verify(workdir)


def test_a_directory_without_a_run_is_an_error(tmp_path, workdir):
    with pytest.raises(OrderError, match=r"no run of launch\.train"):
        verify(tmp_path / "nothing")
    with pytest.raises(OrderError, match="no sample hash of these steps"):
        verify(workdir, 8)
