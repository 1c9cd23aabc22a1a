"""Sweep files and stand-ins for the commands that a sweep starts, quick enough to run many times.

The stand-ins write what launch.train and launch.evaluate write. A run whose name holds "broken" fails until a file
`mended` stands in the current directory; one whose name holds "slow" waits for a signal the first time.
"""

from __future__ import annotations

import pathlib
import textwrap

HEAD = """
from configs import nvlm
STAGES = ("pretrain", "sft")
SEEDS = (0, 1)

def get_config(argument=""):
    config = nvlm.get_config(f"{argument},size=tiny")
    config.train.steps, config.optimizer.warmup_steps = 4, 2
    return config

"""

TRAIN = """
import json, pathlib, signal, sys, time
flags = dict(item[2:].split("=", 1) for item in sys.argv[1:])
config = json.loads(pathlib.Path(flags["config"].split(":", 1)[1]).read_text())
workdir, steps = pathlib.Path(flags["workdir"]), config["train"]["steps"]
(workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
print("training", config["name"], "from", config["init"]["checkpoint"] or "nothing")
with open(workdir / "starts", "a") as starts:
    starts.write("x")
if "broken" in config["name"] and not pathlib.Path("mended").exists():
    sys.exit("the loss is not finite")
if "slow" in config["name"] and len((workdir / "starts").read_text()) == 1:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    time.sleep(60)
lines = []
for i in range(steps):
    time.sleep(config["optimizer"]["eps"] if config["optimizer"]["eps"] > 1e-3 else 0)
    line = {"step": i + 1, "loss": 10 * config["optimizer"]["learning_rate"] + 1 / (i + 1), "loss/word": 0.25}
    line |= {"samples_per_second": 4.0, "seconds": 0.5, "samples": 2}
    if config["model"]["arch"] == "x":
        line |= {"tanh_gate/attention_gate/0": 0.1, "tanh_gate/attention_gate/1": 0.2}
    with open(workdir / "metrics.jsonl", "a") as metrics:
        metrics.write(json.dumps(line) + "\\n")
(workdir / "checkpoints" / str(steps)).mkdir()
"""

EVALUATE = """
import json, pathlib, sys
flags = dict(item[2:].split("=", 1) for item in sys.argv[1:])
checkpoint, out = pathlib.Path(flags["checkpoint"]), pathlib.Path(flags["out"])
assert checkpoint.is_dir()
with open(str(out) + ".starts", "a") as starts:
    starts.write("x")
out.mkdir(exist_ok=True)
config = json.loads((checkpoint.parents[2] / "sft.json").read_text())
right = {"1d": 6, "none": 4, "grid": 5, "box": 5}[config["inputs"]["tile_tags"]] + config["seed"]
fields = {"sample": "s", "view": "vision", "type": "word", "kind": "content", "prompt": "?", "answer": "A"}
fields["output"] = "A"
predictions = [{"id": f"s/{i}", "correct": i < right, "score": float(i < right), **fields} for i in range(10)]
share = {"vision": right / 10, "text": 1.0, "by_type": {"word": right / 10, "text": 1.0}}
share["by_kind"] = {"content": right / 10}
summary = {"accuracy": share, "params": {"decoder": 100, "projector": 10}, "device": "cpu", "checkpoint_hash": "0" * 16}
(out / "predictions.jsonl").write_text("".join(json.dumps(p) + "\\n" for p in predictions))
(out / "pages.json").write_text("[]")
(out / "results.json").write_text(json.dumps(summary))
"""


def write_sweep(path: pathlib.Path, body: str, head: str = HEAD) -> pathlib.Path:
    """A sweep file of the head and `body`."""
    path.write_text(head + textwrap.dedent(body))
    return path


def write_stand_ins(folder: pathlib.Path) -> tuple[str, str]:
    """Modules that stand for launch.train and launch.evaluate, importable from `folder`."""
    (folder / "stand_in_train.py").write_text(TRAIN)
    (folder / "stand_in_evaluate.py").write_text(EVALUATE)
    return "stand_in_train", "stand_in_evaluate"
