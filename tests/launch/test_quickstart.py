"""The order of things in quickstart: what it starts, what it leaves alone, how it stops and goes on.

`launch.train` and `launch.evaluate` are stand-ins that write the files which the real ones write; `.ci/run` runs those.
"""

import json
import os
import pathlib
import signal
import time

import pytest

from configs.nvlm import get_config
from data_pipelines import embedded
from data_pipelines.generated.samples import GeneratedSource
from data_pipelines.records import write_dataset
from tests.commands import Command, command

ROOT = pathlib.Path(__file__).parents[2]
DATASETS = ("caption-1", "qa", "text", "qa-test", "text-test")
FLAGS = ["--archs=d", "--steps_scale=0.05", "--limit=2"]


def steps(stage: str, scale: float) -> int:
    """Steps of a stage of NVLM-D under --steps_scale."""
    return round(get_config(f"arch=d,size=tiny,stage={stage}").train.steps * scale)


TRAIN = """
import json, pathlib, signal, sys, time
from configs.nvlm import get_config
from nvlm_jax.config import RunConfig, from_mapping
from nvlm_jax.training.workdir import open_workdir

flags = dict(item.removeprefix("--").split("=", 1) for item in sys.argv[1:])
config = get_config(flags["config"].split(":")[1])
for key in [key for key in flags if key.startswith("config.")]:
    config.update_from_flattened_dict({key[7:]: int(flags[key]) if flags[key].isdigit() else flags[key]})
workdir = open_workdir(flags["workdir"], from_mapping(RunConfig, config.to_dict()))
if "stage=sft" in flags["config"] and not (workdir / "stopped").exists():
    received = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: received.append(number))
    (workdir / "waiting").touch()
    while not received:
        time.sleep(0.05)
    (workdir / "stopped").write_text(str(received[0]))
    sys.exit(130)
(workdir / "checkpoints" / str(config.train.steps)).mkdir(parents=True)
lines = [{"step": i + 1, "loss": 1.0, "samples_per_second": 10.0 + i} for i in range(3)]
(workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
"""
EVALUATE = """
import pathlib, sys
from nvlm_jax.evaluation import results
from nvlm_jax.evaluation.question import Prediction

flags = dict(item.removeprefix("--").split("=", 1) for item in sys.argv[1:])
predictions = [
    Prediction(f"s/{i}", "s", view, kind, kind, "what?", "A", "A", i < 3)
    for view, kind in (("vision", "content"), ("vision_blind", "content"), ("text", "text"))
    for i in range(4)
]
summary = {"checkpoint": flags["checkpoint"], "step": 8, "limit": int(flags["limit"]), "params": {"decoder": 1234567}}
summary |= {"accuracy": results.accuracy(predictions), "counts": results.counts(predictions)}
results.write(pathlib.Path(flags["out"]), summary, predictions, [])
"""


@pytest.fixture
def place(tmp_path) -> pathlib.Path:
    """The repository's root as quickstart sees it: stand-ins, and small datasets marked complete."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    launch = tmp_path / "launch"
    launch.mkdir()
    for file in ("__init__.py", "command.py", "quickstart.py"):
        (launch / file).symlink_to(ROOT / "launch" / file)
    (launch / "train.py").write_text(TRAIN)
    (launch / "evaluate.py").write_text(EVALUATE)
    for name in DATASETS:
        spec = embedded.DATASETS[name]
        samples = GeneratedSource(spec.variant, spec.split, 0, 2, **spec.options)
        write_dataset(tmp_path / "runs" / "data" / name, samples, settings=embedded.settings_of(spec, 0))
    return tmp_path


def run(place: pathlib.Path, *flags: str) -> tuple[int, str]:
    done = command("launch.quickstart", *flags, cwd=place, env={"PYTHONPATH": str(ROOT)})
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_stopped_in_the_middle_it_goes_on_and_what_is_finished_stays(place):
    out = place / "runs" / "quickstart"
    started = Command("launch.quickstart", *FLAGS, cwd=place, env={"PYTHONPATH": str(ROOT)})
    while started.process.exitcode is None and not (out / "d" / "sft" / "waiting").exists():
        time.sleep(0.05)
    os.kill(started.process.pid, signal.SIGINT)
    started.process.join()
    output = started.stdout + started.stderr
    assert started.process.exitcode == 130, output
    assert f"stopped; to go on:\n  python -m launch.quickstart {' '.join(FLAGS)}" in output
    assert (out / "d" / "sft" / "stopped").exists()  # the signal was passed on and waited for
    assert not (out / "results.json").exists()

    status, output = run(place, *FLAGS)
    assert status == 0, output
    assert "runs/quickstart/d/pretrain: finished before" in output and output.count("finished before") == 1
    assert (out / "page.png").read_bytes().startswith(b"\x89PNG")  # which README and docs ask about
    first = (out / "results.json").read_text()
    [entry] = json.loads(first)
    assert entry["checkpoint"] == f"runs/quickstart/d/sft/checkpoints/{steps('sft', 0.05)}"
    assert entry["accuracy"]["vision"] == 0.75 and entry["accuracy"]["by_kind"] == {"content": 0.75}
    assert entry["params"] == {"decoder": 1234567} and entry["samples_per_second"] == 11.0
    spent = [
        json.loads((out / "d" / s / "quickstart_seconds.json").read_text()) for s in ("pretrain", "sft", "evaluation")
    ]
    assert entry["seconds"] == round(sum(spent), 1) > 0
    assert "NVLM-D" in output and "75.0" in output and "1,234,567" in output and "runs/quickstart/report.html" in output
    assert "NVLM-D" in (out / "report.html").read_text()

    status, output = run(place, *FLAGS)
    assert status == 0 and output.count("finished before") == 3, output
    assert (out / "results.json").read_text() == first

    # Another limit asks for another evaluation; other steps are another run, which the stage's directory refuses.
    status, output = run(place, *FLAGS[:2], "--limit=3")
    assert status == 0 and output.count("finished before") == 2, output
    status, output = run(place, "--archs=d", "--steps_scale=0.1", "--limit=2")
    expected = f"train.steps: {steps('pretrain', 0.05)} there, {steps('pretrain', 0.1)} now"
    assert status == 1 and expected in output, output


def test_quickstart_says_what_it_cannot_do(tmp_path):
    status, output = run(tmp_path, "--archs=d,q")
    assert status == 1 and "q: --archs takes some of d, x, h" in output
