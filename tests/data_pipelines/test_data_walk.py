"""docs/data.md: its commands and its Python, on a small dataset in TextVQA's layout."""

import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np

from data_pipelines.generated.samples import generate
from tests.data_pipelines.raw_files import put

REPO = pathlib.Path(__file__).parents[2]
DOC = (REPO / "docs" / "data.md").read_text()


def test_the_ten_lines_of_the_docs(tmp_path, monkeypatch):
    shell, python = (re.search(rf"```{kind}\n(.*?)```", DOC, re.S).group(1) for kind in ("sh", "python"))
    assert len(shell.splitlines()) + len(python.splitlines()) == 10
    images = [generate("qa", "train", 0, i, grids=((1, 1),)).images[0] for i in range(12)]
    files = {f"raw/textvqa/train_images/{i:016x}.jpg": image for i, image in enumerate(images)}
    notes = [
        {"question": f"number {i % 12}?", "image_id": f"{i % 12:016x}", "question_id": i, "answers": ["yes"] * 10}
        for i in range(24)
    ]
    put(tmp_path, files | {"raw/textvqa/TextVQA_0.5.1_train.json": {"dataset_version": "0.5.1", "data": notes}})
    (tmp_path / "nvlm_jax").symlink_to(
        REPO / "nvlm_jax"
    )  # the tiny run's tokenizer is named relative to the repository
    command = shlex.split(shell.splitlines()[-1])
    assert command[:3] == ["python", "-m", "launch.prepare"]
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    done = subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "textvqa: 12 samples" in done.stdout and "wrong_extension: 12" in done.stdout
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(python, names)
    batch, info = names["batch"], names["info"]
    assert info.samples == info.read and not info.bad and info.samples >= 4
    assert np.count_nonzero(batch.loss_weights) and batch.tiles.any()
