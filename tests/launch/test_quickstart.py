"""The true commands at toy size: quickstart calls train and evaluate in processes of their own."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from flax import nnx

from configs.nvlm import get_config
from data_pipelines import embedded
from data_pipelines.generated.samples import GeneratedSource
from data_pipelines.records import write_dataset
from nvlm_jax.config import RunConfig, from_mapping
from nvlm_jax.convert.write import write_hf
from nvlm_jax.models.build import build_model

ROOT = pathlib.Path(__file__).parents[2]
DATASETS = ("caption-1", "qa", "text", "qa-test", "text-test")
FLAGS = ["--archs=d", "--steps_scale=0.05", "--limit=2"]  # 3 and 8 steps


def make_place(place: pathlib.Path) -> None:
    """What quickstart finds in the repository's root: random weights for the asset, small datasets marked complete."""
    (place / "configs").symlink_to(ROOT / "configs")
    config = from_mapping(RunConfig, get_config("arch=d,size=tiny,stage=pretrain").to_dict())
    params = nnx.to_flat_state(nnx.state(build_model(config.model), nnx.Param))
    parameters = {tuple(map(str, path)): value[...] for path, value in params}
    asset = place / "nvlm_jax" / "assets" / "tiny"
    write_hf(asset, config.model, config.inputs, parameters, parts=["vision", "llm"])
    for name in DATASETS:
        spec = embedded.DATASETS[name]
        samples = GeneratedSource(spec.variant, spec.split, 0, 30, **spec.options)
        write_dataset(place / "runs" / "data" / name, samples, settings=embedded.settings_of(spec, 0))


def start(place: pathlib.Path, module: str, *flags: str) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, *flags]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=place, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def run(place: pathlib.Path, module: str, *flags: str) -> tuple[int, str]:
    process = start(place, module, *flags)
    output = process.communicate(timeout=600)[0]
    return process.returncode, output


@pytest.mark.slow
def test_stopped_in_the_middle_it_goes_on_and_what_is_finished_stays(tmp_path):
    make_place(tmp_path)
    out = tmp_path / "runs" / "quickstart"
    process = start(tmp_path, "launch.quickstart", *FLAGS)
    metrics = out / "d" / "sft" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 130, output
    assert f"stopped; to go on:\n  python -m launch.quickstart {' '.join(FLAGS)}" in output
    assert not (out / "results.json").exists()

    status, output = run(tmp_path, "launch.quickstart", *FLAGS)
    assert status == 0, output
    assert "runs/quickstart/d/pretrain: finished before" in output and "NVLM-D" in output
    first = (out / "results.json").read_text()
    [entry] = json.loads(first)
    assert (entry["arch"], entry["checkpoint"]) == ("d", "runs/quickstart/d/sft/checkpoints/8")
    assert list(entry["params"]) == ["vision", "projector", "decoder"]
    accuracy = entry["accuracy"]
    assert set(accuracy["by_kind"]) == {"content", "place"} and "text" in accuracy["by_type"]
    assert all(0 <= accuracy[view] <= 1 for view in ("vision", "vision_blind", "vision_thumbnail", "text"))
    assert entry["seconds"] > 5
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, 9))
    lines = (out / "d" / "evaluation" / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == sum(2 * 8 for _ in range(4))  # two pages of eight questions in three views, and two texts
    assert "data:image/png;base64," in (out / "report.html").read_text()

    status, output = run(tmp_path, "launch.quickstart", *FLAGS)
    assert status == 0 and output.count("finished before") == 3, output
    assert (out / "results.json").read_text() == first

    status, output = run(tmp_path, "launch.quickstart", "--archs=d", "--steps_scale=0.1", "--limit=2")
    assert status == 1 and "train.steps: 3 there, 6 now" in output, output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--archs=d,q"], "q: --archs takes some of d, x, h"),
        ([], "start it in the repository's root; there is no configs/nvlm.py here"),
    ],
)
def test_quickstart_says_what_it_cannot_do(tmp_path, flags, message):
    status, output = run(tmp_path, "launch.quickstart", *flags)
    assert status == 1 and message in output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--benchmarks=embeded"], "--benchmarks: no embeded; there are embedded"),
        (["--data=nowhere"], "nowhere/qa-test: no dataset here"),
    ],
)
def test_evaluate_says_what_it_cannot_do(tmp_path, flags, message):
    status, output = run(tmp_path, "launch.evaluate", "--checkpoint=none", f"--out={tmp_path}/out", *flags)
    assert status == 1 and message in output
