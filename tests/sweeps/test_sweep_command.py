"""launch.sweep from its flags to its exit status, over quick commands: what it refuses, runs and says."""

import json
import pathlib
import shutil

import pytest

from data_pipelines import embedded
from tests.commands import command
from tests.sweeps.files import write_sweep

ROOT = pathlib.Path(__file__).parents[2]
QUICK = """
from launch.command import run_command
from launch import sweep
from nvlm_jax.sweeps import runner

runner.TRAIN, runner.EVALUATE = "stand_in_train", "stand_in_evaluate"
run_command(sweep.main)
"""
HEAD = """
from configs import nvlm
STAGES = ("pretrain", "sft")
SEEDS = (0,)
EVALUATIONS = {"evaluation": {"data": ".", "embedded": ("pages",)}}

def get_config(argument=""):
    config = nvlm.get_config(f"{argument},size=tiny")
    config.train.steps, config.optimizer.warmup_steps = 4, 2
    config.data.blend = [{"name": "pages", "path": "pages"}]
    config.data.tiles_per_row = 7
    return config

"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> pathlib.Path:
    """A small dataset of nobody's name."""
    path = tmp_path_factory.mktemp("made")
    embedded.prepare(path, ["qa"], samples=20, processes=0)
    return path / "qa"


@pytest.fixture
def call(place, pages):
    """call(body, *flags) -> exit status, output; of a sweep file `it.py` with this body."""
    (place / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(pages, place / "pages")
    (place / "quick_sweep.py").write_text(QUICK)

    def start(body: str, *flags: str) -> tuple[int, str]:
        path = write_sweep(place / "it.py", body, HEAD)
        done = command("quick_sweep", f"--config={path}", "--workdir=runs", *flags, cwd=place)
        return done.returncode, done.stdout + done.stderr

    return start


def test_files_that_are_not_there_are_listed_by_variant_before_anything_starts(call, place):
    body = """
    def sweep(add):
        add(label="fine")
        add("arch=x", {"pretrain.init.vision": "nowhere/vision", "optimizer.warmup_steps": 5}, label="a")
        add("arch=x", {"inputs.tokenizer": "nowhere", "sft.data.blend": [{"path": "nowhere/n"}]}, label="b")
    """
    status, text = call(body)
    assert status == 1 and "Traceback" not in text and not (place / "runs").exists()
    assert "variant a, stage pretrain: init.vision: nowhere/vision: no such file or directory" in text
    assert "variant a, stage sft: optimizer.warmup_steps: 5 are more than train.steps 4" in text
    assert "variant b, stage pretrain: inputs.tokenizer: 'nowhere' is neither a directory" in text
    assert "variant b, stage sft: data.blend: nowhere/n: no dataset here" in text
    assert "variant fine" not in text


def test_rows_and_test_sets_are_checked_and_a_users_own_dataset_is_left(call, place):
    row = "def sweep(add):\n    add('arch=x')\n    add('arch=x', {'sft.data.tokens_per_row': 1}, label='narrow')"
    status, text = call(row)
    assert status == 1 and "Traceback" not in text and not (place / "runs").exists()
    assert "variant narrow, stage sft: dataset 'pages': no sample fits a row of" in text
    tests = "EVALUATIONS = {'e': {'data': '.', 'embedded': ('qa-tset',)}}\n"
    status, text = call(tests + "def sweep(add):\n    add()")
    assert status == 1 and "EVALUATIONS['e']: qa-tset: no dataset here" in text
    manifest = json.loads((place / "pages" / "dataset.json").read_text())
    (place / "pages" / "dataset.json").write_text(json.dumps(manifest | {"settings": {}}))
    (place / "pages").rename(place / "text")  # a name of an embedded dataset
    own = HEAD.replace('"path": "pages"', '"path": "text"').replace('("pages",)', '("text",)')
    before = {file: file.read_bytes() for file in (place / "text").iterdir()}
    write_sweep(place / "own.py", "def sweep(add):\n    add()", own)
    done = command("quick_sweep", "--config=own.py", "--workdir=runs", cwd=place)
    assert done.returncode == 0, done.stderr
    assert all(file.read_bytes() == content for file, content in before.items())


def test_as_many_at_a_time_as_devices_and_a_failure_is_told(call, place):
    with open(place / "stand_in_train.py", "a") as module:
        module.write("import os\n(workdir / 'device').write_text(os.environ.get('CUDA_VISIBLE_DEVICES', ''))\n")
    body = "def sweep(add):\n    add()\n    add('arch=x')\n    add('arch=h', {'sft.name': 'broken'}, label='bad')"
    status, text = call(body, "--devices=4,5")
    assert status == 1 and "bad/seed=0 failed:\nsft: exit status 1" in text and "2 finished, 1 failed" in text
    assert {file.read_text() for file in (place / "runs").glob("*/seed=0/sft/device")} == {"4", "5"}
    (place / "mended").touch()
    status, text = call(body)
    assert status == 0 and "3 finished" in text
    (place / "runs" / "bad" / "seed=0" / "results.json").unlink()
    (place / "runs" / "bad" / "seed=0" / "state.json").write_text("{")
    status, text = call(body)
    assert status == 1 and "state.json: cannot be read" in text and "Traceback" not in text


SEARCH = """
def search(trial):
    trial.suggest_int("number", 0, 99)
    return "arch=d", {"sft.name": "broken" if trial.number in (0, 2) else "whole"}  # 2 is 0, tried again
"""


def test_a_search_says_what_failed_and_refuses_what_needs_a_plan(call, place):
    status, text = call(SEARCH, "--search=tpe", "--match=flops", "--steps_scale=0.5", "--only=1")
    assert status == 1 and not (place / "runs").exists()
    assert all(f"--{flag}: " in text for flag in ("match=flops", "steps_scale=0.5", "only=1"))
    status, text = call(SEARCH, "--search=tpe", "--trials=2")
    assert status == 1 and "trial 0 failed:" in text and "2 of 2 trials ended, 1 of them with a score" in text
    (place / "mended").touch()
    for _ in range(2):
        status, text = call(SEARCH, "--search=tpe", "--trials=2")
        assert status == 0 and "2 of 2 trials ended, 2 of them with a score" in text
    status, text = call("def sweep(add):\n    add()")
    assert status == 1 and "belongs to a search named 'it', and this is a sweep" in text
    (place / "runs.txt").touch()
    status, text = call(SEARCH, "--search=tpe", "--workdir=runs.txt")
    assert status == 1 and "runs.txt: is, or lies in, a file" in text and "Traceback" not in text
