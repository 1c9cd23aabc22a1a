"""Wrong paths at every command: a line that names the path, a status above 0, no traceback; nothing is waited for."""

import os

import pytest

from tests.commands import command

NAMED = "--config=configs/nvlm.py:arch=d,size=tiny,stage=sft"
GOLDEN = "tests/goldens/hf"
SWEEP = ("--config=configs/sweeps/smoke.py", "--workdir=@new", "--backend=slurm", "--dry_run")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Things that stand where something else is expected."""
    root = tmp_path_factory.mktemp("place")
    for folder in ("empty", "run/checkpoints/3", "evaluation", "claims", "raw"):
        (root / folder).mkdir(parents=True)
    (root / "file").write_text("text\n")
    (root / "binary").write_bytes(b"\x89PNG\xff\xfe\0\1" * 9)
    (root / "link").symlink_to("nowhere")
    os.mkfifo(root / "fifo")
    (root / "run" / "config.json").write_bytes(b"\xff\xfe\0")
    (root / "evaluation" / "results.json").write_text("{}")
    (root / "evaluation" / "pages.json").write_text("[]")
    (root / "claims" / "claim_1.json").write_text("[" * 100_000)
    (root / "three.py").write_text("def get_config(choices=''):\n    return 3\n")
    (root / "deep.yaml").write_text("[" * 100_000)
    return root


MISTAKES = {
    "a config of nothing": ("train", ["--config=@three.py", "--workdir=@new"], "get_config gives int; a ConfigDict"),
    "a config that is a folder": ("plan", ["--config=@empty", "--topology=h100:8"], "@empty"),
    "a checkpoint that is missing": (
        "generate",
        ["--checkpoint=@missing", "--prompt=a"],
        "@missing: no such directory",
    ),
    "a checkpoint that is a file": ("serve", ["--checkpoint=@binary", "--port=0"], "@binary: no such directory"),
    "a checkpoint that is a FIFO": ("generate", ["--checkpoint=@fifo", "--prompt=a"], "@fifo: no such directory"),
    "a step without files": ("convert", ["--to_hf=@new", "--checkpoint=@run"], "@run/checkpoints/3/meta"),
    "nothing to import": ("convert", ["--from_hf=@link", "--out=@new"], "@link: no config.json"),
    "an output in a file": ("convert", [f"--from_hf={GOLDEN}", "--out=@file/x"], "@file/x"),
    "no benchmarks": (
        "evaluate",
        [f"--checkpoint={GOLDEN}", "--out=@new", "--data=@file", "--benchmarks=mmlu"],
        "@file/mmlu",
    ),
    "no raw data": (
        "prepare",
        ["--out=@new", "--dataset=a", "--layout=json_conversations", "--raw=@missing"],
        "@missing",
    ),
    "no results": ("compare", ["--first=@empty", "--second=@link"], "@empty: no results.json"),
    "damaged results": (
        "compare",
        ["--first=@evaluation", "--second=@evaluation"],
        "@evaluation/results.json: holds no",
    ),
    "no sweep": ("report", ["--sweep=@empty", "--out=@new"], "@empty: no sweep.json"),
    "no sweep's status": ("sweep", ["--status=@binary"], "@binary: is, or lies in, a file"),
    "damaged claims": ("report", ["--claims=@claims", "--out=@new"], "claim_1.json: no JSON (its brackets nest too"),
    "a cluster's options that nest": (
        "sweep",
        [*SWEEP, "--cluster=@deep.yaml"],
        "--cluster=@deep.yaml: cannot be read",
    ),
    "a run that is binary": ("verify_order", ["--workdir=@run"], "@run/config.json: no JSON (not UTF-8"),
    "a page in a file": ("show_batch", [NAMED, "--picture=@file/x.png"], "@file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_path_is_a_line(mistake, place):
    name, flags, line = MISTAKES[mistake]
    root = f"{place}/"
    done = command(f"launch.{name}", *(flag.replace("@", root) for flag in flags))
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    said = done.stderr.strip().splitlines()
    assert line.replace("@", root) in done.stderr and len(said) < 8 and "object at 0x" not in done.stderr, done.stderr
