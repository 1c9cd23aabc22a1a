"""The true command, from a checkpoint of random weights to the three files and the report."""

import dataclasses
import json
import os
import pathlib
import time

import jax
import pytest

from configs.nvlm import get_config
from data_pipelines.generated.samples import GeneratedSource
from data_pipelines.records import write_dataset
from nvlm_jax.config import RunConfig, from_mapping
from nvlm_jax.models.build import build_model
from nvlm_jax.parallel.mesh import inference_mesh
from nvlm_jax.parallel.sharding import state_shardings
from nvlm_jax.training.checkpoints import Checkpoints
from nvlm_jax.training.step import init_state, split_model
from nvlm_jax.training.workdir import open_workdir
from tests.commands import Command, command
from tests.conftest import make_run_config
from tests.evaluation.benchmarks import miniature

ROOT = pathlib.Path(__file__).parents[2]


def run(*flags: str) -> tuple[int, str]:
    done = command("launch.evaluate", *flags)
    return done.returncode, done.stdout + done.stderr


def save_checkpoint(workdir: pathlib.Path, devices: int = 1) -> RunConfig:
    """Step 1 of a model that knows nothing, from so many devices."""
    base = make_run_config("d", steps=1)
    decoder = dataclasses.replace(base.model.decoder, vocab_size=512)
    vision = dataclasses.replace(base.model.vision, image_size=64, patch_size=16)
    model = dataclasses.replace(base.model, decoder=decoder, vision=vision)
    inputs = from_mapping(RunConfig, get_config("arch=d,size=tiny,stage=sft").to_dict()).inputs
    config = dataclasses.replace(base, model=model, inputs=inputs)
    split = split_model(build_model(config.model), config.train.trainable, config.model.frozen_dtype)
    state, frozen = init_state(split, config), split.frozen
    if devices > 1:
        mesh = inference_mesh(config.model, jax.devices()[:devices])
        state, frozen = (jax.device_put(tree, state_shardings(tree, mesh)) for tree in (state, frozen))
        assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves((state, frozen))} == {devices}
    checkpoints = Checkpoints(open_workdir(workdir, config), keep=1)
    checkpoints.save_frozen(frozen)
    checkpoints.save(1, state, config)
    checkpoints.close()
    return config


@pytest.mark.slow
def test_from_a_checkpoint_to_files_and_report(tmp_path):
    config = save_checkpoint(tmp_path / "run")
    for name, variant in (("qa-test", "qa"), ("text-test", "text")):
        write_dataset(tmp_path / "data" / name, GeneratedSource(variant, "test", 0, 3, grids=((2, 1),)))
    for name in ("docvqa", "docvqa_test", "mmlu", "humaneval"):
        miniature.write(tmp_path / "data", name)
    status, output = run(
        f"--checkpoint={tmp_path}/run", f"--data={tmp_path}/data", f"--out={tmp_path}/out",
        "--benchmarks=embedded,docvqa,docvqa_test,mmlu,humaneval", "--limit=1", "--max_new_tokens=3",
        "--views=vision,vision_blind", "--batch_size=8",
    )  # fmt: skip
    assert status == 0, output
    summary = json.loads((tmp_path / "out" / "results.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    views = ["vision"] * 8 + ["vision_blind"] * 8 + ["text"] * 8
    assert [line["view"] for line in lines] == [*views, "vision", "vision", "text", "text"]
    lines, others = lines[:-4], lines[-4:]
    assert [line["benchmark"] for line in others] == ["docvqa", "docvqa_test", "mmlu", "humaneval"]
    assert all(line["cut"] or len(line["ids"]) < 3 for line in others)
    assert (summary["arch"], summary["step"], summary["name"]) == ("d", 1, config.name)
    assert list(summary["params"]) == ["vision", "projector", "decoder"]
    right = sum(line["correct"] for line in lines if line["view"] == "vision")
    assert summary["accuracy"]["vision"] == right / 8 and summary["accuracy"]["vision_thumbnail"] is None
    assert all(line["correct"] == (line["output"] == line["answer"]) for line in lines)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "qa-test-0-0" in page and "&lt;tile_2&gt;" in page
    assert str(tmp_path / "out" / "report.html") in output
    check_results(summary, tmp_path / "out")


def check_results(summary: dict, out: pathlib.Path) -> None:
    """What results.json says beside the accuracies."""
    scores = summary["scores"]
    assert list(scores) == ["embedded", "docvqa", "docvqa_test", "mmlu", "humaneval"]
    assert scores["docvqa"]["items"] == 1 and 0 <= scores["docvqa"]["score"] <= 100
    assert scores["docvqa_test"]["score"] is None and scores["docvqa"]["paper"]["NVLM-D-72B"] == 92.6
    assert all(entry["seconds"] > 0 and len(entry["prompt_hash"]) == 16 for entry in scores.values())
    assert len(summary["checkpoint_hash"]) == 16 and summary["versions"]["jax"] and summary["text_average"] is None
    assert json.loads((out / "docvqa_test_submission.json").read_text())[0]["questionId"] == 1000
    assert "DocVQA val" in (out / "report.html").read_text()


@pytest.mark.slow
def test_killed_for_real_it_goes_on_and_asks_nothing_twice(tmp_path):
    save_checkpoint(tmp_path / "run")
    miniature.write(tmp_path / "data", "docvqa")
    flags = [
        f"--checkpoint={tmp_path}/run", f"--data={tmp_path}/data", "--benchmarks=docvqa,docvqa_test", "--batch_size=1",
        "--max_new_tokens=4",
    ]  # fmt: skip
    miniature.docvqa_parquet(tmp_path / "data/docvqa", "test")
    answers = tmp_path / "out" / "predictions.jsonl"
    process = Command("launch.evaluate", *flags, f"--out={tmp_path}/out").process
    while process.exitcode is None and not (answers.exists() and answers.read_text().count("\n") >= 4):
        time.sleep(0.01)
    process.kill()
    process.join()
    kept = answers.read_text().splitlines()[:4]
    assert not (tmp_path / "out" / "results.json").exists()

    status, output = run(*flags, f"--out={tmp_path}/out")
    assert status == 0, output
    lines = answers.read_text().splitlines()
    asked = {(record["benchmark"], record["id"]) for record in map(json.loads, lines)}
    assert len(lines) == len(asked) == 2 * miniature.COUNT
    assert set(kept) <= set(lines)  # seconds and all: they were not asked again
    status, output = run("--watch", "--poll_seconds=0.1", *flags, f"--out={tmp_path}/watched")
    assert status == 0, output
    watched = (tmp_path / "watched" / "step-1" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["ids"] for line in watched] == [json.loads(line)["ids"] for line in lines]
    assert json.loads((tmp_path / "watched" / "steps.jsonl").read_text())["step"] == 1


@pytest.mark.slow
def test_a_checkpoint_of_eight_devices_answers_alike_on_one_two_and_four(tmp_path):
    save_checkpoint(tmp_path / "run", devices=8)
    write_dataset(tmp_path / "data/qa-test", GeneratedSource("qa", "test", 0, 2, grids=((2, 1),), questions=3))
    flags = [f"--checkpoint={tmp_path}/run", f"--data={tmp_path}/data", "--embedded=qa-test", "--views=vision"]
    flags += ["--max_new_tokens=8", "--batch_size=1"]  # one row a call: the fewest programs
    calls = [[*flags, f"--devices={count}", f"--out={tmp_path}/{count}"] for count in (1, 2, 4)]
    done = command("tests.launch.calls", "evaluate", json.dumps(calls), env={"XLA_FLAGS": os.environ["XLA_FLAGS"]})
    assert json.loads(done.stdout.splitlines()[-1]) == [None] * 3, done.stderr
    lines = [(tmp_path / name / "predictions.jsonl").read_text().splitlines() for name in "124"]
    answers = [[(record["id"], record["ids"]) for record in map(json.loads, found)] for found in lines]
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]) == 6 and len({tuple(ids) for _, ids in answers[0]}) > 1


@pytest.mark.slow
def test_a_damaged_benchmark_is_left_out_and_the_others_are_done(tmp_path):
    save_checkpoint(tmp_path / "run")
    for name in ("gsm8k", "ocrbench", "docvqa"):
        miniature.write(tmp_path / "data", name, "challenge" if name == "docvqa" else None)
    for number in (1, 4):
        (tmp_path / f"data/docvqa/documents/xnbl0037_{number}.png").unlink()
    flags = [f"--checkpoint={tmp_path}/run", f"--data={tmp_path}/data", f"--out={tmp_path}/out", "--max_new_tokens=3"]
    done = command("launch.evaluate", *flags, "--benchmarks=gsm8k,docvqa,ocrbench", env={"COLUMNS": "30"})
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1] == "left out for the faults of their files: docvqa"
    assert "data[1]: its image" in done.stdout and "data[4]: its image" in done.stdout
    assert f"all faults: {tmp_path}/out/faults.jsonl" in done.stdout
    assert "left out, 2 faults" in done.stdout and "…" not in done.stdout and "items/s" in done.stdout
    assert len((tmp_path / "out/faults.jsonl").read_text().splitlines()) == 2
    summary = json.loads((tmp_path / "out/results.json").read_text())
    assert list(summary["scores"]) == ["gsm8k", "ocrbench"] and "data[4]: its image" in summary["missing"]["docvqa"]

    status, output = run(*flags, "--benchmarks=all")  # those that are not there were not asked for
    assert status == 1 and f"left out textvqa: textvqa: no files in {tmp_path}/data\n" in output
    miniature.write(tmp_path / "data", "docvqa", "challenge")
    status, output = run(*flags, "--benchmarks=all")
    assert status == 0 and "faults" not in output and not (tmp_path / "out/faults.jsonl").exists()


MISTAKES = [
    (["--benchmarks=embeded"], "--benchmarks: no embeded; there are embedded, ai2d, "),
    (["--share=2/2"], "--share: '2/2'; expected I/N with I from 0 to N - 1"),
    (["--views=blurred"], "--views: no blurred; there are vision, vision_blind"),
    (["--data=nowhere", "--benchmarks=docvqa"], "docvqa val: no files in nowhere; expected one of"),
    (["--data=nowhere", "--benchmarks=all"], "no benchmark can be read:"),
    (["--data=nowhere"], "nowhere/qa-test: no dataset here"),
]


def test_evaluate_says_what_it_cannot_do(tmp_path):
    tried = [["--checkpoint=none", f"--out={tmp_path}/out", *flags] for flags, _ in MISTAKES]
    done = command("tests.launch.calls", "evaluate", json.dumps(tried))
    assert done.returncode == 0, done.stderr
    for said, (_, message) in zip(json.loads(done.stdout.splitlines()[-1]), MISTAKES, strict=True):
        assert message in said
    status, output = run(*tried[0])  # and as a user sees it
    assert status == 1 and MISTAKES[0][1] in output
