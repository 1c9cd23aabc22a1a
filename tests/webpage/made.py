"""Every page of the project, made by the functions that make it, of results as long and as wide as real ones."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from configs.nvlm import get_config
from data_pipelines import embedded, show
from launch.show_batch import tiles_seen
from nvlm_jax.config import DatasetConfig, InputConfig, RunConfig, from_mapping
from nvlm_jax.evaluation import pages, paper, report, results
from nvlm_jax.evaluation.question import Prediction
from nvlm_jax.planning import page as plan_page
from nvlm_jax.serving import app
from nvlm_jax.sweeps import page as sweep_page
from nvlm_jax.sweeps import store
from nvlm_jax.sweeps.variants import load
from nvlm_jax.webpage import template

TYPES = ("word", "number", "handwriting", "chart", "table", "count")
PARTS = ("vision", "projector", "decoder", "cross_attention")
LONG = "a picture of a very long answer with many words " * 6
SWEEP = """
from configs import nvlm
STAGES = ("pretrain", "sft")
SEEDS = (0, 1)

def get_config(argument=""):
    return nvlm.get_config(f"{argument},size=tiny")

def sweep(add):
    add("arch=d", label="d")
    for tags in ("none", "grid", "box"):
        add("arch=d", {"inputs.tile_tags": tags}, label=f"d-tags-{tags}")
    add("arch=x", label="x")
    add("arch=h", {"inputs.tile_tags": "none"}, label="h-without-tags")
"""


def picture(width: int = 192, height: int = 128) -> bytes:
    pixels = np.add.outer(np.arange(height), np.arange(width))[..., None] % 256 * np.ones(3)
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


# ---- evaluation


def quickstart_report(path: pathlib.Path) -> None:
    """Three architectures on generated pages, with losses and gates of both stages."""
    runs = [_embedded_run(f"NVLM-{arch.upper()}", arch, seed) for seed, arch in enumerate("dxh")]
    report.write_report(path, runs, "NVLM quickstart: NVLM-D, NVLM-X, NVLM-H")


def _embedded_run(label: str, arch: str, seed: int) -> report.Run:
    rng = np.random.default_rng(seed)
    predictions = []
    for page in range(20):
        for question, kind in enumerate(("content", "place", "content")):
            for view in ("vision", "vision_blind", "vision_thumbnail"):
                right = rng.random() < {"vision": 0.7, "vision_blind": 0.05, "vision_thumbnail": 0.1}[view]
                fields = (f"qa-test-0-{page}/{question}", f"qa-test-0-{page}", view, TYPES[(page + question) % 6], kind)
                text = f"<image>\nnumber at [{'kmpw'[page % 4]}]?"
                predictions.append(Prediction(*fields, text, "number", "number" if right else "handwriting", right))
    for i in range(8):
        text = f"repeat after me: {'quick brown fox ' * 3}{i}."
        fields = (f"text-test-0-{i}/0", f"text-{i}", "text", "text", "text", text)
        predictions.append(Prediction(*fields, "fox", "fox", True))
    shown = [f"qa-test-0-{i}" for i in (0, 1, 5 + seed, 9 + seed)]
    summary = {
        "checkpoint": f"runs/quickstart/{arch}/sft/checkpoints/400",
        "step": 400,
        "arch": arch,
        "accuracy": results.accuracy(predictions),
        "counts": results.counts(predictions),
        "params": dict.fromkeys(PARTS, 1234567),
    }
    described = pages.describe_pages(shown, {name: (picture(),) for name in shown}, InputConfig(), 64)
    training = {stage: [_metrics(arch, step) for step in range(1, 401, 4)] for stage in ("pretrain", "sft")}
    return report.Run(label, summary, predictions, described, training)


def _metrics(arch: str, step: int) -> dict[str, float]:
    gates = {
        f"tanh_gate/{gate}/{layer}": math.tanh(step * (layer + 1) / 2000)
        for gate in ("attention_gate", "mlp_gate")
        for layer in range(2)
        if arch != "d"
    }
    return {"step": step, "loss": 5 * math.exp(-step / 90) + 0.1} | gates


def evaluation_report(path: pathlib.Path) -> None:
    """Benchmarks whose answers are lists and dicts; the paper has numbers of the 72B model alone for some of them."""
    report.write_report(path, [_benchmark_run("NVLM-D", "d")], "a run: mmmu, mathvista, docvqa, humaneval, mmlu")


def _benchmark_run(label: str, arch: str) -> report.Run:
    answers: dict[str, Any] = {
        "mmmu": {"letter": "B", "options": {"A": "mitochondrion", "B": "chloroplast"}, "open": False},
        "mathvista": {"answer": "1.2", "precision": 1.0, "unit": None, "choices": None},
        "docvqa": ["4 May 1971", "May 4, 1971"],
        "humaneval": {"entry_point": "add", "test": "assert add(1, 2) == 3"},
        "mmlu": "C",
    }
    predictions, examples, scores = [], [], {}
    uri = pages.data_uri(Image.open(io.BytesIO(picture())))
    for name, answer in answers.items():
        for i, right in enumerate((True, False, True)):
            key, view = f"{name}-{i}", "text" if name in paper.TEXT else "vision"
            fields = (key, key, view, "biology", "", f"<image>\n{LONG}", answer, LONG, right)
            predictions.append(Prediction(*fields, name, float(right), "B"))
            shown = [uri] if view == "vision" else []
            examples.append({"benchmark": name, "correct": right, "id": key, "pictures": shown})
        numbers = {m: paper.NUMBERS[m][name] for m in paper.models_of(arch) if name in paper.NUMBERS[m]}
        scores[name] = {
            "title": f"{name} validation", "score": 66.6, "interval": [65.1, 68.2], "items": 1000, "unparsed": 3,
            "cut": 1, "items_per_second": 12.5, "paper": numbers if view == "text" else {},
            "parts": {"biology": {"score": 70.0, "items": 500}, "physics": {"score": None, "items": 500}},
        }  # fmt: skip
    summary = {"checkpoint": "runs/x/sft", "step": 30, "arch": arch, "params": {"decoder": 10**9}, "scores": scores}
    return report.Run(label, summary, predictions, [], {}, examples)


# ---- sweeps and plans


def sweep_report(path: pathlib.Path) -> None:
    """Six variants of two seeds, one of them without results; `path`'s folder gets the sweep's files."""
    file = path.parent / "tags.py"
    file.write_text(SWEEP)
    sweep = load(str(file), lambda config: ())
    root = path.parent / "sweep"
    store.open_sweep(sweep, root)
    runs = store.runs_of(sweep, root)
    for place, run in enumerate(runs[:-1]):
        _finish(run, place)
    sweep_page.write(path, *store.read_runs(root))


def _finish(run: store.Run, place: int) -> None:
    arch = run.variant.name[0]
    for stage in run.stages:
        workdir = run.workdir(stage)
        workdir.mkdir(parents=True, exist_ok=True)
        lines = [_metrics(arch, step) for step in range(1, 401, 4)]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    share = 0.6 + place / 60
    kinds = {"content": share, "place": share - 0.1}
    record = {
        "variant": run.variant.name, "seed": run.seed,
        "accuracy": {"vision": share, "by_type": dict.fromkeys(TYPES, share), "by_kind": kinds},
        "params": {"decoder": 919_680}, "parameters": 1_878_784 + 7e5 * (arch != "d"), "trained_parameters": 9e5,
        "flops": 1.34e11 * (1 + place / 10), "seconds": 90.0 + place, "samples_per_second": 60.0, "loss": 0.1,
        "commit": "abcdef0", "device": "cpu",
        "gates": {} if arch == "d" else {"attention_gate": [0.1, 0.2], "mlp_gate": [0.05, 0.3]},
    }  # fmt: skip
    (run.path / "results.json").write_text(json.dumps(record))


def plan_report(path: pathlib.Path) -> None:
    """A plan of a 72B run, with numbers as `launch.plan` writes them."""
    modules = {"vision": 3.1e15, "projector": 2.2e14, "decoder": 1.1e17, "head": 6.2e15, "cross_attention": 0.0}
    seconds = {"compute": 4.25, "memory": 2.5, "network:fsdp": 1.75, "network:data,fsdp": 0.001}
    plan = {
        "name": "nvlm-d-72b-sft", "mesh": {"data": 1, "fsdp": 32, "tensor": 4}, "chips": 128, "topology": "v5p:4x4x8",
        "method": "compiled for that slice", "batch_rows": 128, "accumulation": 1, "remat": "full", "refused": False,
        "hbm_gib": 71.3, "hbm_limit_gib": 94.8, "fits": True, "step_seconds": 8.501, "step_seconds_overlap": 4.25,
        "mfu_no_overlap": 0.24, "mfu_overlap": 0.48, "binding": "compute", "flops_by_module": modules,
        "executed_flops_by_module": {name: 1.3 * count for name, count in modules.items()},
        "padding_share_of_flops": 0.064, "samples_per_second": 31.5, "tokens_per_second": 123456.0,
        "tiles_per_second": 220.5, "loader_mib_per_second_per_host": 12.5, "days": 3.2, "chip_hours": 9876.0,
        "compile_seconds": 120.0, "compile_cpu_seconds": 220.0, "hbm_gib_compiled_for_cpu": 80.1,
        "hbm_gib_by_kind": {"parameters": 33.5, "optimizer": 22.0, "frozen": 0.6, "batch": 0.2, "temporary": 15.0},
        "seconds_by_resource": seconds, "collective_bytes_by_axis": {"fsdp": 2.5e11},
        "advice": "a long sentence of advice that says which flag would make this plan fit into the memory of a chip",
    }  # fmt: skip
    plan_page.write_page(path, plan)


# ---- data and chat


def batch_page(path: pathlib.Path) -> None:
    """Two rows of NVLM-H at size tiny on generated pages."""
    embedded.prepare(path.parent / "data", ["qa", "text"], samples=40, processes=0)
    config = from_mapping(RunConfig, get_config("arch=h,size=tiny,stage=sft").to_dict())
    blend = tuple(DatasetConfig(name, f"{path.parent}/data/{name}", 1.0) for name in ("qa", "text"))
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, blend=blend, workers=0),
        train=dataclasses.replace(config.train, steps=2),
    )
    shown = show.read_batch(config, 0, 2)
    show.write_page(path, show.describe(shown, tiles_seen(config.model, shown.batch)))


def chat_page(path: pathlib.Path) -> None:
    """As the server sends it."""
    path.write_text(template.render(app.PAGE), encoding="utf-8")


PAGES = {
    "quickstart": quickstart_report,
    "evaluation": evaluation_report,
    "sweep": sweep_report,
    "plan": plan_report,
    "batch": batch_page,
    "chat": chat_page,
}
